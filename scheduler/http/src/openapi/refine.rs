//! Additions to the derived description: bounds that are settings, and rules between fields.

use serde_json::{Value, json};
use wasmill_api::check::{ARGS_MAX, DELAY_MS_MAX, FUEL_MAX, LABEL_VALUE_CHARS_MAX, LABELS_MAX, QUOTA_MAX, REQUIRE_MAX};
use wasmill_protocol::limits::Caps;

/// A digest or an alias.
const MODULE: &str = "^(sha256:[0-9a-f]{64}|(?!sha256:)[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?)$";
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
const NO_CONTROL: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
const NO_ZERO: &str = r"^[^\u0000]*$";

/// Makes the description as strict as the server is.
pub(super) fn refine(api: &mut Value, caps: &Caps) {
    for (schema, field, max) in bounds(caps) {
        let field = property(api, schema, field);
        field["maximum"] = max.into();
        // The format would say that 2^63 is the most.
        if let Some(field) = field.as_object_mut() {
            field.remove("format");
        }
    }
    let texts = |max: usize, keys: &str| json!({"type": ["object", "null"], "maxProperties": max, "propertyNames": {"pattern": keys}});
    for (field, max) in [("labels", LABELS_MAX), ("require", REQUIRE_MAX)] {
        merge(property(api, "SubmitTask", field), texts(max, "^[A-Za-z0-9._/-]{1,63}$"));
        property(api, "SubmitTask", field)["additionalProperties"]["maxLength"] = LABEL_VALUE_CHARS_MAX.into();
    }
    merge(property(api, "SubmitTask", "env"), texts(ARGS_MAX, r"^[^=\u0000]+$"));
    property(api, "SubmitTask", "env")["additionalProperties"]["pattern"] = NO_ZERO.into();
    property(api, "SubmitTask", "args")["items"]["pattern"] = NO_ZERO.into();
    property(api, "SubmitTask", "module")["pattern"] = MODULE.into();
    let seed = property(api, "SubmitTask", "seed");
    seed["type"] = json!(["integer", "string", "null"]);
    // All that fits, but for some of twenty digits.
    seed["pattern"] = "^[0-9]{1,19}$".into();
    property(api, "SubmitTask", "input_base64")["pattern"] = BASE64.into();
    property(api, "SubmitTask", "idempotency_key")["pattern"] = NO_CONTROL.into();
    api["components"]["schemas"]["SubmitTask"]["allOf"] = rules();
    refine_parameters(api, caps);
    refine_answers(&mut api["components"]["schemas"]);
}

/// Fields of answers that are absent when they do not apply; every other field is always there.
const ABSENT_AT_TIMES: [(&str, &[&str]); 11] = [
    ("TaskDoc", &["input", "input_text", "input_base64", "output_text", "output_base64"]),
    (
        "TaskEventDoc",
        &[
            "attempt",
            "host",
            "outcome",
            "message",
            "fuel",
            "cached",
            "state",
            "not_before",
            "priority",
            "reason",
            "bytes",
            "times",
        ],
    ),
    ("Problem", &["field", "task", "limit", "line"]),
    ("ModuleDoc", &[]),
    ("HostDoc", &[]),
    ("StatusDoc", &["queue", "hosts", "policies_benched"]),
    ("Caps", &[]),
    ("BenchedDoc", &[]),
    ("TenantDoc", &[]),
    ("Limits", &[]),
    ("Quotas", &[]),
];

/// The types of answers can be read from older servers too, so every field of them has a default;
/// this server writes all.
fn refine_answers(schemas: &mut Value) {
    let Some(schemas) = schemas.as_object_mut() else { return };
    // Entries of pages are described in full once, under their own name.
    let pages: Vec<String> = schemas.keys().filter(|name| name.starts_with("Page_")).cloned().collect();
    for page in pages {
        let name = page.trim_start_matches("Page_").to_owned();
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        let entry = std::mem::replace(&mut schemas[&page]["properties"]["items"]["items"], reference);
        schemas.entry(name).or_insert(entry);
    }
    for (name, absent) in ABSENT_AT_TIMES {
        let Some(schema) = schemas.get_mut(name) else { continue };
        let Some(properties) = schema["properties"].as_object_mut() else { continue };
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("default");
        }
        let required: Vec<String> =
            properties.keys().filter(|field| !absent.contains(&field.as_str())).cloned().collect();
        schema["required"] = required.into();
    }
}

/// Rules between the fields of a submission. A field that is `null` is as good as absent.
fn rules() -> Value {
    let absent = |field: &str| json!({"properties": {field: {"type": "null"}}});
    let without_input = json!({"not": {"required": ["input"]}});
    json!([
        {"anyOf": [absent("not_before"), absent("delay_ms")]},
        {"anyOf": [absent("input_text"), absent("input_base64")]},
        {"anyOf": [without_input, {"allOf": [absent("input_text"), absent("input_base64")]}]},
        {"anyOf": [absent("seed"), {"required": ["deterministic"], "properties": {"deterministic": {"const": true}}}]},
    ])
}

