//! Putting a refusal into words.

use wasmill_protocol::module::ModuleRejection;
use wasmill_protocol::text::steers;

use super::limits::{MESSAGE_BYTES_MAX, NAME_LISTED_BYTES_MAX, NAMES_IN_MESSAGE_MAX};

/// The stable code of every refusal of a module so far.
const MODULE_INVALID: &str = "module_invalid";

/// A refusal with this message, cut when a hostile name made it long.
pub(crate) fn rejection(message: impl Into<String>) -> ModuleRejection {
    ModuleRejection { code: MODULE_INVALID.to_owned(), message: cut(&message.into(), MESSAGE_BYTES_MAX) }
}

/// `text` without characters that would steer a terminal or hide, and with at most `bytes_max`
/// bytes before the mark that something is missing.
///
/// Names come from the upload, and what is made of them ends up on terminals and in logs.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(bytes_max) + 3);
    for char in text.chars() {
        if kept.len() + char.len_utf8() > bytes_max {
            kept.push('…');
            break;
        }
        kept.push(if steers(char) && char != '\n' { '\u{fffd}' } else { char });
    }
    kept
}

/// Names for a message: quoted, in order, the first ones only when there are many; "nothing" when
/// there are none.
pub(crate) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = names
        .iter()
        .take(NAMES_IN_MESSAGE_MAX)
        .map(|name| format!("`{}`", cut(name, NAME_LISTED_BYTES_MAX)))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMES_IN_MESSAGE_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMES_IN_MESSAGE_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_named_stays_short_and_printable() {
        assert_eq!(cut("ab\u{1b}[2Jc\u{202e}", 100), "ab\u{fffd}[2Jc\u{fffd}");
        assert_eq!(cut("ääää", 5), "ää…");
        assert!(rejection("x".repeat(100_000)).message.len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn lists_end() {
        let names: Vec<String> = (0..25).map(|number| number.to_string()).collect();
        assert_eq!(listed(&names[..2]), "`0`, `1`");
        assert!(listed(&names).ends_with("`19` and 5 more"));
        assert_eq!(listed(&[]), "nothing");
    }
}
