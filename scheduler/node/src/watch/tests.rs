use super::*;

/// Asks something that answers after `takes_us`, or never, until it counts as gone or has answered. Whether it has, and when.
fn decided(config: Config, takes_us: Option<u64>) -> (bool, u64) {
    let (mut watch, mut now_us) = (Watch::new(config, 0), 0);
    let mut answers: Option<(Question, u64)> = None;
    loop {
        let next_us = watch.next_timeout_us();
        now_us = answers.map_or(next_us, |(_, at_us)| at_us.min(next_us)).max(now_us);
        if let Some((question, _)) = answers.take_if(|(_, at_us)| *at_us <= now_us)
            && watch.answered(question)
        {
            return (true, now_us);
        }
        if watch.is_late(now_us) && watch.unheard(now_us) {
            return (false, now_us);
        }
        if let Some(question) = watch.question(now_us) {
            answers = takes_us.map(|takes_us| (question, now_us + takes_us));
        }
    }
}

#[test]
fn what_answers_is_asked_when_nothing_else_tells() {
    for config in [LOG, LEADER] {
        assert_eq!(decided(config, Some(1)), (true, config.ask_after_us + 1));
    }
}

#[test]
fn f07_f54_what_is_silent_is_given_up_in_bounded_time() {
    for config in [LOG, LEADER] {
        for takes_us in [None, Some(config.answer_us + 1)] {
            let (has_answered, at_us) = decided(config, takes_us);
            let bound_us = config.silence_us_max + config.answer_us + config.ask_again_us;
            assert!(!has_answered && (config.silence_us_max..=bound_us).contains(&at_us), "{at_us}");
        }
    }
    assert!(LEADER.silence_us_max + LEADER.answer_us <= 5_000_000, "a leader is noticed within a lease");
}

#[test]
fn other_news_put_the_question_off_and_its_answer_does_not_count() {
    let mut watch = Watch::new(LOG, 0);
    for round in 1..10 {
        let now_us = round * LOG.ask_after_us / 2;
        assert_eq!(watch.question(now_us), None);
        watch.heard(now_us);
    }
    let now_us = watch.next_timeout_us();
    let question = watch.question(now_us).unwrap();
    assert_eq!(watch.question(now_us), None, "one at a time");
    watch.heard(now_us);
    assert!(!watch.answered(question));
}

#[test]
fn what_was_asked_before_it_begins_anew_does_not_count() {
    let mut watch = Watch::new(LOG, 0);
    let before = watch.question(LOG.ask_after_us).unwrap();
    let first = watch.begin_anew(LOG.ask_after_us);
    assert!(before < first && !watch.answered(before));
    assert_eq!(watch.question(LOG.ask_after_us), Some(first));
    assert!(watch.answered(first) && !watch.answered(first));
}

#[test]
fn what_says_twice_in_a_row_that_it_is_not_there_has_gone() {
    let mut watch = Watch::new(LEADER, 0);
    assert!(!watch.denied(1) && watch.denied(2));
    assert_eq!(watch.next_timeout_us(), 2 + LEADER.ask_gone_us);
    watch.heard(3);
    assert!(!watch.denied(4) && !watch.unheard(5) && !watch.denied(6));
    assert_eq!(watch.next_timeout_us(), 6 + LEADER.ask_again_us);
}
