//! The common part of the tests of each package with fuzz targets: trying again what is kept for
//! them.

use std::path::Path;

/// Runs a target of the package that includes this file on all of its inputs. Prints each before it
/// is tried: the last one is what failed.
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = corpus.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} has inputs", corpus.display());
    inputs.sort();
    for input in inputs {
        println!("{}", input.display());
        run(&std::fs::read(input).unwrap());
    }
}
