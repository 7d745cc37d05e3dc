//! JSON in, with errors that name the field; JSON out.

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use wasmill_api::check::limit_of;
use wasmill_api::{FieldError, FieldErrorKind};
use wasmill_protocol::limits::Caps;

use super::problem::{Code, Fault, Handled};

/// Reads a document. Only what fails is read a second time, to find out where.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], caps: &Caps) -> Handled<T> {
    let bytes = without_mark(bytes);
    // An array of the fields in their order would do for serde too, which nobody means.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Fault::new(Code::FieldInvalid, "the body is an array: an object is expected"));
    }
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error, caps))
}

/// A document without the byte order mark that some editors begin files with. RFC 8259 lets a
/// reader pass over it.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// An answer with a JSON body.
pub(super) fn answer(status: StatusCode, document: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(document).expect("documents have text keys only");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(super) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn explain<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error, caps: &Caps) -> Fault {
    let full = error.to_string();
    let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(message, _)| message);
    // A number like 1e999 is JSON all the same: the field is wrong, not the text.
    let is_number = message == "number out of range";
    if error.classify() != Category::Data && !is_number {
        return malformed(bytes, error, message);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(located) => located.path().to_string(),
        Ok(_) => String::new(),
    };
    let named = |text: &str| message.strip_prefix(text)?.split('`').next().map(str::to_owned);
    let (kind, field) = if let Some(name) = named("unknown field `") {
        (FieldErrorKind::Unknown, within(&path, &name))
    } else if let Some(name) = named("missing field `") {
        (FieldErrorKind::Missing, within(&path, &name))
    } else if let Some(name) = named("duplicate field `") {
        (FieldErrorKind::Invalid, within(&path, &name))
    } else if path.is_empty() || path == "." {
        let found = message.split(", expected").next().unwrap_or_default();
        return Fault::new(Code::FieldInvalid, format!("the body is not an object: {found}"));
    } else {
        (FieldErrorKind::Invalid, path)
    };
    let limit = limit_of(&field, caps);
    FieldError { kind, detail: message.chars().take(MESSAGE_CHARS_MAX).collect(), field, limit }.into()
}

/// The beginning of a message is enough: it may quote what was sent.
const MESSAGE_CHARS_MAX: usize = 1024;

fn malformed(bytes: &[u8], error: &serde_json::Error, message: &str) -> Fault {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Fault::new(Code::MalformedJson, "the body is empty: a JSON document is expected");
    }
    let detail = format!("{message} at line {} column {}", error.line(), error.column());
    Fault::new(Code::MalformedJson, detail)
}

