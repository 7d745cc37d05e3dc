//! Tries the inputs again that are kept for the fuzz target of `fuzz/`: what was found once stays
//! repaired.

#[path = "../../../protocol/tests/shared/replay.rs"]
mod replay;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use replay::replay;

#[test]
fn uploads() {
    replay("check", targets::check);
}

#[test]
fn modules_in_pieces() {
    replay("check", targets::pieces);
    replay("pieces", targets::pieces);
}
