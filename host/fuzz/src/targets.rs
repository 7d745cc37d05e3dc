//! The targets, which the host's tests include too, so that what was found is tried again in every
//! run.

use wasmill_protocol::Digest;

use wasmparser::{Parser, Payload, Validator};

use crate::compile::{self, Cutting, Fuel, ModuleCaps, SNIFF_BYTES, cut_long_instructions, sniff};
use crate::engine::FEATURES;

/// The bytes that the mark at the end of a cut text, and a sign for a last control character, add
/// to its bound.
const CUT_BYTES: usize = 5;
/// Bytes of a message that refuses an upload.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 + CUT_BYTES;
/// Names that are listed of an accepted one.
const NAMES_MAX: usize = 1_000;
/// Bytes of each.
const NAME_BYTES_MAX: usize = 200 + CUT_BYTES;

/// Every upload is described or refused within bounds, and the first kilobyte tells as much
/// as all of it.
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

/// Long instructions that are cut leave a module valid, and all that others refer to where it was.
pub(crate) fn pieces(bytes: &[u8]) {
    let is_valid = |bytes: &[u8]| Validator::new_with_features(FEATURES).validate_all(bytes).is_ok();
    let valid = is_valid(bytes);
    for fuel in [Fuel::Uncounted, Fuel::Counted] {
        for (piece_bytes, piece_elements) in [(1, 1), (100, 3), (1 << 20, 2048)] {
            let cut = cut_long_instructions(bytes, Cutting { fuel, piece_bytes, piece_elements });
            // Bytes that are not valid only have to be survived.
            if valid {
                let cut = cut.unwrap_or_else(|refused| panic!("{}", refused.message));
                assert!(is_valid(&cut), "{fuel:?}, {piece_bytes}");
                assert_eq!(outline(bytes), outline(&cut));
            }
        }
    }
}

/// Everything of a module but its globals and the insides of its functions.
fn outline(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut outline = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::CodeSectionStart { count, .. } => outline.push(count.to_le_bytes().to_vec()),
            // Inner modules come by themselves; globals are of two makers.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } | Payload::GlobalSection(_) => {}
            payload => outline.extend(payload.as_section().map(|(_, range)| bytes[range].to_vec())),
        }
    }
    outline
}
