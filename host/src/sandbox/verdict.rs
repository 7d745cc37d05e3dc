//! From how a guest's call ended to the outcome of the attempt.

use std::fmt::{self, Write};

use bytes::Bytes;
use wasmill_protocol::{Outcome, OutcomeKind, TrapCode};
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::control::{Cause, Watched};
use super::guest::{Guest, Stdio};
use super::task::Failure;

/// How a guest ended by itself.
#[derive(Debug)]
pub(super) enum Finished {
    /// A task component returned.
    Returned(Result<Vec<u8>, Failure>),
    /// A command returned or exited.
    Exited(i32),
}

/// The end of a guest's call.
pub(super) type End = Watched<wasmtime::Result<Finished>>;

/// Whether the engine's pool had no slot left: the guest has not run, and can when another has
/// ended.
pub(super) fn is_pool_exhausted(end: &End) -> bool {
    matches!(end, Watched::Finished(Err(error)) if error.downcast_ref::<PoolConcurrencyLimitError>().is_some())
}

/// The outcome, and the result when there is one.
pub(super) fn judge(end: End, guest: &Guest) -> (Outcome, Bytes) {
    let outcome = match end {
        Watched::Finished(Ok(Finished::Returned(Ok(result)))) => return judge_result(result, guest),
        Watched::Finished(Ok(Finished::Exited(code))) if guest.stdio == Stdio::Payload => {
            return (judge_command(code, guest), guest.output.take_result());
        }
        Watched::Finished(Ok(Finished::Returned(Err(failure)))) => judge_failure(failure, guest),
        Watched::Finished(Ok(Finished::Exited(code))) => judge_exit(code, guest),
        Watched::Finished(Err(error)) => judge_error(&error, guest),
        Watched::Stopped => judge_stop(guest),
        Watched::Panicked(message) => {
            tracing::error!(attempt = ?guest.work.id, message, "a host function panicked");
            Outcome::new(OutcomeKind::HostFault, format!("a fault in the host, not in the task: {message}"))
        }
    };
    (outcome, Bytes::new())
}

fn judge_result(result: Vec<u8>, guest: &Guest) -> (Outcome, Bytes) {
    let bytes_max = guest.work.limits.output_bytes;
    if result.len() as u64 > bytes_max {
        return (output_too_large(&format!("the result has {} bytes", result.len()), bytes_max), Bytes::new());
    }
    (Outcome::new(OutcomeKind::Succeeded, ""), result.into())
}

fn output_too_large(what: &str, bytes_max: u64) -> Outcome {
    Outcome::new(OutcomeKind::OutputTooLarge, format!("{what}, `limits.output_bytes` is {bytes_max}"))
}

fn judge_failure(failure: Failure, guest: &Guest) -> Outcome {
    match failure {
        Failure::Reject(message) => Outcome::new(OutcomeKind::Rejected, message),
        Failure::Retry(message) => {
            for_want_of_memory(guest, &message).unwrap_or_else(|| Outcome::new(OutcomeKind::Errored, message))
        }
    }
}

/// A command says by its exit code what its output is worth.
fn judge_command(code: i32, guest: &Guest) -> Outcome {
    if guest.work.ok_exit.iter().any(|ok| i32::from(*ok) == code) {
        return Outcome { exit_code: Some(code), ..Outcome::new(OutcomeKind::Succeeded, "") };
    }
    judge_exit(code, guest)
}

/// A task component that exits gives no result, whatever the code.
fn judge_exit(code: i32, guest: &Guest) -> Outcome {
    let message = format!("exited with code {code}");
    let outcome = for_want_of_memory(guest, &message).unwrap_or_else(|| Outcome::new(OutcomeKind::Errored, message));
    Outcome { exit_code: Some(code), ..outcome }
}

/// The outcome of a guest that failed after a growth was refused: most programs end in an abort or
/// an error that says nothing of memory.
fn for_want_of_memory(guest: &Guest, what: &str) -> Option<Outcome> {
    let asked = guest.memory.refused()?;
    let bytes_max = guest.work.limits.memory_bytes;
    let message = format!("asked for {asked} bytes of memory, `limits.memory_bytes` is {bytes_max}; then: {what}");
    Some(Outcome::new(OutcomeKind::MemoryExceeded, message))
}

fn judge_stop(guest: &Guest) -> Outcome {
    let limits = &guest.work.limits;
    match guest.control.cause() {
        Some(Cause::Asked) | None => Outcome::new(OutcomeKind::Cancelled, "stopped because it was asked to"),
        Some(Cause::Deadline) => Outcome::new(
            OutcomeKind::DeadlineExceeded,
            format!("took {} ms, the limit `limits.wall_ms`", limits.wall_ms),
        ),
        Some(Cause::Cpu) => Outcome::new(
            OutcomeKind::CpuExceeded,
            format!("used {} ms of CPU, the limit `limits.cpu_ms`", limits.cpu_ms),
        ),
        Some(Cause::Output) => output_too_large("wrote more to stdout", limits.output_bytes),
    }
}

/// The outcome of a guest that used more than its fuel, however its call ended.
pub(super) fn fuel_exhausted(guest: &Guest) -> Outcome {
    let fuel = guest.work.limits.fuel.unwrap_or_default();
    Outcome::new(OutcomeKind::FuelExhausted, format!("used {fuel} fuel, the limit `limits.fuel`"))
}

