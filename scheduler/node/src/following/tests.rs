use super::*;

const SECOND_US: u64 = 1_000_000;

/// A node that knows the log up to record 5 of term 3, which ends at record `end`.
fn following(end: u64) -> Following {
    let beginning = Beginning { last: LogSeq(5), term: Term(3), end: LogSeq(end), clock_is_believed: true };
    Following::new(Config::default(), beginning, 0)
}

/// What is to be done, but for questions to the leader.
fn ready(following: &mut Following) -> Vec<Action> {
    let ready = following.take_ready().into_iter();
    ready.filter(|action| !matches!(action, Action::AskLeader(..))).collect()
}

fn read(last: u64, term: u64) -> Input {
    Input::Read { last: LogSeq(last), term: Term(term) }
}

fn nobody() -> Action {
    Action::TellLeader { answers: None }
}

/// One that stands for election, and is elected in a term.
fn elected(term: u64) -> Following {
    let mut following = following(5);
    assert_eq!(ready(&mut following), [Action::Stand]);
    following.step(10, Input::Elected(Term(term)));
    assert_eq!(ready(&mut following), [nobody(), Action::AskLog(Question(0))]);
    following
}

fn ends(following: &mut Following, now_us: u64, question: u64, end: Option<u64>) {
    following.step(now_us, Input::LogEnds { question: Question(question), end: end.map(LogSeq) });
}

#[test]
fn a_node_stands_for_election_once_it_has_read_what_was_there() {
    let mut following = following(7);
    following.step(1, read(6, 3));
    assert_eq!((ready(&mut following), following.is_caught_up()), (vec![], false));
    following.step(2, read(7, 3));
    assert_eq!((ready(&mut following), following.is_caught_up()), (vec![Action::Stand], true));
}

#[test]
fn an_elected_node_reads_to_the_end_before_it_leads() {
    let mut following = elected(9);
    ends(&mut following, 20, 0, Some(7));
    following.step(30, read(6, 3));
    assert_eq!(ready(&mut following), []);
    following.step(40, read(7, 4));
    assert_eq!(ready(&mut following), [Action::Lead(Term(9))]);
    following.step(50, Input::SeatLost);
    assert_eq!((ready(&mut following), following.next_timeout_us()), (vec![], u64::MAX));
}

#[test]
fn what_was_asked_before_the_election_does_not_count() {
    let mut following = following(5);
    following.step(2 * SECOND_US, Input::Tick);
    assert_eq!(ready(&mut following), [Action::Stand, Action::AskLog(Question(0))]);
    following.step(2 * SECOND_US, Input::Elected(Term(9)));
    ends(&mut following, 2 * SECOND_US, 0, Some(5));
    assert_eq!(ready(&mut following), [nobody(), Action::AskLog(Question(1))]);
    ends(&mut following, 2 * SECOND_US, 1, Some(5));
    assert_eq!(ready(&mut following), [Action::Lead(Term(9))]);
}

#[test]
fn a_record_that_is_read_while_catching_up_leaves_the_question_open() {
    let mut following = elected(9);
    for last in 6..20 {
        following.step(last * 100_000, read(last, 3));
        assert_eq!(ready(&mut following), []);
    }
    ends(&mut following, 2 * SECOND_US, 0, Some(19));
    assert_eq!(ready(&mut following), [Action::Lead(Term(9))]);
}

#[test]
fn an_elected_node_that_reads_and_is_not_told_where_the_log_ends_asks_again() {
    let mut following = elected(9);
    let (mut now_us, mut last) = (10, 5);
    let again = loop {
        now_us += 100_000;
        last += 1;
        following.step(now_us, read(last, 3));
        if let Some(Action::AskLog(question)) = ready(&mut following).first() {
            break *question;
        }
    };
    assert!(now_us <= 10 + watch::LOG.answer_us + watch::LOG.ask_again_us + 100_000, "{now_us}");
    following.step(now_us, Input::LogEnds { question: again, end: Some(LogSeq(last)) });
    assert_eq!(ready(&mut following), [Action::Lead(Term(9))]);
}

#[test]
fn a_term_that_was_there_before_the_node_stood_halts_it_and_a_later_one_makes_it_stand_again() {
    let mut following = elected(3);
    ends(&mut following, 20, 0, Some(5));
    assert_eq!(ready(&mut following), [Action::Halt { term: Term(3), seen: Term(3) }]);

    let mut following = elected(4);
    following.step(20, read(6, 8));
    ends(&mut following, 30, 0, Some(6));
    assert_eq!(ready(&mut following), [Action::Release(GivenUp::Overtaken)]);
    following.step(40, Input::Tick);
    assert_eq!(ready(&mut following), [Action::Stand]);
}

#[test]
fn an_elected_node_that_cannot_lead_lets_others_try() {
    let given_up = |input: &dyn Fn(&mut Following)| {
        let mut following = elected(9);
        input(&mut following);
        following.take_ready().into_iter().find(|action| matches!(action, Action::Release(_)))
    };
    let cases: [(&dyn Fn(&mut Following), GivenUp); 4] = [
        (&|following| following.step(20, Input::SeatLost), GivenUp::SeatLost),
        (&|following| following.step(20, Input::ReadFailed), GivenUp::LogUnreachable),
        (
            &|following| {
                following.step(20, Input::Clock { is_believed: false });
                ends(following, 30, 0, Some(5));
            },
            GivenUp::Clock,
        ),
        (
            &|following| {
                ends(following, 20, 0, Some(6));
                for second in (2..64).step_by(2) {
                    following.step(second * SECOND_US, read(5, 3));
                }
            },
            GivenUp::TooSlow,
        ),
    ];
    for (input, reason) in cases {
        assert_eq!(given_up(input), Some(Action::Release(reason)));
    }
}

