//! Tries the inputs again that are kept for the fuzz targets of `fuzz/`: what was found once stays
//! repaired.

#[path = "../../../protocol/tests/shared/replay.rs"]
mod replay;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use replay::replay;

#[test]
fn documents() {
    replay("documents", targets::documents);
}

#[test]
fn lines() {
    replay("lines", targets::lines);
}
