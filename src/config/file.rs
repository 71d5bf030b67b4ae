//! Reads the configuration file. The only place that touches the file system, and the only one
//! that names the YAML library.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::errors::{Complaint, ConfigErrors, Origin, Place, Problems};
use super::locate::locate;
use super::node::Node;
use super::resolve::{Outside, resolve};
use super::{Config, Environment};

/// Larger files than this are not configurations.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The YAML library's time grows with the square of the nesting, and it refuses much less than this.
const BRACKET_DEPTH_MAX: usize = 1000;

/// Where a configuration is looked for when neither flag nor variable names it.
const PLACES: &[&str] = &["pooler.yaml", "/etc/pgweir/pooler.yaml"];

/// The configuration file to use: the flag, `PGWEIR_CONFIG`, `./pooler.yaml`,
/// `/etc/pgweir/pooler.yaml`. The first two are taken as they are; `None` when nothing is there.
pub fn find(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    let named = flag.map(Path::to_path_buf).or_else(|| environment.get("PGWEIR_CONFIG").map(PathBuf::from));
    named.or_else(|| PLACES.iter().map(PathBuf::from).find(|path| path.exists()))
}

/// Reads the file at `path`, lays `PGWEIR__…` variables over it, and checks it all.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
    let text =
        read(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other)).map_err(|error| {
            let complaint = Complaint::new(format!("cannot read the file: {error}"));
            ConfigErrors::one(Some(path), complaint)
        })?;
    let root = parse(&text).map_err(|(place, complaint)| {
        let mut problems = Problems::default();
        problems.push(&place, complaint);
        problems.into_errors(Some(path))
    })?;
    resolve(root, &Outside { environment, read: &read, file: Some(path) })
}

/// The tree of a YAML text, with positions.
pub(super) fn parse(text: &str) -> Result<Node, (Place, Complaint)> {
    if bracket_depth(text) > BRACKET_DEPTH_MAX {
        return Err((Place::root(), Complaint::new("not valid YAML: brackets are nested too deeply")));
    }
    let mut root: Node = serde_yaml::from_str(text).map_err(|error| {
        let origin =
            error.location().map_or(Origin::Whole, |l| Origin::File { line: l.line(), column: l.column() });
        // The library's message ends with the place, which we show in our own way.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        (Place { origin, path: String::new() }, Complaint::new(format!("not valid YAML: {message}")))
    })?;
    locate(&mut root, text);
    Ok(root)
}

/// How deep brackets are nested, at most; those in comments and quotes are counted too.
fn bracket_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The content of a file, if it is not absurdly large.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::node::Value;

    /// Calls `see` with the key and the origin of every entry of every mapping.
    fn entries(node: &Node, see: &mut impl FnMut(&str, &Origin)) {
        match &node.value {
            Value::Map(map) => {
                for entry in map {
                    see(&entry.key, &entry.origin);
                    entries(&entry.node, see);
                }
            }
            Value::List(nodes) => nodes.iter().for_each(|node| entries(node, see)),
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    fn check(text: &str) {
        if let Ok(root) = parse(text) {
            let environment = Environment::default();
            let read = |_: &Path| Err(io::Error::other("no files here"));
            let _ = resolve(root, &Outside { environment: &environment, read: &read, file: None });
        }
    }

    #[test]
    fn every_key_is_where_its_position_says() {
        for file in ["tests/config/good_full.yaml", "pooler.yaml"] {
            let text = fs::read_to_string(file).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let mut count = 0;
            entries(&parse(&text).unwrap_or_else(|_| panic!("{file}")), &mut |key, origin| {
                let Origin::File { line, column } = origin else { panic!("{key} has no place") };
                let rest = &lines[line - 1][column - 1..];
                assert!(
                    rest.trim_start_matches('"').starts_with(key),
                    "{key} is not at {line}:{column} of {file}"
                );
                count += 1;
            });
            assert!(count > 5, "{file} has too few keys to prove anything");
        }
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " ".repeat(2 << 20)).unwrap();
        let errors = load(file.path(), &Environment::default()).unwrap_err().to_string();
        assert!(errors.contains("larger than 1 MiB"), "{errors}");
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(500), "]".repeat(500))).is_err());
        assert!(parse(&"a: {".repeat(100_000)).is_err());
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (outer, inner) in ('b'..='i').zip('a'..='h') {
            let nine = vec![format!("*{inner}"); 9].join(", ");
            bomb = format!("{bomb}{outer}: &{outer} [{nine}]\n");
        }
        assert!(parse(&bomb).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", yaml in "[-?:,\\[\\]{}#&*!|>'\"%@` a-c0\n]*") {
            check(&text);
            check(&yaml);
        }

        #[test]
        fn no_mutilated_file_panics(at in 0..3000usize, length in 0..20usize, put in "[-:{}\\[\\]\"#&*|\n a0<]{0,3}") {
            let mut text = include_str!("../../tests/config/good_full.yaml").to_owned();
            let start = at.min(text.len());
            let end = (start + length).min(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(end) {
                text.replace_range(start..end, &put);
            }
            check(&text);
        }
    }
}
