//! The promises of every [`Bus`](wasmill_fabric::Bus).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use wasmill_fabric::BusError;

use crate::conformance::{Fixture, PATIENCE};

/// Long enough for no answer to come that will never come.
const SHORTLY: Duration = Duration::from_millis(50);

pub(crate) async fn a_request_is_answered(fixture: &Fixture) {
    let mut echo = fixture.bus.subscribe("echo", 10).await.unwrap();
    let server = tokio::spawn(async move {
        for _ in 0..20 {
            let message = echo.recv().await.unwrap();
            assert_eq!(message.subject, "echo");
            let answer = [&b"heard "[..], &message.content.into_bytes()].concat();
            message.responder.unwrap().respond(Bytes::from(answer).into());
        }
    });
    for number in 0..20 {
        let answer = fixture.bus.request("echo", format!("{number}").into(), PATIENCE).await.unwrap();
        assert_eq!(answer, format!("heard {number}"));
    }
    server.await.unwrap();
}

pub(crate) async fn nobody_to_ask_is_an_error(fixture: &Fixture) {
    let _other = fixture.bus.subscribe("somebody.else", 1).await.unwrap();
    for subject in ["somebody", "somebody.else.", "nobody"] {
        let error = fixture.bus.request(subject, Bytes::new(), PATIENCE).await.unwrap_err();
        assert!(matches!(&error, BusError::NoSubscriber(named) if named == subject), "{error}");
    }
    fixture.bus.publish("nobody", Bytes::new()).await.unwrap();
}

pub(crate) async fn a_dropped_request_and_a_silent_subscriber_are_no_answer(fixture: &Fixture) {
    let mut subscription = fixture.bus.subscribe("silent", 10).await.unwrap();
    let request = fixture.bus.request("silent", Bytes::new(), SHORTLY);
    let (answer, message) = tokio::join!(request, subscription.recv());
    assert!(matches!(answer, Err(BusError::NoAnswer(_))), "{answer:?}");
    // Too late, which the responder does not notice.
    message.unwrap().responder.unwrap().respond(Bytes::new().into());

    let request = fixture.bus.request("silent", Bytes::new(), SHORTLY);
    let (answer, ()) = tokio::join!(request, async { drop(subscription.recv().await) });
    assert!(matches!(answer, Err(BusError::NoAnswer(_))), "{answer:?}");
}

pub(crate) async fn a_publication_reaches_every_subscriber_of_its_subject(fixture: &Fixture) {
    let mut first = fixture.bus.subscribe("news", 10).await.unwrap();
    let mut second = fixture.bus.subscribe("news", 10).await.unwrap();
    let mut other = fixture.bus.subscribe("other", 10).await.unwrap();
    fixture.bus.publish("other", "not news".into()).await.unwrap();
    fixture.bus.publish("news", "news".into()).await.unwrap();
    for subscription in [&mut first, &mut second] {
        let message = subscription.recv().await.unwrap();
        assert_eq!((message.subject.as_str(), &message.content.into_bytes()[..]), ("news", &b"news"[..]));
        assert!(message.responder.is_none());
    }
    assert_eq!(other.recv().await.unwrap().content.into_bytes(), "not news");
}

pub(crate) async fn a_full_queue_loses_messages_and_refuses_requests(fixture: &Fixture) {
    const CAPACITY: usize = 3;
    const SENT: usize = 100;
    let mut subscription = fixture.bus.subscribe("full", CAPACITY).await.unwrap();
    for number in 0..SENT {
        fixture.bus.publish("full", format!("{number}").into()).await.unwrap();
    }
    let refused = fixture.bus.request("full", Bytes::new(), SHORTLY).await;
    assert!(matches!(refused, Err(BusError::Full(_) | BusError::NoAnswer(_))), "{refused:?}");
    assert_eq!(subscription.recv().await.unwrap().content.into_bytes(), "0");
    let mut waiting = 1;
    while subscription.try_recv().is_ok() {
        waiting += 1;
    }
    assert!(waiting < SENT, "{waiting} of {SENT} messages waited in a queue of {CAPACITY}");
}

