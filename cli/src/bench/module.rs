//! The modules that are measured, made when they are needed, so that `bench` needs no files.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use bytes::Bytes;

/// A component of the task world. `BODY` stands for the core function `run`, which gets address and
/// length of the payload and answers the address of a result: memory is zero in the beginning, and
/// zeros are `ok` of an empty list. `MORE` stands for more functions.
const TASK: &str = r#"
(component
  (type $failure-type (variant (case "reject" string) (case "retry" string)))
  (import "failure" (type $failure (eq $failure-type)))
  (core module $module
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param $old i32) (param $old-bytes i32) (param $align i32) (param $bytes i32) (result i32)
      ;; The payload is the only thing that is ever allocated.
      (if (i32.gt_u (local.get $bytes) (i32.const 32768)) (then unreachable))
      i32.const 32768)
    (func (export "run") (param $payload i32) (param $bytes i32) (result i32) BODY)
    MORE)
  (core instance $instance (instantiate $module))
  (alias core export $instance "memory" (core memory $memory))
  (func $run (param "input" (list u8)) (result (result (list u8) (error $failure)))
    (canon lift (core func $instance "run") (memory (core memory $memory)) (realloc (core func $instance "cabi_realloc"))))
  (export "run" (func $run)))
"#;

/// How many bytes of code a fresh module has, about.
const FRESH_BYTES: usize = 40_000;

/// A task that does nothing. Each `salt` gives other bytes and so another digest.
pub(super) fn noop(salt: u32) -> Result<Bytes> {
    task("i32.const 1024", &format!("(func (result i32) i32.const {salt})"))
}

/// A task that never ends by itself.
pub(super) fn spin() -> Result<Bytes> {
    task("(loop $again (br $again)) i32.const 1024", "")
}

/// A task that does nothing but has some 40 KB of code to compile. Each `salt` gives other code.
pub(super) fn fresh(salt: u32) -> Result<Bytes> {
    // Counted by hand: what one function of the text below takes in the binary.
    const FUNCTION_BYTES: usize = 82;
    let mut more = String::new();
    for number in 0..FRESH_BYTES / FUNCTION_BYTES {
        // Full-width constants keep every function the same size.
        let constant = 0x1000_0000 | (salt.wrapping_mul(0x9E37_79B9).wrapping_add(number as u32) & 0x0FFF_FFFF);
        write!(
            more,
            "(func (param i32 i32) (result i32) (local i32)
               (loop $again
                 (local.set 2 (i32.add (i32.mul (local.get 2) (i32.const {constant})) (i32.load (i32.and (local.get 0) (i32.const 65528)))))
                 (i32.store offset=1024 (i32.and (local.get 1) (i32.const 32760)) (i32.xor (local.get 2) (i32.const {constant})))
                 (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                 (br_if $again (i32.gt_s (local.get 0) (i32.const {number}))))
               (i32.rotl (local.get 2) (local.get 1)))"
        )?;
    }
    task("i32.const 1024", &more)
}

/// A task component with this core function `run`, and more functions.
pub(super) fn task(body: &str, more: &str) -> Result<Bytes> {
    let text = TASK.replace("BODY", body).replace("MORE", more);
    Ok(wat::parse_str(text).context("cannot make the module that is measured")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_components_of_the_size_that_is_said() {
        for module in [noop(1), spin(), fresh(1)] {
            // The version and layer that the component model's binary format begins with.
            assert_eq!(module.unwrap()[..8], *b"\0asm\x0d\0\x01\0");
        }
        let bytes = fresh(7).unwrap().len();
        assert!((38_000..42_000).contains(&bytes), "{bytes}");
        assert_ne!(noop(1).unwrap(), noop(2).unwrap());
        assert_ne!(fresh(1).unwrap(), fresh(2).unwrap());
    }
}