fn judge_error(error: &wasmtime::Error, guest: &Guest) -> Outcome {
    if guest.control.cause().is_some() {
        return judge_stop(guest);
    }
    let trap = error.downcast_ref::<Trap>().copied();
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    let message = message(error, trap);
    // A list or string that is larger than what may be copied at once. Without a frame of the guest
    // it is not a call of the guest's but its result.
    if backtrace.is_empty() && trap.is_none() && message.contains(COPY_BOUND_REACHED) {
        return output_too_large("the result is larger", guest.work.limits.output_bytes);
    }
    let code = trap.map_or(TrapCode::Other, code);
    let outcome = for_want_of_memory(guest, &message).unwrap_or_else(|| Outcome::new(OutcomeKind::Trapped, message));
    Outcome { trap: Some(code), backtrace, ..outcome }
}

/// From the text of wasmtime's error, whose type is private; a test notices when the text changes.
const COPY_BOUND_REACHED: &str = "fuel allocated for hostcalls has been exhausted";

/// The failure without its place: the backtrace is apart.
fn message(error: &wasmtime::Error, trap: Option<Trap>) -> String {
    match trap {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    }
}

/// A name of more bytes than this is shown as it is: reading a mangled one takes time with its
/// length, which nobody pays.
const MANGLED_BYTES_MAX: usize = 4 * 1024;

/// Function names, innermost first; a function without a name is shown by its number.
fn frames(backtrace: &WasmBacktrace) -> Vec<String> {
    let frames = backtrace.frames().iter().take(Outcome::BACKTRACE_FRAMES_MAX);
    frames
        .map(|frame| match frame.func_name() {
            Some(name) => readable(name),
            None => format!("function {}", frame.func_index()),
        })
        .collect()
}

/// The name of a function in its source, cut while it is written: a short name can stand for
/// one that is longer than any memory.
fn readable(name: &str) -> String {
    let mut frame = Frame(String::new());
    // The only failure is that there is no room for more.
    let _ = if name.len() <= MANGLED_BYTES_MAX {
        write!(frame, "{:#}", rustc_demangle::demangle(name))
    } else {
        frame.write_str(name)
    };
    frame.0
}

/// A name with room for [`Outcome::FRAME_BYTES_MAX`].
struct Frame(String);

impl fmt::Write for Frame {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Outcome::FRAME_BYTES_MAX - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() <= room { Ok(()) } else { Err(fmt::Error) }
    }
}

fn code(trap: Trap) -> TrapCode {
    match trap {
        Trap::StackOverflow => TrapCode::StackOverflow,
        Trap::MemoryOutOfBounds => TrapCode::MemoryOutOfBounds,
        Trap::TableOutOfBounds => TrapCode::TableOutOfBounds,
        Trap::HeapMisaligned => TrapCode::HeapMisaligned,
        Trap::IndirectCallToNull => TrapCode::IndirectCallToNull,
        Trap::BadSignature => TrapCode::BadSignature,
        Trap::IntegerOverflow => TrapCode::IntegerOverflow,
        Trap::IntegerDivisionByZero => TrapCode::IntegerDivisionByZero,
        Trap::BadConversionToInteger => TrapCode::BadConversionToInteger,
        Trap::UnreachableCodeReached => TrapCode::Unreachable,
        Trap::CannotEnterComponent
        | Trap::CannotLeaveComponent
        | Trap::InvalidChar
        | Trap::InvalidDiscriminant
        | Trap::ListOutOfBounds
        | Trap::StringOutOfBounds
        | Trap::UnalignedPointer => TrapCode::Component,
        _ => TrapCode::Other,
    }
}

/// The form of a guest's exit: an error that unwinds it.
pub(super) fn exit_of(error: wasmtime::Error) -> wasmtime::Result<Finished> {
    match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(code)) => Ok(Finished::Exited(*code)),
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mangled name of which every level stands for `width` times the one below.
    fn bomb(levels: usize, width: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let position = |mut number: usize| {
            let mut digits = "_".to_owned();
            while let Some(rest) = number.checked_sub(1) {
                digits.insert(0, DIGITS[rest % 62] as char);
                number = rest / 62;
            }
            digits
        };
        let mut name = "_RINvC1a1f".to_owned();
        let mut below = name.len() - 2;
        name += "ThhE";
        for _ in 0..levels {
            let start = name.len() - 2;
            name += &format!("T{}E", format!("B{}", position(below)).repeat(width));
            below = start;
        }
        name + "E"
    }

    #[test]
    fn names_are_cut_while_they_are_written() {
        for (name, expected) in [
            ("main", "main"),
            ("_RNvC1a1f", "a::f"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            (&bomb(1, 2), "a::f::<(u8, u8), ((u8, u8), (u8, u8))>"),
        ] {
            assert_eq!(readable(name), expected);
        }
        // 8 to the power of 60 times a type, if it were written out.
        let cut = readable(&bomb(60, 8));
        assert!(
            cut.starts_with("a::f::<(u8, u8), ((u8, u8), (u8, u8)") && cut.len() == Outcome::FRAME_BYTES_MAX,
            "{cut}"
        );
        assert_eq!(readable(&"n".repeat(100_000)), "n".repeat(Outcome::FRAME_BYTES_MAX));
        assert_eq!(readable(&"€".repeat(100_000)), "€".repeat(Outcome::FRAME_BYTES_MAX / 3));
        assert_eq!(readable(&format!("_RNvC1a{}", "1f".repeat(MANGLED_BYTES_MAX))).len(), Outcome::FRAME_BYTES_MAX);
    }
}
