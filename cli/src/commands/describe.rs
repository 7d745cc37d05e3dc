//! Outcomes as people read them.

use wasmill_api::OutcomeDoc;

use crate::output::printable;

/// Kind, trap and message of an outcome on one line, and each frame of its backtrace on one of its
/// own.
pub(crate) fn outcome(outcome: &OutcomeDoc) -> String {
    let mut text = headline(outcome);
    for frame in outcome.backtrace.iter().flatten() {
        text.push_str(&format!("\n  at {}", printable(frame)));
    }
    text
}

/// Kind, trap and message of an outcome.
pub(crate) fn headline(outcome: &OutcomeDoc) -> String {
    let mut text = outcome.kind.as_str().to_owned();
    if let Some(trap) = outcome.trap {
        text.push_str(&format!(" ({})", trap.as_str()));
    }
    if !outcome.message.is_empty() {
        text.push_str(&format!(": {}", printable(&outcome.message)));
    }
    text
}