/// Numeric fields whose bound is a setting or not a power of two.
pub(super) fn bounds(caps: &Caps) -> Vec<(&'static str, &'static str, u64)> {
    let mut bounds = vec![
        ("LimitsAsked", "cpu_ms", caps.cpu_ms),
        ("LimitsAsked", "fuel", FUEL_MAX),
        ("LimitsAsked", "memory_bytes", caps.memory_bytes),
        ("LimitsAsked", "wall_ms", caps.wall_ms),
        ("LimitsAsked", "output_bytes", caps.output_bytes),
        ("SubmitTask", "attempts_max", u64::from(caps.attempts)),
        ("SubmitTask", "backoff_ms", caps.backoff_ms),
        ("SubmitTask", "backoff_ms_max", caps.backoff_ms),
        ("SubmitTask", "delay_ms", DELAY_MS_MAX),
        ("SubmitTask", "expires_ms", DELAY_MS_MAX),
        ("SubmitTask", "seed", u64::MAX),
        ("TaskDoc", "seed", u64::MAX),
    ];
    let quotas = [
        "tasks_queued",
        "tasks_running",
        "memory_bytes",
        "modules",
        "module_bytes",
        "compile_ms_per_s",
        "stored_bytes",
    ];
    bounds.extend(quotas.map(|quota| ("QuotasChange", quota, QUOTA_MAX)));
    bounds
}

fn refine_parameters(api: &mut Value, caps: &Caps) {
    for (path, method, name, field, value) in [
        ("/v1/run/{module}", "post", "cpu_ms", "maximum", json!(caps.cpu_ms)),
        ("/v1/run/{module}", "post", "fuel", "maximum", json!(FUEL_MAX)),
        ("/v1/run/{module}", "post", "memory_bytes", "maximum", json!(caps.memory_bytes)),
        ("/v1/run/{module}", "post", "wall_ms", "maximum", json!(caps.wall_ms)),
        ("/v1/run/{module}", "post", "output_bytes", "maximum", json!(caps.output_bytes)),
        ("/v1/run/{module}", "post", "arg", "items", json!({"type": "string", "pattern": NO_ZERO})),
        ("/v1/run/{module}", "post", "arg", "maxItems", json!(ARGS_MAX)),
        ("/v1/run/{module}", "post", "module", "pattern", json!(MODULE)),
        ("/v1/tasks", "get", "module", "pattern", json!(MODULE)),
        ("/v1/tasks", "get", "label", "items", json!({"type": "string", "pattern": "="})),
        ("/v1/tasks", "get", "label", "maxItems", json!(32)),
        ("/v1/tasks", "get", "state", "maxItems", json!(16)),
        ("/v1/tasks", "post", "Idempotency-Key", "pattern", json!(NO_CONTROL)),
        ("/v1/run/{module}", "post", "Idempotency-Key", "pattern", json!(NO_CONTROL)),
        ("/v1/tasks/{id}/retry", "post", "Idempotency-Key", "pattern", json!(NO_CONTROL)),
        ("/v1/modules", "post", "Wasmill-Digest", "pattern", json!("^sha256:[0-9a-f]{64}$")),
        (
            "/v1/modules",
            "post",
            "alias",
            "pattern",
            json!("^(?!sha256:)[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?$"),
        ),
    ] {
        let parameters = api["paths"][path][method]["parameters"].as_array_mut();
        let mut parameters = parameters.into_iter().flatten();
        let parameter = parameters.find(|parameter| parameter["name"] == name);
        parameter.unwrap_or_else(|| unreachable!("{method} {path} has no parameter {name}"))["schema"][field] = value;
    }
    // A parameter that is absent is absent: `null` is a word like any other in a query.
    for item in api["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        let operations = item.as_object_mut().into_iter().flat_map(|operations| operations.values_mut());
        for parameter in operations.filter_map(|operation| operation.get_mut("parameters")?.as_array_mut()).flatten() {
            if let Some(not_null) = parameter["schema"]["type"].as_array().and_then(|types| types.first()).cloned() {
                parameter["schema"]["type"] = not_null;
            }
        }
    }
}

fn property<'a>(api: &'a mut Value, schema: &str, field: &str) -> &'a mut Value {
    &mut api["components"]["schemas"][schema]["properties"][field]
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nulls(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Null => found.push(path.to_owned()),
            Value::Array(items) => items.iter().for_each(|item| nulls(item, path, found)),
            Value::Object(fields) => {
                fields.iter().for_each(|(name, field)| nulls(field, &format!("{path}/{name}"), found));
            }
            _ => {}
        }
    }

    #[test]
    fn everything_that_is_refined_exists() {
        let api: Value = serde_json::from_str(&super::super::document(&Caps::default(), "1")).unwrap();
        // Indexing what is not there would leave one behind.
        let mut found = Vec::new();
        nulls(&api, "", &mut found);
        assert_eq!(found, [] as [String; 0]);
        for (schema, field, max) in bounds(&Caps::default()) {
            let field = &api["components"]["schemas"][schema]["properties"][field];
            assert!(field["type"].is_array(), "{schema}: {field}");
            assert_eq!(field["maximum"], max);
        }
        for (name, absent) in ABSENT_AT_TIMES {
            let schema = &api["components"]["schemas"][name];
            assert!(absent.iter().all(|field| schema["properties"][field].is_object()), "{name}: {schema}");
            let fields = schema["properties"].as_object().unwrap().len();
            assert_eq!(schema["required"].as_array().unwrap().len(), fields - absent.len(), "{name}");
        }
    }
}
