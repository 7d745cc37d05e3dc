//! The knowledge of a server after a fault.

use wasmill_fabric_models::jetstream::{ApiError, JetStream, PublishError, ServerConfig, Stop, Sync};

use crate::jetstream::{NOW, duplicate, message, publish, server, stored, stream_config};

fn last(server: &JetStream) -> u64 {
    server.info("log").unwrap().last_seq
}

#[test]
fn nobody_is_told_what_became_of_messages_that_waited() {
    for replicated in [false, true] {
        let mut server = server(replicated);
        let tickets = [0, 1, 2].map(|last| server.receive(NOW, message(&format!("id-{last}"), last)).unwrap());
        let untold = server.stop(NOW, Stop::Killed, 1);
        assert_eq!(untold, [(tickets[0], Some(stored(1))), (tickets[1], None), (tickets[2], None)]);
        assert_eq!(publish(&mut server, NOW, message("id-0", 0)), Err(PublishError::NoResponders));
        assert_eq!(server.info("log"), Err(ApiError::NoResponders));

        server.start(NOW);
        // The same message again finds what became of the first.
        assert_eq!(publish(&mut server, NOW, message("id-0", 0)), duplicate(1));
        assert_eq!(publish(&mut server, NOW, message("id-1", 1)), stored(2));
    }
}

#[test]
fn a_restarted_server_knows_the_ids_of_what_it_still_has() {
    let mut server = server(false);
    for last in 0..4 {
        publish(&mut server, NOW.plus_ms(last * 400), message(&format!("id-{last}"), last)).unwrap();
    }
    server.purge("log", 4).unwrap();
    let now = NOW.plus_ms(1_300);
    assert_eq!(publish(&mut server, now, message("id-2", 2)), duplicate(3));
    server.stop(now, Stop::Killed, 0);
    server.start(now);
    // The third was removed, so it is forgotten although it is young.
    let forgotten = publish(&mut server, now, message("id-2", 2));
    assert_eq!(forgotten, Err(PublishError::WrongLastSequence { last: 4 }));
    assert_eq!(publish(&mut server, now, message("id-3", 3)), duplicate(4));
    let later = NOW.plus_ms(2_200);
    let too_old = publish(&mut server, later, message("id-3", 3));
    assert_eq!(too_old, Err(PublishError::WrongLastSequence { last: 4 }));
}

#[test]
fn power_loss_takes_what_was_acknowledged_and_not_synced() {
    for (sync, kept) in [(Sync::Always, 5), (Sync::Interval, 3)] {
        let mut server = JetStream::new(ServerConfig { sync, ..ServerConfig::default() });
        server.create_stream(NOW, stream_config()).unwrap();
        for last in 0..5 {
            assert_eq!(publish(&mut server, NOW, message("", last)), stored(last + 1));
            if last == 1 {
                server.sync();
            }
        }
        server.stop(NOW, Stop::PowerLost { unsynced_kept: 1 }, 0);
        server.start(NOW);
        assert_eq!(last(&server), kept);
        assert_eq!(publish(&mut server, NOW, message("", kept)), stored(kept + 1));
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_stored() {
    let mut server = JetStream::new(ServerConfig { sync: Sync::Interval, ..ServerConfig::default() });
    server.create_stream(NOW, stream_config()).unwrap();
    publish(&mut server, NOW, message("a", 0)).unwrap();
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert_eq!(publish(&mut server, NOW, message("a", 0)), duplicate(1));
}

#[test]
fn a_full_disk_shuts_jetstream_down_until_a_restart_with_space() {
    let mut server = server(false);
    publish(&mut server, NOW, message("a", 0)).unwrap();
    server.fill_disk();
    server.receive(NOW, message("b", 1)).unwrap();
    server.receive(NOW, message("c", 2)).unwrap();
    assert_eq!(server.store_next(NOW).unwrap().1, Err(PublishError::NoSpace));
    // The others are never answered.
    assert_eq!(server.store_next(NOW), None);
    assert_eq!(publish(&mut server, NOW, message("b", 1)), Err(PublishError::NoResponders));
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert!(!server.is_up());
    server.free_disk();
    server.stop(NOW, Stop::Killed, 0);
    server.start(NOW);
    assert_eq!(publish(&mut server, NOW, message("b", 1)), stored(2));
}

#[test]
fn a_lost_suffix_is_forgotten_by_the_server_too() {
    let mut server = server(false);
    for last in 0..5 {
        publish(&mut server, NOW, message("", last)).unwrap();
    }
    server.lose_suffix("log", 3);
    assert_eq!(last(&server), 3);
    assert_eq!(server.message("log", 4), Ok(None));
    assert_eq!(publish(&mut server, NOW, message("x", 3)), stored(4));
}

#[test]
fn a_lost_message_leaves_a_hole_that_consumers_pass_over() {
    let mut server = server(false);
    for last in 0..5 {
        publish(&mut server, NOW, message("", last)).unwrap();
    }
    assert!(server.lose_message("log", 3));
    assert!(!server.lose_message("log", 5), "the last one is no hole");
    assert_eq!(server.next_message("log", 3).unwrap().unwrap().seq, 4);
    assert_eq!(last(&server), 5);
    let before = server.message("log", 2).unwrap().unwrap().payload.clone();
    assert!(server.flip_byte("log", 2, 3));
    assert_ne!(server.message("log", 2).unwrap().unwrap().payload, before);
}

#[test]
fn a_stream_that_comes_back_is_another_one() {
    let mut server = server(false);
    publish(&mut server, NOW, message("a", 0)).unwrap();
    server.lose_stream("log");
    assert_eq!(publish(&mut server, NOW, message("b", 1)), Err(PublishError::NoResponders));
    assert_eq!(server.info("log"), Err(ApiError::StreamNotFound));
    let later = NOW.plus_ms(7);
    assert_eq!(server.create_stream(later, stream_config()).unwrap().created, later);
    let refused = publish(&mut server, later, message("b", 1));
    assert_eq!(refused, Err(PublishError::WrongLastSequence { last: 0 }));
}
