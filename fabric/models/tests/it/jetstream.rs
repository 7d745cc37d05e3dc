//! The answers to a publish.

use wasmill_fabric_models::jetstream::{
    ApiError, JetStream, PubAck, Publish, PublishError, PublishResult, ServerConfig, Stop, StreamConfig,
};
use wasmill_protocol::Timestamp;

pub(crate) const NOW: Timestamp = Timestamp(1_000_000_000);

pub(crate) fn stream_config() -> StreamConfig {
    StreamConfig {
        name: "log".into(),
        subjects: vec!["records".into()],
        duplicate_window_ms: 1_000,
        message_bytes_max: Some(1_000),
        bytes_max: Some(10_000),
    }
}

pub(crate) fn server(replicated: bool) -> JetStream {
    let mut server = JetStream::new(ServerConfig { replicated, ..ServerConfig::default() });
    server.create_stream(NOW, stream_config()).unwrap();
    server
}

pub(crate) fn message(id: &str, expected_last: u64) -> Publish {
    let id = (!id.is_empty()).then(|| id.to_owned());
    let payload = format!("after {expected_last}").into();
    Publish { subject: "records".into(), id, expected_last: Some(expected_last), payload, ..Publish::default() }
}

/// Sends and waits for the answer.
pub(crate) fn publish(server: &mut JetStream, now: Timestamp, message: Publish) -> PublishResult {
    let ticket = match server.receive(now, message) {
        Ok(ticket) => ticket,
        Err(answer) => return answer,
    };
    let (answered, answer) = server.store_next(now).unwrap();
    assert_eq!(answered, ticket);
    answer
}

pub(crate) fn stored(seq: u64) -> PublishResult {
    Ok(PubAck { stream: "log".into(), seq, duplicate: false })
}

pub(crate) fn duplicate(seq: u64) -> PublishResult {
    Ok(PubAck { stream: "log".into(), seq, duplicate: true })
}

fn wrong_last(last: u64) -> PublishResult {
    Err(PublishError::WrongLastSequence { last })
}

#[test]
fn a_message_is_stored_at_the_expected_place_alone() {
    for replicated in [false, true] {
        let mut server = server(replicated);
        assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
        assert_eq!(publish(&mut server, NOW, message("b", 0)), wrong_last(1));
        assert_eq!(publish(&mut server, NOW, message("b", 2)), wrong_last(1));
        assert_eq!(publish(&mut server, NOW, message("b", 1)), stored(2));
        let info = server.info("log").unwrap();
        assert_eq!((info.first_seq, info.last_seq, info.messages), (1, 2, 2));
    }
}

#[test]
fn a_known_id_is_acknowledged_whatever_it_expects_and_holds() {
    for replicated in [false, true] {
        let mut server = server(replicated);
        assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
        assert_eq!(publish(&mut server, NOW, message("b", 1)), stored(2));
        assert_eq!(publish(&mut server, NOW, message("a", 0)), duplicate(1));
        assert_eq!(publish(&mut server, NOW, message("a", 77)), duplicate(1));
        // But the name of the stream is looked at before.
        let elsewhere = Publish { expected_stream: Some("other".into()), ..message("a", 0) };
        assert_eq!(publish(&mut server, NOW, elsewhere), Err(PublishError::StreamMismatch));
    }
}

#[test]
fn an_id_is_forgotten_after_the_window() {
    let mut server = server(false);
    assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
    assert_eq!(publish(&mut server, NOW.plus_ms(999), message("a", 0)), duplicate(1));
    assert_eq!(publish(&mut server, NOW.plus_ms(1_000), message("a", 0)), wrong_last(1));
}

#[test]
fn one_server_looks_at_a_message_when_its_turn_has_come() {
    let mut server = server(false);
    let first = server.receive(NOW, message("a", 0)).unwrap();
    let twice = server.receive(NOW, message("a", 0)).unwrap();
    let wrong = server.receive(NOW, message("b", 0)).unwrap();
    let next = server.receive(NOW, message("c", 1)).unwrap();
    assert_eq!(server.store_next(NOW), Some((first, stored(1))));
    assert_eq!(server.store_next(NOW), Some((twice, duplicate(1))));
    assert_eq!(server.store_next(NOW), Some((wrong, wrong_last(1))));
    assert_eq!(server.store_next(NOW), Some((next, stored(2))));
    assert_eq!(server.store_next(NOW), None);
}

#[test]
fn a_group_looks_at_a_message_before_it_is_proposed() {
    let mut server = server(true);
    let first = server.receive(NOW, message("a", 0)).unwrap();
    let second = server.receive(NOW, message("b", 1)).unwrap();
    // Whether the first will be stored is not known yet, and so it is said.
    assert_eq!(server.receive(NOW, message("a", 0)), Err(Err(PublishError::DuplicateInProcess)));
    assert_eq!(server.receive(NOW, message("c", 1)), Err(wrong_last(2)));
    assert_eq!(server.store_next(NOW), Some((first, stored(1))));
    assert_eq!(server.receive(NOW, message("a", 0)), Err(duplicate(1)));
    assert_eq!(server.store_next(NOW), Some((second, stored(2))));
}

