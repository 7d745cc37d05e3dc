//! Tries the inputs again that are kept for the fuzz targets of `fuzz/`: what was found once stays
//! repaired.

#[path = "../shared/replay.rs"]
mod replay;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use replay::replay;

#[test]
fn messages() {
    replay("messages", targets::messages);
}
