//! `wasmill push`: uploads a module.

use std::path::{Path as FilePath, PathBuf};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;
use wasmill_protocol::api::ModuleDoc;

use crate::client::{Answer, Client, ClientError, Path};
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
    let answer = upload(client, read_module(&args.file)?, args.alias.as_deref()).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let module: ModuleDoc = answer.json()?;
    output::print_line(&module.digest.to_string())?;
    let news = if answer.status == 201 { "uploaded" } else { "already there" };
    let alias = args.alias.as_ref().map(|alias| format!(", alias `{alias}`")).unwrap_or_default();
    eprintln!("{news}: {} {}{alias}", show_bytes(module.bytes), show_kind(module.kind));
    Ok(Exit::Done)
}

/// Reads a file that ought to be a module.
pub(crate) fn read_module(file: &FilePath) -> Result<Bytes, Failure> {
    let bytes = if file == FilePath::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = bytes.map_err(|source| Failure::file("read", file, &source))?;
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
pub(crate) async fn upload(client: &Client, bytes: Bytes, alias: Option<&str>) -> Result<Answer, ClientError> {
    let request = client
        .request(Method::POST, &Path::new("/v1/modules").query_if("alias", alias))
        .header(CONTENT_TYPE, "application/wasm")
        .header("wasmill-digest", digest(&bytes).to_string())
        .body(bytes);
    client.answer(request).await
}

/// Uploads `bytes` unless the tenant has them already; answers their digest.
pub(crate) async fn ensure(client: &Client, bytes: Bytes) -> Result<String, ClientError> {
    let digest = digest(&bytes).to_string();
    match client.get(&Path::new("/v1/modules").segment(&digest)).await {
        Ok(_) => {}
        Err(ClientError::Problem(problem)) if problem.status == 404 => {
            upload(client, bytes, None).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(digest)
}

/// Whether `text` names a file and not a module: digests and aliases have neither a slash nor this ending.
pub(crate) fn is_file_name(text: &str) -> bool {
    text.contains('/') || text.ends_with(".wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn text_modules_are_refused_before_they_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wat");
        std::fs::write(&file, "(module)").unwrap();
        assert!(read_module(&file).unwrap_err().to_string().contains("is not a WebAssembly binary"));
        std::fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(
            digest(&read_module(&file).unwrap()).to_string(),
            "sha256:93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476"
        );
    }
}
