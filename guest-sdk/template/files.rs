//! The files that `wasmill new` writes: a crate that builds with nothing beside it, since the SDK
//! comes along.
//!
//! This file belongs to no crate. The command line and the test of the template take it in with
//! `#[path]`.

/// The files of a new crate: where they go, and what is in them before the placeholders are filled
/// in.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("Cargo.toml.in")),
    ("README.md", include_str!("README.md.in")),
    (".gitignore", include_str!("gitignore.in")),
    ("src/lib.rs", include_str!("lib.rs.in")),
    ("vendor/wasmill-guest/Cargo.toml", include_str!("../Cargo.toml")),
    ("vendor/wasmill-guest/README.md", include_str!("../README.md")),
    ("vendor/wasmill-guest/wit/task.wit", include_str!("../wit/task.wit")),
    ("vendor/wasmill-guest/src/lib.rs", include_str!("../src/lib.rs")),
    ("vendor/wasmill-guest/src/component.rs", include_str!("../src/component.rs")),
    ("vendor/wasmill-guest/src/context.rs", include_str!("../src/context.rs")),
    ("vendor/wasmill-guest/src/error.rs", include_str!("../src/error.rs")),
    ("vendor/wasmill-guest/src/json_path.rs", include_str!("../src/json_path.rs")),
    ("vendor/wasmill-guest/src/payload.rs", include_str!("../src/payload.rs")),
    ("vendor/wasmill-guest/src/recorder.rs", include_str!("../src/recorder.rs")),
    ("vendor/wasmill-guest/macros/Cargo.toml", include_str!("../macros/Cargo.toml")),
    ("vendor/wasmill-guest/macros/src/lib.rs", include_str!("../macros/src/lib.rs")),
    ("vendor/wasmill-guest/macros/src/expand.rs", include_str!("../macros/src/expand.rs")),
];

/// The files of a new crate called `name`: path relative to the crate, and content.
///
/// `name` has to be a name that cargo accepts.
pub(crate) fn files(name: &str) -> impl Iterator<Item = (&'static str, String)> {
    let module = module(name);
    let name = name.to_owned();
    FILES.iter().map(move |(path, content)| {
        // The SDK is copied as it is: whatever looks like a placeholder there is not one.
        let is_vendored = path.starts_with("vendor/");
        let content = match is_vendored {
            true => (*content).to_owned(),
            false => content.replace("{{name}}", &name).replace("{{module}}", &module),
        };
        (*path, content)
    })
}

/// The file name, without `.wasm`, that cargo gives the module of the crate `name`.
pub(crate) fn module(name: &str) -> String {
    name.replace('-', "_")
}
