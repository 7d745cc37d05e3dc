//! `wasmill bench`
/// The options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {}
pub(crate) fn run(_: &crate::args::GlobalArgs, _: &BenchArgs) -> crate::failure::Outcome {
    Ok(crate::failure::Exit::Done)
}
