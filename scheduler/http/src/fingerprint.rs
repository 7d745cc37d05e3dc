//! By what a repeated submission is known to be the same.

use std::io;

use sha2::{Digest as _, Sha256};
use wasmill_api::{LimitsAsked, SubmitTask};
use wasmill_protocol::{Digest, TaskId};

use super::canonical::canonical;

/// The fingerprint of a submission with an idempotency key, in 32 bytes.
///
/// Submissions are compared by value: neither the order of keys nor white space nor the spelling of
/// a number within `input` makes another one of it, nor does a field that is given and says what
/// its absence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    current: Digest,
    /// As it was made up to version 1 of the fingerprints, which the records of older tasks have:
    /// `input` as it is written.
    before: Digest,
}

impl Fingerprint {
    /// Of a task's submission, as it was written: an alias that has moved since, or the time that
    /// has passed since a `delay_ms`, does not make a repeat another task.
    pub(super) fn of_submission(asked: &mut SubmitTask) -> Self {
        let before = hashed(|hash| write_json(hash, asked));
        // So that the payload is not copied with the rest.
        let payload = (asked.input.take(), asked.input_text.take(), asked.input_base64.take());
        let rest = without_defaults(asked.clone());
        (asked.input, asked.input_text, asked.input_base64) = payload;
        let current = hashed(|hash| {
            hash.update(b"wasmill submission 2");
            match (&asked.input, &asked.input_text, &asked.input_base64) {
                (Some(json), ..) => match canonical(json.get()) {
                    Some(canonical) => part(hash, b'j', &canonical),
                    None => part(hash, b'J', json.get().as_bytes()),
                },
                (None, Some(text), _) => part(hash, b't', text.as_bytes()),
                (None, None, Some(base64)) if !base64.is_empty() => part(hash, b'b', base64.as_bytes()),
                _ => part(hash, b'-', b""),
            }
            write_json(hash, &rest);
        });
        Self { current, before }
    }

    /// Of a task that is submitted again.
    pub(super) fn of_retry(task: TaskId) -> Self {
        Self::unversioned(Digest(Sha256::digest(format!("retry {task}")).into()))
    }

    /// Of a run: the module as it was named, what the query asks for, and the body.
    pub(super) fn of_run(module: &str, asked: &SubmitTask, body: &[u8]) -> Self {
        Self::unversioned(hashed(|hash| {
            hash.update(b"wasmill run");
            part(hash, b'm', module.as_bytes());
            part(hash, b'b', body);
            write_json(hash, &without_defaults(asked.clone()));
        }))
    }

    fn unversioned(digest: Digest) -> Self {
        Self { current: digest, before: digest }
    }

    /// The digest that is kept of it.
    pub(super) fn digest(&self) -> Digest {
        self.current
    }

    /// Whether a submission of which `kept` was kept was the same.
    pub(super) fn is_of(&self, kept: Digest) -> bool {
        kept == self.current || kept == self.before
    }
}

/// A submission in which nothing is said that goes without saying.
fn without_defaults(mut asked: SubmitTask) -> SubmitTask {
    for texts in [&mut asked.labels, &mut asked.env, &mut asked.require] {
        texts.take_if(|texts| texts.is_empty());
    }
    asked.args.take_if(|args| args.is_empty());
    asked.limits.take_if(|limits| *limits == LimitsAsked::default());
    asked.priority.take_if(|priority| *priority == 0);
    asked.delay_ms.take_if(|delay_ms| *delay_ms == 0);
    asked.deterministic.take_if(|deterministic| !*deterministic);
    asked
}

fn hashed(write: impl FnOnce(&mut Sha256)) -> Digest {
    let mut hash = Sha256::new();
    write(&mut hash);
    Digest(hash.finalize().into())
}

