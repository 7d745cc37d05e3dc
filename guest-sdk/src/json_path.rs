//! Which value a position inside a JSON text belongs to.
//!
//! serde's errors give line and column but not the path, and a payload is often one long line. The
//! path is worked out only after reading has failed, by walking the brackets and keys up to the
//! place: nothing is paid when the input is good.

/// How many bytes of a key are shown.
const KEY_BYTES_MAX: usize = 64;

/// One bracket that is open at the place.
enum Open<'a> {
    /// `[`, with the index of the current element.
    List(usize),
    /// `{`, with the key of the current member once it was read.
    Object(Option<&'a [u8]>),
}

/// The path of the value that ends at or contains `line` and `column`, such as `items[3].width`;
/// empty for the whole text.
///
/// `line` counts from 1 and `column` counts the bytes of the line up to and including the place, as
/// serde_json has them.
pub(crate) fn at(json: &[u8], line: usize, column: usize) -> String {
    let line_start =
        json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let end = (line_start + column).min(json.len());
    render(&open_at(&json[..end]))
}

fn open_at(json: &[u8]) -> Vec<Open<'_>> {
    let mut open = Vec::new();
    let mut place = 0;
    while let Some(byte) = json.get(place) {
        place += 1;
        match byte {
            b'[' => open.push(Open::List(0)),
            b'{' => open.push(Open::Object(None)),
            b']' | b'}' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::List(index)) => *index += 1,
                Some(Open::Object(key)) => *key = None,
                None => {}
            },
            b'"' => {
                let text_end = string_end(json, place);
                if let Some(Open::Object(key @ None)) = open.last_mut() {
                    *key = Some(&json[place..text_end]);
                }
                place = text_end + 1;
            }
            _ => {}
        }
    }
    open
}

/// Where the closing quote of the string that starts at `place` is, or the end of the text.
fn string_end(json: &[u8], mut place: usize) -> usize {
    while let Some(byte) = json.get(place) {
        match byte {
            b'"' => return place,
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
    json.len()
}

fn render(open: &[Open<'_>]) -> String {
    let mut path = String::new();
    for step in open {
        match step {
            Open::List(index) => path.push_str(&format!("[{index}]")),
            Open::Object(None) => {}
            Open::Object(Some(key)) => push_key(&mut path, key),
        }
    }
    path
}

fn push_key(path: &mut String, key: &[u8]) {
    let shown = String::from_utf8_lossy(&key[..key.len().min(KEY_BYTES_MAX)]);
    let cut = if key.len() > KEY_BYTES_MAX { "…" } else { "" };
    if !shown.is_empty() && shown.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
        let dot = if path.is_empty() { "" } else { "." };
        path.push_str(&format!("{dot}{shown}{cut}"));
    } else {
        path.push_str(&format!("[\"{shown}{cut}\"]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_before(marked: &str) -> String {
        let place = marked.find('^').expect("a case marks its place with ^");
        let json = marked.replacen('^', "", 1);
        let line = marked[..place].matches('\n').count() + 1;
        let column = place - marked[..place].rfind('\n').map_or(0, |newline| newline + 1);
        at(json.as_bytes(), line, column)
    }

    #[test]
    fn the_path_follows_brackets_and_keys() {
        let cases = [
            ("^", ""),
            ("12^", ""),
            (r#"{"a": 1^, "b": 2}"#, "a"),
            (r#"{"a": 1,^ "b": 2}"#, ""),
            (r#"{"a": {"b": [1, [2, 3^]]}}"#, "a.b[1][1]"),
            (r#"{"a": {"b": [1, [2, 3]^]}}"#, "a.b[1]"),
            (r#"[{"x": 1}, {"x": 2}^]"#, "[1]"),
            ("{\n  \"a\": [\n    1,\n    x^\n  ]\n}", "a[1]"),
        ];
        for (marked, expect) in cases {
            assert_eq!(path_before(marked), expect, "case: {marked}");
        }
    }

    #[test]
    fn brackets_and_quotes_inside_strings_do_not_count() {
        assert_eq!(path_before(r#"{"a": "[{\"", "b": 1^}"#), "b");
        assert_eq!(path_before(r#"{"odd key": 1^}"#), r#"["odd key"]"#);
        assert_eq!(path_before(r#"{"": 1^}"#), r#"[""]"#);
        assert_eq!(path_before(r#"{"never closed\^"#), r#"["never closed\"]"#);
    }

    #[test]
    fn a_long_key_is_cut() {
        let json = format!(r#"{{"{}": 1"#, "é".repeat(100));
        let path = at(json.as_bytes(), 1, json.len());
        assert_eq!(path, format!(r#"["{}…"]"#, "é".repeat(32)));
        let json = format!(r#"{{"é{}": 1"#, "x".repeat(100));
        assert!(at(json.as_bytes(), 1, json.len()).ends_with("xx…\"]"));
    }

    #[test]
    fn nonsense_positions_are_harmless() {
        assert_eq!(at(b"[1]", 0, 0), "");
        assert_eq!(at(b"[1", 99, 99), "[0]");
        assert_eq!(at(b"]]}}", 1, 4), "");
    }
}
