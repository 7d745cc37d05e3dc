//! The target, which the host's tests include too, so that what was found is tried again in every run.

use wasmill_protocol::Digest;

use crate::compile::{self, ModuleCaps, SNIFF_BYTES, sniff};

/// What the mark at the end of a text that was cut, and a sign for a last control character, add to its bound.
const CUT_BYTES: usize = 5;
/// Bytes of a message that refuses an upload.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 + CUT_BYTES;
/// Names that are listed of an accepted one.
const NAMES_MAX: usize = 1_000;
/// Bytes of each.
const NAME_BYTES_MAX: usize = 200 + CUT_BYTES;

/// Whatever is uploaded is described or refused within bounds, and the first kilobyte tells as much as all of it.
pub(crate) fn check(bytes: &[u8]) {
    let beginning = &bytes[..bytes.len().min(SNIFF_BYTES)];
    let (form, form_by_beginning) = (sniff(bytes), sniff(beginning));
    assert_eq!(form.as_ref().ok(), form_by_beginning.as_ref().ok());
    match compile::check(bytes, Digest::default(), &ModuleCaps::default()) {
        Ok(info) => {
            assert!(form.is_ok());
            assert_eq!(info.bytes, bytes.len() as u64);
            for names in [&info.imports, &info.exports] {
                assert!(names.len() <= NAMES_MAX);
                assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX));
            }
            assert!(!info.exports.is_empty(), "there is an entry point");
        }
        Err(refused) => {
            assert_eq!(refused.code, "module_invalid");
            assert!(!refused.message.is_empty() && refused.message.len() <= MESSAGE_BYTES_MAX);
            if let Err(by_form) = form {
                assert_eq!(by_form.message, refused.message);
            }
        }
    }
}
