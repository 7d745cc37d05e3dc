//! The meaning of JetStream's answers to an append.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use wasmill_fabric_core::append::Published;
use wasmill_protocol::LogSeq;

use crate::cluster::error::{chain, refusal};

/// From an acknowledgement or a refusal to what the appender hears.
pub(super) fn published(answer: Result<PublishAck, PublishError>, stream: &str, bytes_max: usize) -> Published {
    let error = match answer {
        Ok(ack) if ack.stream == stream => return Published::Stored { seq: LogSeq(ack.sequence) },
        Ok(ack) => return Published::Failed { reason: format!("stream `{}` has taken it", ack.stream) },
        Err(error) => error,
    };
    let reason = chain(&error);
    match error.kind() {
        PublishErrorKind::WrongLastMessageId => Published::WrongPredecessor,
        PublishErrorKind::MaxPayloadExceeded => Published::TooLarge { bytes_max },
        PublishErrorKind::WrongLastSequence => match last_in(&reason) {
            Some(last) => Published::WrongLast { last },
            None => Published::NoAnswer { reason },
        },
        _ => match refusal(&error) {
            Some(code) => refused(code, reason, bytes_max),
            None => Published::NoAnswer { reason },
        },
    }
}

fn refused(code: ErrorCode, reason: String, bytes_max: usize) -> Published {
    match code {
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Published::NoSpace,
        // One code for everything that can go wrong while storing; only its text tells them apart.
        ErrorCode::STREAM_STORE_FAILED if reason.contains("maximum") || reason.contains("no space") => {
            Published::NoSpace
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Published::TooLarge { bytes_max },
        ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_SEALED => Published::Failed { reason },
        _ => Published::NoAnswer { reason },
    }
}

/// The number in `wrong last sequence: 17`.
fn last_in(text: &str) -> Option<LogSeq> {
    let (_, rest) = text.rsplit_once("wrong last sequence: ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(LogSeq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_of(code: u64, description: &str) -> Published {
        let text = format!(r#"{{"code": 400, "err_code": {code}, "description": "{description}"}}"#);
        let error: async_nats::jetstream::Error = serde_json::from_str(&text).unwrap();
        let kind = match code {
            10_071 => PublishErrorKind::WrongLastSequence,
            10_070 => PublishErrorKind::WrongLastMessageId,
            _ => PublishErrorKind::Other,
        };
        published(Err(PublishError::with_source(kind, error)), "log", 100)
    }

    #[test]
    fn every_code_that_matters() {
        for (code, description, expected) in [
            (10_071, "wrong last sequence: 17", Published::WrongLast { last: LogSeq(17) }),
            (10_070, "wrong last msg ID: x", Published::WrongPredecessor),
            (10_023, "insufficient resources", Published::NoSpace),
            (10_047, "insufficient storage resources available", Published::NoSpace),
            (10_002, "resource limits exceeded for account", Published::NoSpace),
            (10_077, "maximum bytes exceeded", Published::NoSpace),
            (10_077, "write /data/1.blk: no space left on device", Published::NoSpace),
            (10_054, "message size exceeds maximum allowed", Published::TooLarge { bytes_max: 100 }),
        ] {
            assert_eq!(refusal_of(code, description), expected, "{code} {description}");
        }
        for (code, description) in [
            (10_071, "wrong last sequence"),
            (10_077, "input/output error"),
            (10_158, "duplicate message id is in process"),
            (10_008, "JetStream system temporarily unavailable"),
        ] {
            let published = refusal_of(code, description);
            assert!(matches!(published, Published::NoAnswer { .. }), "{published:?}");
        }
        assert!(matches!(refusal_of(10_060, "expected stream does not match"), Published::Failed { .. }));
    }

    #[test]
    fn an_acknowledgement_of_another_stream_stops_everything() {
        let ack = |stream: &str| PublishAck { stream: stream.to_owned(), sequence: 7, ..PublishAck::default() };
        assert_eq!(published(Ok(ack("log")), "log", 100), Published::Stored { seq: LogSeq(7) });
        assert!(matches!(published(Ok(ack("other")), "log", 100), Published::Failed { .. }));
    }
}