/// The full name of `name`, which is a field of the object at `path` or has been recorded there
/// already.
fn within(path: &str, name: &str) -> String {
    if path.is_empty() || path == "." || path == "?" || path == name {
        name.to_owned()
    } else if path.strip_suffix(name).is_some_and(|parent| parent.ends_with('.')) {
        path.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect;
    use wasmill_api::SubmitTask;

    use super::*;

    #[test]
    fn mistakes_name_their_field() {
        let cases = [
            r#"{"module":"m","prority":1}"#,
            r#"{"module":"m","limits":{"cpu":1}}"#,
            r#"{"input":1}"#,
            r#"{"module":7}"#,
            r#"{"module":"m","limits":{"cpu_ms":-1}}"#,
            r#"{"module":"m","limits":{"cpu_ms":18446744073709551616}}"#,
            r#"{"module":"m","limits":{"cpu_ms":1e999}}"#,
            r#"{"module":"m","limits":{"cpu_ms":1.5}}"#,
            r#"{"module":"m","limits":{"cpu_ms":"10"}}"#,
            r#"{"module":"m","limits":[]}"#,
            r#"{"module":"m","module":"n"}"#,
            r#"{"module":"m","labels":{"a":"1","b":"2","a":"1"}}"#,
            r#"{"module":"m","env":{"A":"","\u0041":"x"}}"#,
            r#"{"module":"m","require":{"a.b":"1","a.b":"2"}}"#,
            r#"{"module":"m","args":["a",1]}"#,
            r#"{"module":"m","labels":{"a":1}}"#,
            r#"{"module":"m","not_before":"soon"}"#,
            r#"{"module":"m","deterministic":"yes"}"#,
            r#"["module"]"#,
            r#""module""#,
            "{\"module\":\n  nope}",
            r#"{"module":"m"}x"#,
            "",
        ];
        let mut found = String::new();
        for case in cases {
            let problem = parse::<SubmitTask>(case.as_bytes(), &Caps::default()).unwrap_err().document();
            let field = problem.field.as_deref().unwrap_or("-");
            let limit = problem.limit.map(|limit| format!(" limit {limit}")).unwrap_or_default();
            let detail = problem.detail.split(", expected one of").next().unwrap_or_default();
            writeln!(found, "{} {field}{limit}: {detail}", problem.code).unwrap();
        }
        expect![[r#"
            field_unknown prority: `prority`: unknown field `prority`
            field_unknown limits.cpu: `limits.cpu`: unknown field `cpu`
            field_missing module: `module`: missing field `module`
            field_invalid module: `module`: invalid type: integer `7`, expected a string
            field_invalid limits.cpu_ms limit 3600000: `limits.cpu_ms`: invalid value: integer `-1`, expected a whole number that is not negative and fits 64 bits
            field_invalid limits.cpu_ms limit 3600000: `limits.cpu_ms`: invalid value: floating point `1.8446744073709552e+19`, expected a whole number that is not negative and fits 64 bits
            field_invalid limits.cpu_ms limit 3600000: `limits.cpu_ms`: number out of range
            field_invalid limits.cpu_ms limit 3600000: `limits.cpu_ms`: invalid value: floating point `1.5`, expected a whole number that is not negative and fits 64 bits
            field_invalid limits.cpu_ms limit 3600000: `limits.cpu_ms`: invalid type: string "10", expected a whole number that is not negative and fits 64 bits
            field_invalid limits: `limits`: invalid type: sequence, expected an object
            field_invalid module: `module`: duplicate field `module`
            field_invalid labels.a: `labels.a`: duplicate field `a`
            field_invalid env.A: `env.A`: duplicate field `A`
            field_invalid require.a.b: `require.a.b`: duplicate field `a.b`
            field_invalid args[1]: `args[1]`: invalid type: integer `1`, expected a string
            field_invalid labels.a: `labels.a`: invalid type: integer `1`, expected a string
            field_invalid not_before: `not_before`: `soon` is not a time: RFC 3339 like `2026-03-01T12:00:00.000Z` is expected
            field_invalid deterministic: `deterministic`: invalid type: string "yes", expected a boolean
            field_invalid -: the body is an array: an object is expected
            field_invalid -: the body is not an object: invalid type: string "module"
            malformed_json -: expected ident at line 2 column 4
            malformed_json -: trailing characters at line 1 column 15
            malformed_json -: the body is empty: a JSON document is expected
        "#]].assert_eq(&found);
    }

    #[test]
    fn c30_a_byte_order_mark_is_passed_over() {
        let task: SubmitTask = parse("\u{feff}{\"module\":\"m\"}".as_bytes(), &Caps::default()).unwrap();
        assert_eq!(task.module, "m");
        let twice = "\u{feff}\u{feff}{\"module\":\"m\"}";
        assert_eq!(parse::<SubmitTask>(twice.as_bytes(), &Caps::default()).unwrap_err().code(), Code::MalformedJson);
        let array = "\u{feff}[\"m\"]";
        assert_eq!(parse::<SubmitTask>(array.as_bytes(), &Caps::default()).unwrap_err().code(), Code::FieldInvalid);
    }

    #[test]
    fn null_and_whole_floats_are_understood() {
        let text = r#"{"module":"m","input":null,"name":null,"limits":{"cpu_ms":5e2,"fuel":null},"priority":-3.0}"#;
        let task: SubmitTask = parse(text.as_bytes(), &Caps::default()).unwrap();
        assert_eq!(task.input.unwrap().get(), "null");
        assert_eq!(task.limits.unwrap().cpu_ms, Some(500));
        assert_eq!(task.priority, Some(-3));
    }
}
