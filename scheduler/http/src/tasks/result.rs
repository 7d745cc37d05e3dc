//! A result as the last field of a document in one line: as JSON, as text or in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use wasmill_fabric::{BlobError, BlobReader};
use wasmill_protocol::Digest;

use super::super::App;
use super::super::problem::{Fault, Handled};
use super::super::readable::{Classifier, Form};

/// Bytes of a result that are read together: a multiple of three, so that each piece is base64 by
/// itself.
const PIECE_BYTES: usize = 48 * 1024;

/// Writes a result that is at hand.
pub(super) fn write_result(bytes: &[u8], line: &mut BytesMut) {
    let mut classifier = Classifier::new();
    classifier.push(bytes);
    let form = classifier.finish();
    begin(form, line);
    write_piece(form, bytes, line);
    end(form, line);
}

/// A result in the blobs. It is read twice: what it is decides how it is written.
pub(super) struct StoredResult {
    reader: BlobReader,
    form: Form,
    piece: Vec<u8>,
    begun: bool,
}

impl StoredResult {
    /// Finds out what a result is.
    pub(super) async fn open(app: &App, digest: Digest) -> Handled<Self> {
        let mut reader = open(app, digest).await?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut classifier = Classifier::new();
        loop {
            let read = fill(&mut reader, &mut piece).await?;
            classifier.push(&piece[..read]);
            if read < piece.len() {
                break;
            }
        }
        Ok(Self { reader: open(app, digest).await?, form: classifier.finish(), piece, begun: false })
    }

    /// Writes the next piece. Whether anything is left.
    pub(super) async fn write(&mut self, line: &mut BytesMut) -> Handled<bool> {
        let read = fill(&mut self.reader, &mut self.piece).await?;
        if !self.begun {
            begin(self.form, line);
            self.begun = true;
        }
        write_piece(self.form, &self.piece[..read], line);
        let left = read == self.piece.len();
        if !left {
            end(self.form, line);
        }
        Ok(left)
    }
}

async fn open(app: &App, digest: Digest) -> Handled<BlobReader> {
    app.handle.shared().blobs.open(digest).await.map_err(|error| match error {
        BlobError::Unknown(_) | BlobError::Damaged(_) => Fault::internal("find a result that was stored", &error),
        other => other.into(),
    })
}

/// Reads until the piece is full or nothing is left.
async fn fill(reader: &mut BlobReader, piece: &mut [u8]) -> Handled<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match reader.read(&mut piece[filled..]).await {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(Fault::internal("read a result", &error)),
        }
    }
    Ok(filled)
}

fn begin(form: Form, line: &mut BytesMut) {
    line.put_slice(match form {
        Form::Json => b",\"output\":",
        Form::Text => b",\"output\":null,\"output_text\":\"",
        Form::Bytes => b",\"output\":null,\"output_base64\":\"",
    });
}

fn write_piece(form: Form, piece: &[u8], line: &mut BytesMut) {
    match form {
        Form::Json => write_json(piece, line),
        Form::Text => write_text(piece, line),
        Form::Bytes => line.put_slice(STANDARD.encode(piece).as_bytes()),
    }
}

fn end(form: Form, line: &mut BytesMut) {
    if form != Form::Json {
        line.put_u8(b'"');
    }
}

/// JSON as it is, but in one line: between its tokens a blank is as good as a line's end, and
/// within them there is none.
fn write_json(piece: &[u8], line: &mut BytesMut) {
    let begin = line.len();
    line.put_slice(piece);
    line[begin..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

/// Text as the inside of a JSON string.
fn write_text(mut piece: &[u8], line: &mut BytesMut) {
    while let Some(at) = piece.iter().position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\')) {
        line.put_slice(&piece[..at]);
        match piece[at] {
            byte @ (b'"' | b'\\') => line.put_slice(&[b'\\', byte]),
            b'\n' => line.put_slice(b"\\n"),
            b'\r' => line.put_slice(b"\\r"),
            b'\t' => line.put_slice(b"\\t"),
            byte => line.put_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        piece = &piece[at + 1..];
    }
    line.put_slice(piece);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(bytes: &[u8]) -> Value {
        let mut line = BytesMut::from(&b"{\"id\":1"[..]);
        write_result(bytes, &mut line);
        line.put_u8(b'}');
        assert!(!line.contains(&b'\n'), "{bytes:?}");
        serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    #[test]
    fn every_result_is_shown_as_what_it_is() {
        for (bytes, field, value) in [
            (&b"{\n\t\"a\": [1,\r\n2]\n}"[..], "output", json!({"a": [1, 2]})),
            (b"null", "output", json!(null)),
            (b"\"a\\nb\"", "output", json!("a\nb")),
            (b"", "output_text", json!("")),
            (
                "größe\n\"\\\u{0}\u{1f}\u{7f}\u{2028}\r\t".as_bytes(),
                "output_text",
                json!("größe\n\"\\\u{0}\u{1f}\u{7f}\u{2028}\r\t"),
            ),
            (b"[1e400]", "output_text", json!("[1e400]")),
            (br#""\ud83d""#, "output_text", json!(r#""\ud83d""#)),
            (b"\xff\x00", "output_base64", json!("/wA=")),
        ] {
            let mut expected = json!({"id": 1, "output": null});
            expected[field] = value;
            assert_eq!(written(bytes), expected, "{bytes:?}");
        }
    }
}
