use wasmill_protocol::message::StopCause;
use wasmill_protocol::{Attempt, AttemptId, HostId, Incarnation, Term};

use super::*;

fn message(assign: &[u32], stop: &[u32]) -> MessageOut {
    let id = |&number: &u32| AttemptId { attempt: Attempt(number), ..AttemptId::default() };
    MessageOut {
        host: HostId::from("host"),
        incarnation: Incarnation(1),
        term: Term(1),
        assign: assign.iter().map(|number| (id(number), 0)).collect(),
        stop: stop.iter().map(|number| (id(number), StopCause::Cancelled)).collect(),
    }
}

fn names(actions: &[Action<MessageOut>]) -> Vec<String> {
    let numbers = |message: &MessageOut| {
        let assign: Vec<_> = message.assign.iter().map(|(id, _)| id.attempt.0).collect();
        let stop: Vec<_> = message.stop.iter().map(|(id, _)| id.attempt.0).collect();
        format!("{assign:?} {stop:?}")
    };
    let name = |action: &Action<MessageOut>| match action {
        Action::Attach(message) => format!("attach {}", numbers(message)),
        Action::SendAttached => "send attached".to_owned(),
        Action::Send(message) => format!("send {}", numbers(message)),
    };
    actions.iter().map(name).collect()
}

#[test]
fn messages_leave_in_their_order_and_stops_at_once() {
    let mut post = Post::<MessageOut>::default();
    assert!(
        post.decided(message(&[1], &[])) && post.decided(message(&[2], &[])) && post.decided(message(&[3], &[1, 2]))
    );
    assert_eq!(names(&post.take_ready()), ["attach [1] []", "send [] [1, 2]"]);
    post.attached();
    assert_eq!(names(&post.take_ready()), ["send attached", "attach [2] []"]);
    post.attached();
    assert_eq!(names(&post.take_ready()), ["send attached", "attach [3] []"]);
    post.attached();
    assert_eq!(names(&post.take_ready()), ["send attached"]);
    assert!(!post.is_idle());
    (0..4).for_each(|_| post.answered());
    assert!(post.is_idle());
}

#[test]
fn a_stop_goes_with_its_message_when_nothing_is_before_it() {
    let mut post = Post::<MessageOut>::default();
    post.decided(message(&[1], &[7]));
    assert_eq!(names(&post.take_ready()), ["attach [1] [7]"]);
}

#[test]
fn a_host_that_does_not_answer_gets_no_more_than_it_may_and_its_stops() {
    let mut post = Post::<MessageOut>::default();
    for number in 0..u32::try_from(UNANSWERED_MAX).unwrap() {
        post.decided(message(&[number], &[]));
        post.attached();
    }
    post.take_ready();
    post.decided(message(&[9_000], &[]));
    post.attached();
    post.decided(message(&[9_001], &[9_000]));
    assert_eq!(names(&post.take_ready()), ["attach [9000] []", "send [] [9000]"]);
    post.answered();
    assert_eq!(names(&post.take_ready()), [""; 0], "the stop has taken the place");
    post.answered();
    assert_eq!(names(&post.take_ready()), ["send attached", "attach [9001] []"]);
}

#[test]
fn no_more_wait_than_may() {
    let mut post = Post::<MessageOut>::default();
    for number in 0..u32::try_from(WAITING_MAX).unwrap() {
        assert!(post.decided(message(&[number], &[])));
    }
    assert!(!post.decided(message(&[], &[1])));
    assert_eq!(post.waits(), WAITING_MAX);
    post.attached();
    assert!(post.decided(message(&[], &[1])));
}