fn after(id: &str, expected_last: u64, last_id: &str) -> Publish {
    Publish { expected_last_id: Some(last_id.into()), ..message(id, expected_last) }
}

#[test]
fn the_last_message_can_be_expected_by_its_id() {
    let mut server = server(false);
    let wrong_id = |last: &str| Err(PublishError::WrongLastId { last: last.into() });
    assert_eq!(publish(&mut server, NOW, after("a", 0, "z")), wrong_id(""));
    assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
    // The sequence is right, what stands there is not.
    assert_eq!(publish(&mut server, NOW, after("c", 1, "b")), wrong_id("a"));
    assert_eq!(publish(&mut server, NOW, after("c", 0, "a")), wrong_last(1));
    assert_eq!(publish(&mut server, NOW, after("c", 1, "a")), stored(2));
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert_eq!(publish(&mut server, NOW, after("d", 2, "c")), stored(3));
    // After a restart the last message is looked for among the young ones only.
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert_eq!(publish(&mut server, NOW.plus_ms(1_000), after("e", 3, "d")), wrong_id(""));
}

#[test]
fn a_group_that_has_agreed_on_a_message_behind_the_wrong_one_takes_nothing_any_more() {
    let mut server = server(true);
    assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
    assert_eq!(publish(&mut server, NOW, after("b", 1, "a")), stored(2));
    // Refused before anybody has agreed on it: that is harmless.
    assert_eq!(publish(&mut server, NOW, after("c", 1, "z")), wrong_last(2));
    let wrong_id = Err(PublishError::WrongLastId { last: "b".into() });
    assert_eq!(publish(&mut server, NOW, after("c", 2, "a")), wrong_id);
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert_eq!(publish(&mut server, NOW, message("c", 2)), Err(PublishError::NoResponders));
    assert_eq!(server.info("log").unwrap().last_seq, 2);
}

#[test]
fn sizes_are_looked_at_last_and_the_payload_limit_first() {
    let mut server = server(false);
    assert_eq!(publish(&mut server, NOW, message("a", 0)), stored(1));
    let large = |bytes: usize, id: &str, last| Publish { payload: vec![0; bytes].into(), ..message(id, last) };
    assert_eq!(publish(&mut server, NOW, large(2_000, "a", 1)), duplicate(1));
    assert_eq!(publish(&mut server, NOW, large(2_000, "b", 0)), wrong_last(1));
    assert_eq!(publish(&mut server, NOW, large(2_000, "b", 1)), Err(PublishError::MessageTooLarge));
    assert_eq!(publish(&mut server, NOW, large(1 << 20, "a", 1)), Err(PublishError::MaxPayload));
    for last in 1..=10 {
        assert_eq!(publish(&mut server, NOW, large(880, "", last)), stored(last + 1));
    }
    assert_eq!(publish(&mut server, NOW, large(880, "c", 11)), Err(PublishError::MaxBytes));
    // It was not stored, so its id is free.
    assert_eq!(publish(&mut server, NOW, large(10, "c", 11)), stored(12));
}

#[test]
fn a_purge_moves_the_beginning_and_beyond_the_end_the_end() {
    let mut server = server(false);
    for last in 0..5 {
        publish(&mut server, NOW, message(&format!("id-{last}"), last)).unwrap();
    }
    server.purge("log", 4).unwrap();
    let bounds = |server: &JetStream| server.info("log").map(|info| (info.first_seq, info.last_seq, info.messages));
    assert_eq!(bounds(&server), Ok((4, 5, 2)));
    server.purge("log", 2).unwrap();
    assert_eq!(bounds(&server), Ok((4, 5, 2)));
    // A message that was removed is still known by its id.
    assert_eq!(publish(&mut server, NOW, message("id-0", 0)), duplicate(1));
    assert_eq!(server.message("log", 3), Ok(None));
    assert_eq!(server.next_message("log", 1).unwrap().unwrap().seq, 4);
    server.purge("log", 6).unwrap();
    assert_eq!(bounds(&server), Ok((6, 5, 0)));
    server.purge("log", 9).unwrap();
    assert_eq!(bounds(&server), Ok((9, 8, 0)));
    assert_eq!(publish(&mut server, NOW, message("late", 8)), stored(9));
}

#[test]
fn streams_are_found_by_name_and_subject() {
    let mut server = server(false);
    assert_eq!(server.create_stream(NOW.plus_ms(5), stream_config()).unwrap().created, NOW);
    let other = StreamConfig { bytes_max: None, ..stream_config() };
    assert_eq!(server.create_stream(NOW, other), Err(ApiError::StreamNameInUse));
    let overlapping = StreamConfig { name: "other".into(), ..stream_config() };
    assert_eq!(server.create_stream(NOW, overlapping), Err(ApiError::SubjectOverlap));
    assert_eq!(server.info("other"), Err(ApiError::StreamNotFound));
    let lost = Publish { subject: "elsewhere".into(), ..message("a", 0) };
    assert_eq!(publish(&mut server, NOW, lost), Err(PublishError::NoResponders));
}