/// A part that cannot be taken for another one, nor run into the next.
fn part(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn write_json(hash: &mut Sha256, asked: &SubmitTask) {
    let writer = io::BufWriter::new(HashWriter(hash));
    serde_json::to_writer(writer, asked).expect("a submission has text keys only, and hashing cannot fail");
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> SubmitTask {
        serde_json::from_str(text).unwrap()
    }

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of_submission(&mut asked(text))
    }

    #[test]
    fn c15_a_repeat_is_recognised_by_value() {
        let one = print(r#"{"module":"m","input":{"a":1,"b":"x"},"labels":{"x":"1","y":"2"}}"#);
        for again in [
            r#"{ "priority":0, "labels":{"y":"2","x":"1"}, "input":{"a":1,"b":"x"}, "module":"m" }"#,
            r#"{"module":"m","input":{"b":"x","a":1},"labels":{"x":"1","y":"2"}}"#,
            r#"{"module":"m","input": { "a" : 1.0, "b" : "\u0078" },"labels":{"x":"1","y":"2"},"name":null}"#,
            r#"{"module":"m","input":{"a":1,"b":"x"},"labels":{"x":"1","y":"2"},"args":[],"env":{},"require":{},"limits":{},"deterministic":false,"delay_ms":0}"#,
        ] {
            assert_eq!(one.digest(), print(again).digest(), "{again}");
        }
        for other in [
            r#"{"module":"m","input":{"a":2,"b":"x"},"labels":{"x":"1","y":"2"}}"#,
            r#"{"module":"m","input":{"a":1,"b":"x"},"labels":{"x":"1"}}"#,
            r#"{"module":"n","input":{"a":1,"b":"x"},"labels":{"x":"1","y":"2"}}"#,
            r#"{"module":"m","input":{"a":1,"b":"x"},"labels":{"x":"1","y":"2"},"priority":1}"#,
            r#"{"module":"m","input_text":"{\"a\":1,\"b\":\"x\"}","labels":{"x":"1","y":"2"}}"#,
        ] {
            assert_ne!(one.digest(), print(other).digest(), "{other}");
        }
        assert_ne!(print(r#"{"module":"m","input":null}"#).digest(), print(r#"{"module":"m"}"#).digest());
        assert_ne!(print(r#"{"module":"m","input_text":""}"#).digest(), print(r#"{"module":"m"}"#).digest());
        assert_eq!(print(r#"{"module":"m","input_base64":""}"#).digest(), print(r#"{"module":"m"}"#).digest());
        let long = |end: &str| print(&format!(r#"{{"module":"m","input":[{}{end}]}}"#, "0,".repeat(600_000)));
        assert_eq!(long("1").digest(), long("1").digest());
        assert_ne!(long("1").digest(), long("2").digest());
    }

    #[test]
    fn submissions_are_left_as_they_were() {
        let text = r#"{"module":"m","input":{ "b":1,"a":2 },"labels":{}}"#;
        let mut asked = asked(text);
        Fingerprint::of_submission(&mut asked);
        assert_eq!(serde_json::to_string(&asked).unwrap(), text);
    }

    /// Records of tasks that were submitted to version 1 have SHA-256 of the submission's text,
    /// fields in order and maps sorted.
    #[test]
    fn c16_what_older_records_have_is_recognised_still() {
        let kept = |text: &str| Digest(Sha256::digest(text).into());
        let sent = r#"{ "input": {"b": 1, "a":2}, "module":"m", "labels":{"y":"2","x":"1"}, "priority":0}"#;
        let written = r#"{"module":"m","input":{"b": 1, "a":2},"labels":{"x":"1","y":"2"},"priority":0}"#;
        assert!(print(sent).is_of(kept(written)));
        assert!(print(sent).is_of(print(sent).digest()));
        assert!(!print(r#"{"module":"m","input":{"b":1,"a":2},"labels":{"x":"1","y":"2"}}"#).is_of(kept(written)));
        let task: TaskId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert!(Fingerprint::of_retry(task).is_of(kept(&format!("retry {task}"))));
    }

    #[test]
    fn runs_are_the_same_with_the_same_module_query_and_body() {
        let run = |module: &str, args: &[&str], body: &[u8]| {
            let args = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
            Fingerprint::of_run(module, &SubmitTask { args, ..SubmitTask::default() }, body)
        };
        assert_eq!(run("m", &["a"], b"x"), run("m", &["a"], b"x"));
        assert_eq!(run("m", &[], b""), Fingerprint::of_run("m", &SubmitTask::default(), b""));
        for other in
            [run("n", &["a"], b"x"), run("m", &["b"], b"x"), run("m", &["a"], b"y"), run("m", &["a", "x"], b"")]
        {
            assert_ne!(run("m", &["a"], b"x"), other);
        }
    }
}
