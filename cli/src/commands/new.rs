//! `wasmill new`
/// The options of `new`.
#[derive(Debug, clap::Args)]
pub(crate) struct NewArgs {
    name: String,
}
pub(crate) fn run(_: &NewArgs) -> crate::failure::Outcome {
    Ok(crate::failure::Exit::Done)
}
