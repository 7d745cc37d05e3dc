//! JSON in, with errors that name the field; JSON out.

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use wasmill_protocol::api::check::limit_of;
use wasmill_protocol::api::{FieldError, FieldErrorKind};
use wasmill_protocol::limits::Caps;

use super::problem::{Code, Fault, Handled};

/// Reads a document. Only what fails is read a second time, to find out where.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], caps: &Caps) -> Handled<T> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error, caps))
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
        return Fault::new(Code::FieldInvalid, format!("the body is not the expected document: {message}")).field("");
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

/// The full name of `name`, which is a field of the object at `path` or has been recorded there already.
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
    use wasmill_protocol::api::SubmitTask;

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
        expect![[r#""#]].assert_eq(&found);
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
