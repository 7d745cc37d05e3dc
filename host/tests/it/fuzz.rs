//! Tries the inputs again that are kept for the fuzz target of `fuzz/`: what was found once stays repaired.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

/// Prints each input before it is tried: the last one is what failed.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = corpus.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} has inputs", corpus.display());
    inputs.sort();
    for input in inputs {
        println!("{}", input.display());
        run(&std::fs::read(input).unwrap());
    }
}

#[test]
fn uploads() {
    replay("check", targets::check);
}