pub(crate) async fn a_dropped_subscription_is_gone(fixture: &Fixture) {
    let gone = fixture.bus.subscribe("left", 1).await.unwrap();
    drop(gone);
    let refused = fixture.bus.request("left", Bytes::new(), PATIENCE).await;
    assert!(matches!(refused, Err(BusError::NoSubscriber(_))), "{refused:?}");

    let mut stays = fixture.bus.subscribe("left", 1).await.unwrap();
    fixture.bus.publish("left", "still here".into()).await.unwrap();
    assert_eq!(stays.recv().await.unwrap().content.into_bytes(), "still here");
}

pub(crate) async fn a_star_stands_for_any_last_part(fixture: &Fixture) {
    let mut all = fixture.bus.subscribe("all.*", 10).await.unwrap();
    for subject in ["all", "all.a.b", "other.a"] {
        fixture.bus.publish(subject, "not for us".into()).await.unwrap();
    }
    fixture.bus.publish("all.a", "first".into()).await.unwrap();
    let message = all.recv().await.unwrap();
    assert_eq!((message.subject.as_str(), &message.content.into_bytes()[..]), ("all.a", &b"first"[..]));
    let request = fixture.bus.request("all.b", Bytes::new(), PATIENCE);
    let (answer, subject) = tokio::join!(request, async {
        let message = all.recv().await.unwrap();
        message.responder.unwrap().respond(Bytes::from("heard").into());
        message.subject
    });
    assert_eq!((answer.unwrap(), subject.as_str()), (Bytes::from("heard"), "all.b"));
}

pub(crate) async fn a_message_over_the_limit_is_refused(fixture: &Fixture) {
    let bytes_max = fixture.bus.payload_bytes_max();
    let mut subscription = fixture.bus.subscribe("large", 10).await.unwrap();
    let over = Bytes::from(vec![0; bytes_max + 1]);
    for refused in
        [fixture.bus.publish("large", over.clone()).await, fixture.bus.request("large", over, PATIENCE).await.map(drop)]
    {
        assert!(matches!(refused, Err(BusError::TooLarge { bytes, .. }) if bytes == bytes_max + 1), "{refused:?}");
    }
    fixture.bus.publish("large", vec![0; bytes_max].into()).await.unwrap();
    assert_eq!(subscription.recv().await.unwrap().content.into_bytes().len(), bytes_max);
}

pub(crate) async fn what_is_shared_goes_to_one_of_those_who_share(fixture: &Fixture) {
    const SENT: usize = 100;
    let mut first = fixture.bus.subscribe_shared("work.*", SENT).await.unwrap();
    let mut second = fixture.bus.subscribe_shared("work.*", SENT).await.unwrap();
    let mut watcher = fixture.bus.subscribe("work.*", SENT).await.unwrap();
    for number in 0..SENT {
        fixture.bus.publish("work.a", format!("{number}").into()).await.unwrap();
    }
    let (mut counts, mut seen) = ([0, 0], BTreeSet::new());
    for _ in 0..SENT {
        let (index, message) = tokio::select! {
            message = first.recv() => (0, message.unwrap()),
            message = second.recv() => (1, message.unwrap()),
        };
        counts[index] += 1;
        assert!(seen.insert(message.content.into_bytes()), "once among them");
        watcher.recv().await.unwrap();
    }
    assert!(counts.iter().all(|count| *count > SENT / 10), "{counts:?}");

    drop((first, watcher));
    let server = tokio::spawn(async move {
        while let Some(message) = second.recv().await {
            if let Some(responder) = message.responder {
                responder.respond(Bytes::from("heard").into());
            }
        }
    });
    // A message for a subscriber that leaves at this moment is lost; one that stays gets the later
    // ones.
    while fixture.bus.request("work.b", Bytes::new(), SHORTLY).await.is_err() {}
    for _ in 0..20 {
        assert_eq!(fixture.bus.request("work.b", Bytes::new(), PATIENCE).await.unwrap(), "heard");
    }
    server.abort();
}
