//! The JSON schema of `pooler.yaml`, for editors and for tests of the manual.

use serde_json::{Value, json};

use super::raw::RawConfig;

/// The JSON schema of `pooler.yaml`.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(RawConfig).to_value();
    refuse_null(&mut schema);
    // `{:#}` prints indented and, unlike a serializer, cannot fail.
    format!("{schema:#}\n")
}

/// Sections may be empty (`pool:` with everything below it commented out), single settings may not:
/// takes back the null that an optional key is given.
fn refuse_null(node: &mut Value) {
    match node {
        Value::Array(nodes) => nodes.iter_mut().for_each(refuse_null),
        Value::Object(map) => {
            map.values_mut().for_each(refuse_null);
            if let Some(Value::Array(types)) = map.get_mut("type")
                && !types.contains(&json!("object"))
            {
                types.retain(|kind| kind != "null");
            }
            if let Some(Value::Array(alternatives)) = map.get_mut("anyOf")
                && !alternatives.iter().any(|a| a.get("$ref").is_some())
            {
                alternatives.retain(|a| a != &json!({"type": "null"}));
            }
        }
        _ => {}
    }
}
