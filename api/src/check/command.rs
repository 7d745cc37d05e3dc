//! The rules for what only commands have.

use std::collections::BTreeSet;

use super::{Checked, FieldError, NAME_CHARS_MAX, text, within};

/// Checks what a command is to find as its own name.
///
/// # Errors
///
/// When it is empty, too long, or has a zero byte.
pub fn program(program: Option<&str>) -> Checked {
    named("program", program)
}

/// Checks what a file is said to be called at its upload: a command may find that as its own name.
///
/// # Errors
///
/// When it is empty, too long, or has a zero byte.
pub fn file_name(name: Option<&str>) -> Checked {
    named("name", name)
}

fn named(field: &str, name: Option<&str>) -> Checked {
    text(field, name, NAME_CHARS_MAX)?;
    match name {
        Some("") => Err(FieldError::invalid(field, "is empty: leave it out or give 1 to 256 characters")),
        Some(name) if name.contains('\0') => Err(FieldError::invalid(field, "has a zero byte")),
        _ => Ok(()),
    }
}

/// Checks the exit codes that are to be success.
///
/// # Errors
///
/// When there is none, one is over 255, or one is there twice.
pub fn ok_exit(codes: Option<&[u64]>) -> Checked {
    let Some(codes) = codes else { return Ok(()) };
    if codes.is_empty() {
        return Err(FieldError::invalid("ok_exit", "is empty: leave it out, or name the exit codes that are success"));
    }
    // Looked at first, so that a long list is refused at its first repetition.
    let mut seen = BTreeSet::new();
    for (index, code) in codes.iter().enumerate() {
        let field = format!("ok_exit[{index}]");
        within(&field, Some(*code), 0, u64::from(u8::MAX))?;
        if !seen.insert(code) {
            return Err(FieldError::invalid(field, format!("{code} is there twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(checked: Checked) -> Option<String> {
        checked.err().map(|error| error.field)
    }

    #[test]
    fn a_program_has_a_name_that_can_be_passed() {
        for right in [None, Some("wc"), Some("tool:v2"), Some("größer.wasm"), Some("/usr/bin/wc -l")] {
            assert_eq!(program(right), Ok(()), "{right:?}");
        }
        for wrong in ["", "a\0b", &"x".repeat(257)] {
            assert_eq!(field(program(Some(wrong))).as_deref(), Some("program"), "{wrong:?}");
        }
    }

    #[test]
    fn exit_codes_are_bytes_and_each_is_there_once() {
        let all: Vec<u64> = (0..=255).collect();
        for right in [None, Some(&[0][..]), Some(&[10, 20, 0]), Some(&[255]), Some(&all)] {
            assert_eq!(ok_exit(right), Ok(()), "{right:?}");
        }
        for (wrong, named) in
            [(&[][..], "ok_exit"), (&[0, 256], "ok_exit[1]"), (&[u64::MAX], "ok_exit[0]"), (&[1, 2, 1], "ok_exit[2]")]
        {
            assert_eq!(field(ok_exit(Some(wrong))).as_deref(), Some(named), "{wrong:?}");
        }
        assert_eq!(ok_exit(Some(&[300])).unwrap_err().limit, Some(255));
    }
}
