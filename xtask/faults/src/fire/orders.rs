//! Tasks for the cluster, each with what must come of it.

use std::sync::LazyLock;

use fastrand::Rng;
use serde_json::{Value, json};

use super::history::Order;

/// A task to be submitted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) order: Order,
    /// The document that is submitted.
    pub(crate) document: Value,
}

/// The modules that are used; each is uploaded under its own name.
pub(crate) const MODULES: [&str; 6] = ["hello", "memory-hog", "noop", "resumable", "spin-forever", "word-count"];

/// A payload of this many words does not fit into a record.
const WORDS_LARGE: usize = 10_000;
/// The steps that `resumable` is asked for.
const STEPS: u64 = 8;
const ROUNDS: u64 = 200_000;
/// Every attempt of it gives up after so many steps.
const STEPS_PER_ATTEMPT: u64 = 3;

/// Draws a task that is called `name`; its idempotency key, if it is to have one, is its name.
pub(crate) fn draw(rng: &mut Rng, name: &str, has_key: bool) -> Wanted {
    let mut wanted = match rng.u32(0..100) {
        0..35 => hello(name),
        35..50 => plain("noop", json!({ "task": name }), &["succeeded"], None),
        50..58 => words(name, rng.usize(1..50)),
        58..62 => words(name, WORDS_LARGE),
        62..72 => resumable(),
        72..80 => limited(json!({ "cpu_ms": rng.u32(20..200) })),
        80..84 => limited(json!({ "fuel": rng.u32(10_000..10_000_000) })),
        84..90 => spinning(),
        90..94 => plain("memory-hog", json!(null), &["memory_exceeded"], Some(json!({ "memory_bytes": 16 << 20 }))),
        _ => plain("hello", json!({ "name": " " }), &["rejected"], None),
    };
    if rng.u32(0..10) == 0 {
        wanted.document["delay_ms"] = rng.u32(1..3000).into();
    }
    if rng.u32(0..10) == 0 {
        wanted.document["priority"] = rng.i32(-10..10).into();
    }
    wanted.document["name"] = name.into();
    wanted.order.name = Some(name.to_owned());
    if has_key {
        wanted.document["idempotency_key"] = name.into();
        wanted.order.key = Some(name.to_owned());
    }
    wanted
}

/// A task that greets somebody.
pub(crate) fn hello(name: &str) -> Wanted {
    let mut wanted = plain("hello", json!({ "name": name }), &["succeeded"], None);
    wanted.order.output = Some(("/greeting".to_owned(), json!(format!("Hello, {name}!"))));
    wanted
}

/// A task that goes on until somebody cancels it, or for a few seconds.
pub(crate) fn spinning() -> Wanted {
    limited(json!({ "cpu_ms": 2000, "wall_ms": 6000 }))
}

fn plain(module: &str, input: Value, ends: &[&str], limits: Option<Value>) -> Wanted {
    let mut document = json!({ "module": module, "input": input });
    if let Some(limits) = limits {
        document["limits"] = limits;
    }
    let ends = ends.iter().map(|end| (*end).to_owned()).collect();
    Wanted { order: Order { ends, ..Order::default() }, document }
}

fn limited(limits: Value) -> Wanted {
    // Which limit is hit first depends on how busy the machine is, and on how long the host is
    // paused.
    plain("spin-forever", json!(null), &["cpu_exceeded", "fuel_exhausted", "deadline_exceeded"], Some(limits))
}

fn words(name: &str, count: usize) -> Wanted {
    let text: Vec<String> = (0..count).map(|number| format!("word{number}")).collect();
    let mut wanted = plain("word-count", Value::Null, &["succeeded"], None);
    // No other task has the same payload.
    let text = format!("{} {}", name.replace('-', "x"), text.join(" "));
    wanted.document = json!({ "module": "word-count", "input_text": text });
    wanted.order.output = Some(("/words".to_owned(), json!(count + 1)));
    wanted
}

/// Needs several attempts, each of which goes on where the last one stopped.
fn resumable() -> Wanted {
    let input = json!({ "steps": STEPS, "rounds_per_step": ROUNDS, "interrupt_after": STEPS_PER_ATTEMPT });
    let mut wanted = plain("resumable", input, &["succeeded"], None);
    wanted.document["attempts_max"] = 20.into();
    wanted.document["backoff_ms"] = 20.into();
    wanted.document["backoff_ms_max"] = 200.into();
    wanted.order.output = Some(("/value".to_owned(), json!(*STIRRED)));
    wanted
}

/// The result of `resumable`, computed here: a xorshift generator (Marsaglia, "Xorshift RNGs",
/// 2003, triple 13, 7, 17).
static STIRRED: LazyLock<String> = LazyLock::new(|| {
    let mut value: u64 = 0x9E37_79B9_7F4A_7C15;
    for _ in 0..STEPS * ROUNDS {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    format!("{value:016x}")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_its_name_and_its_key() {
        let mut rng = Rng::with_seed(1);
        for number in 0..200 {
            let name = format!("task-{number}");
            let wanted = draw(&mut rng, &name, number % 2 == 0);
            assert_eq!(wanted.document["name"], name.as_str());
            assert_eq!(wanted.document["idempotency_key"].as_str(), wanted.order.key.as_deref());
            assert!(MODULES.contains(&wanted.document["module"].as_str().unwrap()));
            assert!(!wanted.order.ends.is_empty());
        }
    }
}
