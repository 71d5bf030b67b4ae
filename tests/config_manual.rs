//! The documented `pooler.yaml` and `docs/configuration.md` say what the code does: every key, and
//! the defaults that are in force.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pgweir::config::{Config, Environment, Setting, describe, load, schema};
use serde_json::Value;

/// Key paths of the schema: `pool.size`, `databases.*.primary.address`.
fn keys() -> BTreeSet<String> {
    fn walk(root: &Value, node: &Value, path: &str, out: &mut BTreeSet<String>) {
        if let Some(reference) = node["$ref"].as_str() {
            walk(root, root.pointer(reference.trim_start_matches('#')).unwrap(), path, out);
        }
        for alternative in node["anyOf"].as_array().into_iter().flatten() {
            walk(root, alternative, path, out);
        }
        if node["items"].is_object() {
            walk(root, &node["items"], path, out);
        }
        if node["additionalProperties"].is_object() {
            walk(root, &node["additionalProperties"], &format!("{path}.*"), out);
        }
        for (key, node) in node["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // Overrides have the keys of the section they override.
            let is_override = path.contains('*') && (key == "pool" || key == "routing");
            if !is_override {
                walk(root, node, &path, out);
            }
            out.insert(path);
        }
    }
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    let mut out = BTreeSet::new();
    walk(&schema, &schema, "", &mut out);
    out
}

/// `pooler.yaml` with its commented settings in force: prose is `# ` and one space.
fn uncommented() -> String {
    let text = fs::read_to_string("pooler.yaml").unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let setting = rest.strip_prefix('#').filter(|r| !r.starts_with(' ') || r.starts_with("  "));
        out.push_str(indent);
        out.push_str(setting.unwrap_or(rest));
        out.push('\n');
    }
    out
}

fn load_uncommented() -> Config {
    let directory = tempfile::tempdir().unwrap();
    for file in ["server.crt", "server.key", "root.crt"] {
        fs::write(directory.path().join(file), "").unwrap();
    }
    let path = directory.path().join("pooler.yaml");
    fs::write(&path, uncommented().replace("/etc/pgweir", &directory.path().display().to_string())).unwrap();
    load(&path, &Environment::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Settings whose line in pooler.yaml is an example, because the default is that there is none.
const EXAMPLES: &[&str] = &[
    "http",
    "tls.client.certificate",
    "tls.client.key",
    "tls.server.ca",
    "health.user",
    "routing.zone",
    "admin.users",
    "admin.stats_users",
];

fn ours(config: &Config) -> Vec<Setting> {
    let keys = keys();
    describe(config).into_iter().filter(|setting| keys.contains(setting.key)).collect()
}

#[test]
fn pooler_yaml_loads_as_it_stands() {
    let config = load(Path::new("pooler.yaml"), &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    let database = config.database("anything").unwrap();
    assert_eq!((database.primary.host.as_str(), database.primary.port), ("localhost", 5432));
    for setting in describe(&config) {
        assert_eq!(setting.value, setting.default, "{} is live in pooler.yaml", setting.key);
    }
}

#[test]
fn pooler_yaml_shows_the_defaults_in_force() {
    let settings = ours(&load_uncommented());
    assert!(settings.len() > 30, "describe lists too few keys");
    for setting in settings {
        if EXAMPLES.contains(&setting.key) {
            assert_ne!(setting.value, setting.default, "{} has no example in pooler.yaml", setting.key);
        } else {
            assert_eq!(setting.value, setting.default, "{} in pooler.yaml", setting.key);
        }
    }
}

#[test]
fn pooler_yaml_has_every_key() {
    fn walk(value: &serde_yaml::Value, path: &str, out: &mut BTreeSet<String>) {
        for value in value.as_sequence().into_iter().flatten() {
            walk(value, path, out);
        }
        for (key, value) in value.as_mapping().into_iter().flatten() {
            let key = key.as_str().unwrap();
            let key = if path == "databases" || path == "users" { "*" } else { key };
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            walk(value, &path, out);
            out.insert(path);
        }
    }
    let mut found = BTreeSet::new();
    walk(&serde_yaml::from_str(&uncommented()).unwrap(), "", &mut found);
    let text = fs::read_to_string("pooler.yaml").unwrap();
    for key in keys() {
        // A primary is written like a replica; the longer form is shown once.
        let shown = found.contains(&key) || found.contains(&key.replace("primary.", "replicas."));
        assert!(shown, "{key} is not in pooler.yaml");
    }
    assert!(!text.contains('\t'), "YAML has no tabs");
}

#[test]
fn the_manual_has_every_key_with_its_default() {
    let text = fs::read_to_string("docs/configuration.md").unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect())
        .collect();
    let row = |key: &str| rows.iter().find(|row| row.first() == Some(&format!("`{key}`").as_str()));
    for key in keys() {
        let is_section = keys().iter().any(|other| other.starts_with(&format!("{key}.")));
        assert!(is_section || row(&key).is_some(), "`{key}` has no row in docs/configuration.md");
    }
    for setting in ours(&load_uncommented()) {
        let row = row(setting.key).unwrap();
        let default = if setting.default.is_empty() { "none" } else { &setting.default };
        assert_eq!(row[1], default, "default of {} in docs/configuration.md", setting.key);
        let reload = if setting.changeable { "yes" } else { "no" };
        assert_eq!(row[2], reload, "reload of {} in docs/configuration.md", setting.key);
    }
}

#[test]
fn the_schema_describes_every_key() {
    fn walk(node: &Value, missing: &mut Vec<String>) {
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                missing.push(key.clone());
            }
        }
        match node {
            Value::Object(map) => map.values().for_each(|value| walk(value, missing)),
            Value::Array(list) => list.iter().for_each(|value| walk(value, missing)),
            _ => {}
        }
    }
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(
        schema["properties"]["pool"]["description"],
        "Pool settings; a database or a user may override them."
    );
    let mut missing = Vec::new();
    walk(&schema, &mut missing);
    assert!(missing.is_empty(), "no description: {missing:?}");
}
