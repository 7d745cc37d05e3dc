//! Options of the command line for all lines of a bulk submission: it is added to each line that
//! does not say it itself.

use bytes::Bytes;
use futures::Stream;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use wasmill_api::SubmitTask;

/// Fields whose value is a map: what a line does not name in one is added there.
const MAPS: [&str; 4] = ["labels", "env", "limits", "require"];
/// Fields of which a line has one at most: the default of the second is nothing to a line with the
/// first.
const INSTEAD: [(&str, &str); 3] = [("delay_ms", "not_before"), ("not_before", "delay_ms"), ("seed", "deterministic")];

/// Fields and what they are for lines without them.
#[derive(Debug)]
pub(super) struct Defaults(Object);

/// A JSON object: fields in their order, also when one is there twice, and values as they are
/// written.
#[derive(Debug, Default)]
struct Object(Vec<(String, Box<RawValue>)>);

impl Defaults {
    /// The fields that are set; `None` when there are none.
    pub(super) fn of(task: &SubmitTask) -> Option<Self> {
        let text = serde_json::to_string(task).expect("a submission has text keys only");
        let mut fields: Object = serde_json::from_str(&text).expect("a submission is an object");
        fields.0.retain(|(name, _)| name != "module" || !task.module.is_empty());
        (!fields.0.is_empty()).then_some(Self(fields))
    }

    /// A line with what it does not say. A line that is no object stays as it is, for the server to
    /// refuse.
    fn fill(&self, line: &[u8]) -> Vec<u8> {
        let Ok(mut object) = serde_json::from_slice::<Object>(line) else { return line.to_vec() };
        let said: Vec<String> = object.0.iter().map(|(name, _)| name.clone()).collect();
        for (name, value) in &self.0.0 {
            let instead = INSTEAD.iter().any(|(field, other)| field == name && said.iter().any(|name| name == other));
            match object.get(name) {
                None if instead => {}
                None => object.0.push((name.clone(), value.clone())),
                Some(index) if MAPS.contains(&name.as_str()) => {
                    let merged = merged(&object.0[index].1, value);
                    object.0[index].1 = merged;
                }
                Some(_) => {}
            }
        }
        let mut filled = object.to_text().into_bytes();
        filled.push(b'\n');
        filled
    }

    /// The lines of a file, each filled.
    pub(super) fn fill_all<R: AsyncBufRead + Unpin + Send>(
        self,
        reader: R,
    ) -> impl Stream<Item = std::io::Result<Bytes>> {
        futures::stream::try_unfold((self, reader), |(defaults, mut reader)| async move {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).await? == 0 {
                return Ok(None);
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
            // A line of nothing but white space is counted by the server, and not a task.
            let filled = if text.trim_ascii().is_empty() { line } else { defaults.fill(text) };
            Ok(Some((Bytes::from(filled), (defaults, reader))))
        })
    }
}

/// A map with those entries of another that it has none of its own for; as it is, when one of the
/// two is no map.
fn merged(own: &RawValue, defaults: &RawValue) -> Box<RawValue> {
    let parsed = |value: &RawValue| serde_json::from_str::<Object>(value.get()).ok();
    let (Some(mut own_map), Some(defaults)) = (parsed(own), parsed(defaults)) else { return own.to_owned() };
    for (name, value) in defaults.0 {
        if own_map.get(&name).is_none() {
            own_map.0.push((name, value));
        }
    }
    RawValue::from_string(own_map.to_text()).expect("an object of valid values is valid")
}

impl Object {
    fn get(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(field, _)| field == name)
    }

    fn to_text(&self) -> String {
        let field = |(name, value): &(String, Box<RawValue>)| format!("{}:{}", serde_json::json!(name), value.get());
        format!("{{{}}}", self.0.iter().map(field).collect::<Vec<_>>().join(","))
    }
}

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::StreamExt as _;

    use super::*;

    fn filled(defaults: &str, line: &str) -> String {
        let defaults = Defaults(serde_json::from_str(defaults).unwrap());
        String::from_utf8(defaults.fill(line.as_bytes())).unwrap()
    }

    #[test]
    fn a_line_gets_what_it_does_not_say() {
        let defaults = r#"{"module":"wc","labels":{"run":"7","team":"a"},"priority":5,"limits":{"cpu_ms":9}}"#;
        assert_eq!(
            filled(defaults, r#" { "input": {"b": 1e2, "a": [1 ,2]}, "labels": {"team": "b"} } "#),
            "{\"input\":{\"b\": 1e2, \"a\": [1 ,2]},\"labels\":{\"team\":\"b\",\"run\":\"7\"},\"module\":\"wc\",\"priority\":5,\
             \"limits\":{\"cpu_ms\":9}}\n"
        );
        assert_eq!(
            filled(defaults, r#"{"module":"x","labels":{},"priority":null,"limits":{"cpu_ms":1,"fuel":2}}"#),
            "{\"module\":\"x\",\"labels\":{\"run\":\"7\",\"team\":\"a\"},\"priority\":null,\"limits\":{\"cpu_ms\":1,\"fuel\":2}}\n"
        );
    }

    #[test]
    fn what_goes_without_the_other_is_not_added_to_it() {
        assert_eq!(
            filled(r#"{"delay_ms":5}"#, r#"{"not_before":"2030-01-01T00:00:00Z"}"#),
            "{\"not_before\":\"2030-01-01T00:00:00Z\"}\n"
        );
        let seeded = r#"{"deterministic":true,"seed":7}"#;
        assert_eq!(filled(seeded, r#"{"deterministic":false}"#), "{\"deterministic\":false}\n");
        assert_eq!(filled(seeded, "{}"), "{\"deterministic\":true,\"seed\":7}\n");
    }

    #[test]
    fn what_is_wrong_is_left_for_the_server_to_refuse() {
        for line in ["[1]", "{\"a\":", "nonsense", "{} {}", "{\"labels\":7,\"labels\":8}"] {
            let shown = filled(r#"{"labels":{"a":"1"}}"#, line);
            assert_eq!(shown.trim_end(), line);
        }
    }

    #[tokio::test]
    async fn every_line_of_a_file_is_filled_and_none_is_added() {
        let defaults = Defaults(serde_json::from_str(r#"{"priority":1}"#).unwrap());
        let file = &b"\xef\xbb\xbf{\"module\":\"a\"}\n\n{\"module\":\"b\",\"priority\":2}"[..];
        let lines: Vec<Bytes> = defaults.fill_all(file).map(|line| line.unwrap()).collect().await;
        let text = String::from_utf8(lines.concat()).unwrap();
        assert_eq!(text, "{\"module\":\"a\",\"priority\":1}\n\n{\"module\":\"b\",\"priority\":2}\n");
    }

    #[test]
    fn nothing_said_is_no_default() {
        assert!(Defaults::of(&SubmitTask::default()).is_none());
        let task = SubmitTask { labels: Some(BTreeMap::from([("a".into(), "1".into())])), ..SubmitTask::default() };
        let defaults = Defaults::of(&task).unwrap();
        assert_eq!(defaults.0.to_text(), r#"{"labels":{"a":"1"}}"#);
    }
}
