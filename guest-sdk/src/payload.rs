//! Between the bytes of a payload and the types of a task function.

use std::any::{Any, TypeId};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Error, json_path};

/// Calls a task function as a server does: payload bytes in, result bytes out.
///
/// This is what [`task`](crate::task) exports, so a native test can cover the reading and writing
/// of JSON as well.
///
/// ```
/// use wasmill_guest::{Context, Error, invoke};
///
/// fn double(_: &Context, number: u32) -> Result<u32, Error> {
///     Ok(number * 2)
/// }
/// let ctx = Context::for_test().build();
/// assert_eq!(invoke(double, &ctx, b"21".to_vec()), Ok(b"42".to_vec()));
/// ```
///
/// # Errors
///
/// The result of the function; and a rejection when the payload does not fit `I` or the result
/// cannot be JSON.
pub fn invoke<I, O, E>(
    function: impl FnOnce(&Context, I) -> Result<O, E>,
    ctx: &Context,
    payload: Vec<u8>,
) -> Result<Vec<u8>, Error>
where
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
    E: Into<Error>,
{
    let input = decode(payload)?;
    encode(function(ctx, input).map_err(Into::into)?)
}

/// Whether a type is carried as it is, without JSON.
///
/// Both sides are constants, so the compiler drops the branch that is not taken: a task from bytes
/// to bytes contains no JSON code. Unlike a look at the tokens of the signature this sees through
/// type aliases and generics.
fn is_bytes<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<Vec<u8>>()
}

fn decode<T: DeserializeOwned + 'static>(payload: Vec<u8>) -> Result<T, Error> {
    if !is_bytes::<T>() {
        return decode_json(&payload);
    }
    let mut slot: Option<T> = None;
    if let Some(bytes) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Vec<u8>>>() {
        *bytes = Some(payload);
    }
    Ok(slot.expect("T is Vec<u8>, so the slot was filled"))
}

fn decode_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    if payload.is_empty() {
        return serde_json::from_slice(b"null")
            .map_err(|_| Error::reject("the input is empty, but this task takes JSON"));
    }
    serde_json::from_slice(payload).map_err(|error| {
        let path = json_path::at(payload, error.line(), error.column());
        let place = if path.is_empty() { String::new() } else { format!(" (at `{path}`)") };
        Error::reject(format_args!("the input is not the JSON that this task takes: {error}{place}"))
    })
}

fn encode<T: Serialize + 'static>(output: T) -> Result<Vec<u8>, Error> {
    if !is_bytes::<T>() {
        return serde_json::to_vec(&output)
            .map_err(|error| Error::reject(format_args!("the output cannot be written as JSON: {error}")));
    }
    let mut slot = Some(output);
    let bytes = (&mut slot as &mut dyn Any).downcast_mut::<Option<Vec<u8>>>().and_then(Option::take);
    Ok(bytes.expect("T is Vec<u8>, and the slot was just filled"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    type Raw = Vec<u8>;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        x: u8,
        y: u8,
    }

    fn refused<T: DeserializeOwned + 'static + std::fmt::Debug>(payload: &str) -> String {
        let error = decode::<T>(payload.into()).expect_err("the payload must not fit");
        assert!(!error.is_retryable(), "the same payload would fail again");
        error.message().replace("the input is not the JSON that this task takes: ", "")
    }

    #[test]
    fn bytes_pass_through_an_alias_unchanged() {
        let any = vec![0, 159, 255];
        assert_eq!(decode::<Raw>(any.clone()), Ok(any.clone()));
        assert_eq!(encode::<Raw>(any.clone()), Ok(any));
    }

    #[test]
    fn other_types_are_json() {
        assert_eq!(decode(br#" {"x": 1, "y": 2} "#.to_vec()), Ok(Point { x: 1, y: 2 }));
        assert_eq!(encode(Point { x: 1, y: 2 }), Ok(br#"{"x":1,"y":2}"#.to_vec()));
        assert_eq!(encode("text"), Ok(br#""text""#.to_vec()));
        assert_eq!(decode::<Vec<u16>>(b"[1,2]".to_vec()), Ok(vec![1, 2]));
        assert_eq!(encode(()), Ok(b"null".to_vec()));
    }

    #[test]
    fn nothing_is_null() {
        assert_eq!(decode::<()>(Vec::new()), Ok(()));
        assert_eq!(decode::<Option<Point>>(Vec::new()), Ok(None));
        assert_eq!(refused::<Point>(""), "the input is empty, but this task takes JSON");
    }

    #[test]
    fn a_refusal_says_where() {
        let cases = [
            (r#"{"x": 1}"#, "missing field `y` at line 1 column 8"),
            (r#"{"x": 1, "y": 256}"#, "invalid value: integer `256`, expected u8 at line 1 column 17 (at `y`)"),
            ("{\"x\": 1,\n \"z\": 2}", "unknown field `z`, expected `x` or `y` at line 2 column 4 (at `z`)"),
            (r#"{"x": 1"#, "EOF while parsing an object at line 1 column 7 (at `x`)"),
            ("[1, 2", "EOF while parsing a list at line 1 column 5 (at `[1]`)"),
            ("hello", "expected value at line 1 column 1"),
        ];
        for (payload, expect) in cases {
            assert_eq!(refused::<Point>(payload), expect, "payload: {payload}");
        }
        let nested = r#"{"red": [{"x": 1, "y": 2}, {"x": 1, "y": "2"}]}"#;
        assert_eq!(
            refused::<BTreeMap<String, Vec<Point>>>(nested),
            "invalid type: string \"2\", expected u8 at line 1 column 44 (at `red[1].y`)"
        );
    }

    #[test]
    fn output_that_json_cannot_hold_is_rejected() {
        let error = encode(BTreeMap::from([(vec![1], 1)])).expect_err("a list is no key");
        assert_eq!(error, Error::reject("the output cannot be written as JSON: key must be a string"));
    }

    #[test]
    fn invoke_reads_calls_and_writes() {
        let swap = |ctx: &Context, point: Point| -> Result<Point, Error> {
            ctx.progress(1, 1, "swapped");
            Ok(Point { x: point.y, y: point.x })
        };
        let ctx = Context::for_test().build();
        assert_eq!(invoke(swap, &ctx, br#"{"x":1,"y":2}"#.to_vec()), Ok(br#"{"x":2,"y":1}"#.to_vec()));
        assert_eq!(ctx.recorded().progress.len(), 1);
    }
}
