//! Modules that do harm, made when they are needed.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use bytes::Bytes;

use crate::bench::module;

/// Levels of types in a mangled name, each of which names the one before eight times.
const NAME_LEVELS: usize = 60;
/// Calls before the trap.
const CALLS: u32 = 200;

/// Fills 4 GiB again and again.
pub(super) fn fill() -> Result<Bytes> {
    command(
        "(memory (export \"memory\") 1)",
        "(drop (memory.grow (i32.const 65534)))
         (loop $again
           (memory.fill (i32.const 0) (i32.const 7) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)))
           (br $again))",
    )
}

/// Some milliseconds of CPU time.
pub(super) fn burn() -> Result<Bytes> {
    command(
        "",
        "(local $n i32)
         (loop $again
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $n) (i32.const 5000000))))",
    )
}

/// Sleeps for twenty seconds.
pub(super) fn sleep() -> Result<Bytes> {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1 1)
        (func (export "_start")
          ;; One subscription to the monotonic clock, relative.
          (i32.store (i32.const 16) (i32.const 1))
          (i64.store (i32.const 24) (i64.const 20000000000))
          (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
    parse(text)
}

/// Traps deep down in functions whose name is long when it is read.
pub(super) fn bomb() -> Result<Bytes> {
    let name = mangled_bomb();
    parse(&format!(
        "(module
          (func ${name} (param i32)
            (if (i32.eqz (local.get 0)) (then unreachable))
            (call ${name} (i32.sub (local.get 0) (i32.const 1))))
          (func (export \"_start\") (call ${name} (i32.const {CALLS}))))"
    ))
}

/// Returns 60 MiB.
pub(super) fn large_result() -> Result<Bytes> {
    module::task(
        "(drop (memory.grow (i32.const 1000)))
         (i32.store (i32.const 1028) (i32.const 0))
         (i32.store (i32.const 1032) (i32.const 62914560))
         i32.const 1024",
        "",
    )
}

/// Saves 60 MiB again and again.
pub(super) fn checkpoints() -> Result<Bytes> {
    let text = r#"(component
      (import "wasmill:task/host@0.1.0" (instance $host
        (export "checkpoint-save" (func (param "state" (list u8)) (result (result (error string)))))))
      (type $failure-type (variant (case "reject" string) (case "retry" string)))
      (import "failure" (type $failure (eq $failure-type)))
      (core module $libc
        (memory (export "memory") 1000)
        (global $next (mut i32) (i32.const 65500000))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65000000)))
      (core instance $libc (instantiate $libc))
      (core func $save (canon lower (func $host "checkpoint-save")
        (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
      (core module $module
        (import "libc" "memory" (memory 1))
        (import "host" "save" (func $save (param i32 i32 i32)))
        (func (export "run") (param i32 i32) (result i32)
          (loop $again
            (i32.store (i32.const 128) (i32.add (i32.load (i32.const 128)) (i32.const 1)))
            (call $save (i32.const 0) (i32.const 62914560) (i32.const 64000000))
            (br $again))
          (i32.const 1024)))
      (core instance $host-core (export "save" (func $save)))
      (core instance $instance (instantiate $module
        (with "libc" (instance $libc)) (with "host" (instance $host-core))))
      (func $run (param "input" (list u8)) (result (result (list u8) (error $failure)))
        (canon lift (core func $instance "run") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
      (export "run" (func $run)))"#;
    parse(text)
}

/// A command whose `functions` functions take long to compile. Each `salt` gives other code.
pub(super) fn laborious(functions: u32, salt: u32) -> Bytes {
    // A body: locals, then the same steps over different ones. Written by hand, for as text it
    // would take longer to read than to compile.
    let mut body = vec![1];
    leb(&mut body, 64);
    body.push(0x7e);
    for step in 0..1_000_u32 {
        let (a, b, c) = (step * 7 % 64, step * 13 % 64, step * 29 % 64);
        for (op, local) in [(0x20, a), (0x20, b)] {
            body.push(op);
            leb(&mut body, local);
        }
        body.push(0x7e); // i64.mul
        body.push(0x20);
        leb(&mut body, c);
        body.push(0x85); // i64.xor
        body.push(0x21);
        leb(&mut body, a);
        if step % 16 == 0 {
            // if b { b = c }
            body.push(0x20);
            leb(&mut body, b);
            body.extend([0xa7, 0x04, 0x40, 0x20]);
            leb(&mut body, c);
            body.push(0x21);
            leb(&mut body, b);
            body.push(0x0b);
        }
    }
    body.push(0x0b);
    let mut code = Vec::new();
    leb(&mut code, functions);
    for number in 0..functions {
        // A constant that is dropped makes each module another one.
        let mut own = body.clone();
        let end = own.split_off(own.len() - 1);
        if number == 0 {
            own.push(0x41);
            leb(&mut own, salt & 0x3f_ffff);
            own.push(0x1a);
        }
        own.extend(end);
        leb(&mut code, u32::try_from(own.len()).unwrap_or(u32::MAX));
        code.extend(own);
    }
    let mut types_of = Vec::new();
    leb(&mut types_of, functions);
    types_of.extend(std::iter::repeat_n(0, functions as usize));
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    section(&mut bytes, 1, &[1, 0x60, 0, 0]);
    section(&mut bytes, 3, &types_of);
    section(&mut bytes, 7, b"\x01\x06_start\0\0");
    section(&mut bytes, 10, &code);
    bytes.into()
}

fn section(bytes: &mut Vec<u8>, id: u8, content: &[u8]) {
    bytes.push(id);
    leb(bytes, u32::try_from(content.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(content);
}

/// A number that is not negative, as both kinds of LEB128: the top bit of its last byte's seven
/// stays free.
fn leb(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x40 {
        bytes.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A name in Rust's mangling whose type is a tuple of eight of a tuple of eight …
fn mangled_bomb() -> String {
    let mut name = "INvC1a1f".to_owned();
    let mut last = None;
    for _ in 0..NAME_LEVELS {
        let at = name.len();
        let part = last.map_or_else(|| "u".to_owned(), |at| format!("B{}", base_62(at)));
        let _ = write!(name, "T{}E", part.repeat(8));
        last = Some(at);
    }
    format!("_R{name}E")
}

/// A number of the mangling: `_` is 0, `0_` is 1, and so on.
fn base_62(number: usize) -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut digits = Vec::new();
    if let Some(mut rest) = number.checked_sub(1) {
        loop {
            digits.push(DIGITS[rest % 62]);
            rest /= 62;
            if rest == 0 {
                break;
            }
        }
    }
    digits.reverse();
    digits.push(b'_');
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn command(more: &str, body: &str) -> Result<Bytes> {
    parse(&format!("(module {more} (func (export \"_start\") {body}))"))
}

fn parse(text: &str) -> Result<Bytes> {
    Ok(wat::parse_str(text).context("cannot make a module of the attacker")?.into())
}

#[cfg(test)]
mod tests {
    use wasmill_host::compile::{ModuleCaps, check};
    use wasmill_protocol::Digest;

    use super::*;

    #[test]
    fn every_module_would_be_accepted() {
        let modules = [fill(), burn(), sleep(), bomb(), large_result(), checkpoints(), Ok(laborious(3, 70))];
        for module in modules {
            check(&module.unwrap(), Digest::default(), &ModuleCaps::default()).unwrap();
        }
        assert_ne!(laborious(3, 1), laborious(3, 2));
        let bytes = laborious(400, 1).len();
        assert!((3_000_000..8_000_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn numbers_of_the_mangling() {
        assert_eq!([0, 1, 11, 62, 63, 64].map(base_62), ["_", "0_", "a_", "Z_", "10_", "11_"]);
        assert!(mangled_bomb().starts_with("_RINvC1a1fTuuuuuuuuETB7_B7_"));
    }
}
