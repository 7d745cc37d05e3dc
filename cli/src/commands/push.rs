//! `wasmill push`: uploads a module.

use std::path::{Path as FilePath, PathBuf};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use sha2::{Digest as _, Sha256};
use wasmill_api::ModuleDoc;
use wasmill_protocol::Digest;

use crate::client::{Answer, Client, ClientError, Path};
use crate::commands::bounded::{self, Sent};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;
use crate::units::{show_bytes, show_kind};

/// The options of `push`.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The .wasm file; `-` reads stdin
    file: PathBuf,
    /// Name to point at the module, like `resize` or `resize:v3`
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
}

/// Uploads and prints the digest.
pub(crate) async fn run(client: &Client, json: bool, args: &PushArgs) -> Outcome {
    let names = Names { alias: args.alias.as_deref(), file: file_name(&args.file) };
    let answer = upload(client, read_module(client, &args.file).await?, names).await?;
    let module: ModuleDoc = answer.json()?;
    if json {
        output::print_json(&answer.body)?;
        tell_hints(&module);
        return Ok(Exit::Done);
    }
    output::print_line(&module.digest.to_string())?;
    let news = if answer.status == 201 { "uploaded" } else { "already there" };
    let alias = args.alias.as_ref().map(|alias| format!(", alias `{alias}`")).unwrap_or_default();
    output::tell(&format!("{news}: {} {}{alias}", show_bytes(module.bytes), show_kind(module.kind)));
    tell_hints(&module);
    Ok(Exit::Done)
}

/// The names of a module at its upload.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Names<'a> {
    alias: Option<&'a str>,
    file: Option<&'a str>,
}

/// The last part of a path, when it is text and not stdin.
pub(crate) fn file_name(file: &FilePath) -> Option<&str> {
    file.file_name().and_then(|name| name.to_str()).filter(|name| *name != "-")
}

fn tell_hints(module: &ModuleDoc) {
    for hint in &module.hints {
        output::tell(&format!("hint: {hint}"));
    }
}

/// Reads a file that ought to be a module.
async fn read_module(client: &Client, file: &FilePath) -> Result<Bytes, Failure> {
    let bytes = bounded::read(client, file, Sent::Module).await?;
    if !bytes.starts_with(b"\0asm") {
        return Err(Failure::usage(format!("`{}` is not a WebAssembly binary", file.display())).hint(
            "build one with `cargo build --target wasm32-wasip2`, or convert a text module with `wasm-tools parse`",
        ));
    }
    Ok(bytes.into())
}

/// The digest under which the server stores `bytes`.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Uploads `bytes`.
async fn upload(client: &Client, bytes: Bytes, names: Names<'_>) -> Result<Answer, ClientError> {
    let path = Path::new("/v1/modules").query_if("alias", names.alias).query_if("name", names.file);
    let request = client
        .request(Method::POST, &path)
        .header(CONTENT_TYPE, "application/wasm")
        .header("wasmill-digest", digest(&bytes).to_string())
        .body(bytes);
    client.answer(request).await
}

/// Uploads the module in `file` unless the tenant has it already.
pub(crate) async fn ensure(client: &Client, file: &FilePath) -> Result<ModuleDoc, Failure> {
    let bytes = read_module(client, file).await?;
    match client.get(&Path::new("/v1/modules").segment(&digest(&bytes).to_string())).await {
        Ok(answer) => Ok(answer.json()?),
        Err(ClientError::Problem(problem)) if problem.status == 404 => {
            let names = Names { alias: None, file: file_name(file) };
            let module = upload(client, bytes, names).await?.json()?;
            tell_hints(&module);
            Ok(module)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether `text` names a file and not a module: digests and aliases have neither a slash nor this
/// ending.
pub(crate) fn is_file_name(text: &str) -> bool {
    text.contains('/') || text.ends_with(".wasm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Trust;

    #[test]
    fn files_are_told_from_names() {
        for (text, expect) in [
            ("a.wasm", true),
            ("./a", true),
            ("/x/y", true),
            ("resize", false),
            ("resize:v3", false),
            ("sha256:00", false),
        ] {
            assert_eq!(is_file_name(text), expect, "{text}");
        }
    }

    #[tokio::test]
    async fn text_modules_are_refused_before_they_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wat");
        let client = Client::new("http://127.0.0.1:1", "t", None, Trust::System).unwrap();
        std::fs::write(&file, "(module)").unwrap();
        let refused = read_module(&client, &file).await.unwrap_err();
        assert!(refused.to_string().contains("is not a WebAssembly binary"));
        std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(
            digest(&read_module(&client, &file).await.unwrap()).to_string(),
            "sha256:93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476"
        );
    }

    #[test]
    fn files_have_names() {
        for (path, name) in [("a.wasm", Some("a.wasm")), ("./x/wc", Some("wc")), ("-", None), ("/", None)] {
            assert_eq!(file_name(FilePath::new(path)), name, "{path}");
        }
    }
}
