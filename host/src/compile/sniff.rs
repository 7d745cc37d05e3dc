//! The form of an upload, by its first bytes. Costs nothing, so garbage is refused before a child
//! is started for it.

use serde::{Deserialize, Serialize};
use wasmill_protocol::module::ModuleRejection;

use super::reject::{cut, rejection};

/// How many bytes from the beginning [`sniff`] looks at, when there are so many.
pub const SNIFF_BYTES: usize = 1024;

/// The two binary forms of WebAssembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A core module.
    CoreModule,
    /// A component.
    Component,
}

const NEEDED: &str =
    "needed is a WebAssembly binary: a command for WASI 0.1 or 0.2, or a component of the `wasmill:task` world";
const MAGIC: &[u8] = b"\0asm";
/// The "operating system" that wasmtime writes into the ELF header of its artifacts, at the place
/// after it.
const ELF_OS_WASMTIME: u8 = 200;
const ELF_OS_AT: usize = 7;
const CORE_MODULE_VERSION: [u8; 4] = [1, 0, 0, 0];
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];

/// Recognises the form of an upload from its beginning: all of it, or at least [`SNIFF_BYTES`].
///
/// # Errors
///
/// When it is no WebAssembly binary; says what it looks like instead.
pub fn sniff(beginning: &[u8]) -> Result<Form, ModuleRejection> {
    if let Some(rest) = beginning.strip_prefix(MAGIC) {
        return match rest.first_chunk::<4>() {
            Some(&CORE_MODULE_VERSION) => Ok(Form::CoreModule),
            Some(&COMPONENT_VERSION) => Ok(Form::Component),
            Some(version) => Err(rejection(format!(
                "this WebAssembly binary has version {} and layer {}, which Wasmill does not know; needed is a core module \
                 (version 1) or a component (version 13, layer 1)",
                u16::from_le_bytes([version[0], version[1]]),
                u16::from_le_bytes([version[2], version[3]]),
            ))),
            None => Err(rejection(format!(
                "this WebAssembly binary ends after {} bytes, within its 8-byte header",
                beginning.len()
            ))),
        };
    }
    Err(rejection(format!("{}; {NEEDED}", looks_like(beginning))))
}

fn looks_like(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the upload is empty".to_owned();
    }
    if bytes.starts_with(b"\x7fELF") && bytes.get(ELF_OS_AT) == Some(&ELF_OS_WASMTIME) {
        return "this is a precompiled module (`.cwasm`), that is native code, which is never accepted: upload the \
                `.wasm` file that it was made from"
            .to_owned();
    }
    if is_wat(bytes) {
        return "this is WebAssembly text (`.wat`): convert it first, for example with `wasm-tools parse`".to_owned();
    }
    const BEGINNINGS: [(&[u8], &str); 10] = [
        (b"\x7fELF", "this is a native program or library (ELF): build it for `wasm32-wasip1` or `wasm32-wasip2`"),
        (b"MZ", "this is a Windows program: build it for `wasm32-wasip1` or `wasm32-wasip2`"),
        (b"\xcf\xfa\xed\xfe", "this is a macOS program: build it for `wasm32-wasip1` or `wasm32-wasip2`"),
        (b"\xca\xfe\xba\xbe", "this is a macOS program or a Java class"),
        (b"BC\xc0\xde", "this is LLVM bitcode: link it to a WebAssembly program first"),
        (b"!<arch>", "this is a static library: link it to a WebAssembly program first"),
        (b"\x1f\x8b", "this is compressed with gzip: upload the `.wasm` file itself"),
        (b"\x28\xb5\x2f\xfd", "this is compressed with zstd: upload the `.wasm` file itself"),
        (b"PK\x03\x04", "this is a zip archive: upload the `.wasm` file itself"),
        (b"#!", "this is a script"),
    ];
    if let Some((_, text)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return (*text).to_owned();
    }
    if MAGIC.starts_with(bytes) {
        return format!("the upload ends after {} bytes, within the header of a WebAssembly binary", bytes.len());
    }
    let shown = &bytes[..bytes.len().min(8)];
    match std::str::from_utf8(shown) {
        Ok(text) if !text.chars().any(|char| char.is_control() && !char.is_whitespace()) => {
            format!("this is not WebAssembly: it begins with the text `{}`", cut(text.trim_end(), 8))
        }
        _ => {
            let hex = shown.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            format!("this is not WebAssembly: it begins with the bytes `{hex}`")
        }
    }
}

/// Whether text begins that a `.wat` file can begin with: comments, then a module, a component or a
/// field of one.
fn is_wat(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes).trim_ascii_start();
    if text.starts_with(b";;") || text.starts_with(b"(;") {
        return true;
    }
    let Some(inside) = text.strip_prefix(b"(") else { return false };
    let word = inside.trim_ascii_start();
    [&b"module"[..], b"component", b"func", b"import", b"export", b"memory", b"type", b"table", b"global"]
        .iter()
        .any(|keyword| word.starts_with(keyword))
}