#[test]
fn a_node_that_cannot_reach_the_log_stands_for_no_election() {
    let mut following = following(5);
    ready(&mut following);
    let mut now_us = 0;
    while following.phase == Phase::Standing {
        now_us = following.next_timeout_us();
        following.step(now_us, Input::Tick);
    }
    assert!((6 * SECOND_US..=10 * SECOND_US).contains(&now_us), "{now_us}");
    let said = ready(&mut following);
    assert_eq!(said[said.len() - 2..], [Action::TellLog { answers: false }, Action::Withdraw]);
    following.step(now_us, read(6, 3));
    assert_eq!(ready(&mut following), [Action::TellLog { answers: true }, Action::Stand]);
}

#[test]
fn an_elected_node_that_cannot_reach_the_log_gives_its_seat_back_and_waits() {
    let mut following = elected(9);
    let mut now_us = 10;
    while following.is_catching_up() {
        now_us = following.next_timeout_us();
        following.step(now_us, Input::Tick);
    }
    assert!((6 * SECOND_US..=10 * SECOND_US).contains(&now_us), "{now_us}");
    let said = ready(&mut following);
    let expected = [Action::Release(GivenUp::LogUnreachable), Action::TellLog { answers: false }];
    assert_eq!(said[said.len() - 2..], expected);
    following.step(now_us + 1, read(6, 3));
    assert_eq!(ready(&mut following), [Action::TellLog { answers: true }], "it was just out of reach");
    following.step(now_us + SECOND_US / 2, Input::Tick);
    assert_eq!(ready(&mut following), [Action::Stand]);
}

#[test]
fn a_node_whose_clock_is_not_believed_withdraws() {
    let mut following = following(5);
    following.step(1, Input::Clock { is_believed: false });
    assert_eq!(ready(&mut following), [Action::Stand, Action::Withdraw]);
    following.step(2, Input::Clock { is_believed: true });
    assert_eq!(ready(&mut following), [Action::Stand]);
}

/// Answers every question to the leader in the same way. When its clients are first told that it does or does not answer.
fn told(presence: Presence) -> (bool, u64) {
    let (mut following, mut now_us) = (following(9), 0);
    loop {
        let actions = following.take_ready();
        if actions.is_empty() {
            now_us = following.next_timeout_us();
            following.step(now_us, Input::Tick);
        }
        for action in actions {
            match action {
                Action::AskLeader(question, term) => {
                    assert_eq!(term, Term(3));
                    if presence != Presence::Silent {
                        following.step(now_us, Input::LeaderAsked { question, presence });
                    }
                }
                Action::TellLeader { answers } => return (answers.is_some(), now_us),
                _ => {}
            }
        }
    }
}

#[test]
fn f54_a_leader_that_has_gone_or_is_silent_is_noticed_within_a_lease() {
    assert_eq!(told(Presence::Leads), (true, 0));
    assert_eq!(told(Presence::Gone), (false, 100_000), "it is asked once more");
    let (answers, at_us) = told(Presence::Silent);
    assert!(!answers && (4 * SECOND_US..=5 * SECOND_US).contains(&at_us), "{at_us}");
}

#[test]
fn a_leader_that_has_gone_is_asked_seldom_until_a_later_one_is_read_of() {
    let (mut following, mut now_us, mut asked) = (following(9), 0, Vec::new());
    while now_us < 10 * SECOND_US {
        for action in following.take_ready() {
            if let Action::AskLeader(question, _) = action {
                asked.push(now_us);
                following.step(now_us, Input::LeaderAsked { question, presence: Presence::Gone });
            }
        }
        now_us = following.next_timeout_us();
        following.step(now_us, Input::Tick);
    }
    assert_eq!(asked[..4], [0, 100_000, 1_100_000, 2_100_000]);
    assert!(asked.len() <= 11, "{asked:?}");
}

#[test]
fn the_leader_of_a_later_term_has_all_its_time_and_where_nobody_has_led_nobody_is_asked() {
    let mut following = following(9);
    let asked = |following: &mut Following| match following.take_ready().last() {
        Some(Action::AskLeader(question, term)) => (*question, *term),
        other => panic!("{other:?}"),
    };
    let (question, _) = asked(&mut following);
    following.step(0, Input::LeaderAsked { question, presence: Presence::Gone });
    following.step(1, read(6, 4));
    let (question, term) = asked(&mut following);
    assert_eq!(term, Term(4));
    following.step(2, Input::LeaderAsked { question, presence: Presence::Gone });
    assert_eq!(following.take_ready(), [], "its predecessor was gone");

    let beginning = Beginning { last: LogSeq(0), term: Term(0), end: LogSeq(0), clock_is_believed: true };
    let mut following = Following::new(Config::default(), beginning, 0);
    assert_eq!(following.take_ready(), [Action::Stand]);
}
