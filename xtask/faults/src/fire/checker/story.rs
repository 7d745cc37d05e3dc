//! The lines of a history, put together.

use std::collections::{BTreeMap, BTreeSet};

use crate::fire::history::{Answer, Call, Happened, Line, LineAnswer, Order, Seen};

/// A question and its answer.
pub(super) struct Op<'a> {
    pub(super) node: &'a str,
    pub(super) asked_us: u64,
    pub(super) call: &'a Call,
    /// When, and what; nothing when nobody came back to say.
    pub(super) answered: Option<(u64, &'a Answer)>,
}

/// A task that a node has answered for with 2xx.
pub(super) struct Accepted<'a> {
    pub(super) task: &'a str,
    pub(super) node: &'a str,
    pub(super) answered_us: u64,
    /// The order; a retry asks for the same again.
    pub(super) order: Option<&'a Order>,
    pub(super) key: Option<&'a str>,
}

/// Everything that is known.
pub(super) struct Story<'a> {
    /// In the order in which they were asked.
    pub(super) ops: Vec<Op<'a>>,
    pub(super) accepted: Vec<Accepted<'a>>,
    /// When each process was started, in order.
    starts: BTreeMap<&'a str, Vec<u64>>,
    /// Processes that have ended by themselves: which, and how.
    pub(super) ended: Vec<(&'a str, &'a str)>,
    /// The tasks that each node lists at the end.
    pub(super) listed: BTreeMap<&'a str, BTreeMap<&'a str, &'a Seen>>,
    /// Tasks a node lists twice.
    pub(super) listed_twice: Vec<(&'a str, &'a str)>,
    pub(super) shown: Vec<(&'a str, &'a Seen, &'a [Happened])>,
    /// Node, tasks that are not final, slots in use.
    pub(super) idle: Vec<(&'a str, u64, u64)>,
    /// Tasks that somebody has asked to cancel, whatever came of it.
    pub(super) cancel_asked: BTreeSet<&'a str>,
}

impl<'a> Story<'a> {
    pub(super) fn of(lines: &'a [Line]) -> Self {
        let mut story = Self {
            ops: Vec::new(),
            accepted: Vec::new(),
            starts: BTreeMap::new(),
            ended: Vec::new(),
            listed: BTreeMap::new(),
            listed_twice: Vec::new(),
            shown: Vec::new(),
            idle: Vec::new(),
            cancel_asked: BTreeSet::new(),
        };
        let mut ops: BTreeMap<u64, Op<'a>> = BTreeMap::new();
        // Questions first: the files of different clients come in any order, but a question stands
        // before its answer in its own.
        for line in lines {
            match line {
                Line::Asked { op, node, at_us, call } => {
                    ops.insert(*op, Op { node, asked_us: *at_us, call, answered: None });
                }
                Line::Answered { op, at_us, answer } => {
                    if let Some(op) = ops.get_mut(op) {
                        op.answered = Some((*at_us, answer));
                    }
                }
                other => story.take(other),
            }
        }
        story.ops = ops.into_values().collect();
        story.ops.sort_by_key(|op| op.asked_us);
        story.starts.values_mut().for_each(|starts| starts.sort_unstable());
        story.accept();
        story
    }

    fn take(&mut self, line: &'a Line) {
        match line {
            Line::Started { member, at_us } => self.starts.entry(member).or_default().push(*at_us),
            Line::EndedByItself { member, how, .. } => self.ended.push((member, how)),
            Line::Listed { node, seen } => {
                if self.listed.entry(node).or_default().insert(&seen.task, seen).is_some() {
                    self.listed_twice.push((node, &seen.task));
                }
            }
            Line::Shown { node, seen, happened } => self.shown.push((node, seen, happened)),
            Line::Idle { node, unfinished, slots_used } => {
                self.idle.push((node, *unfinished, *slots_used));
                // A node that lists nothing at all has been asked too.
                self.listed.entry(node).or_default();
            }
            Line::Fault { .. } | Line::Asked { .. } | Line::Answered { .. } => {}
        }
    }

    fn accept(&mut self) {
        let orders: BTreeMap<&str, &Order> = self
            .ops
            .iter()
            .flat_map(|op| op.orders())
            .filter_map(|order| Some((order.name.as_deref()?, order)))
            .collect();
        for op in &self.ops {
            if let Call::Cancel { task } = op.call {
                self.cancel_asked.insert(task);
            }
            let Some((answered_us, answer)) = op.answered else { continue };
            let accepted =
                |task, order: Option<&'a Order>, key| Accepted { task, node: op.node, answered_us, order, key };
            match (op.call, answer) {
                (Call::Submit(order), Answer::Task { seen, .. }) => {
                    self.accepted.push(accepted(&seen.task, Some(order), order.key.as_deref()));
                }
                (Call::Run(order), Answer::RunEnded { task, .. }) => {
                    self.accepted.push(accepted(task, Some(order), None));
                }
                (Call::Retry { key, .. }, Answer::Task { seen, .. }) => {
                    let order = seen.name.as_deref().and_then(|name| orders.get(name)).copied();
                    self.accepted.push(accepted(&seen.task, order, Some(key)));
                }
                (Call::Bulk(asked), Answer::Lines(answers)) => {
                    for (order, answer) in asked.iter().zip(answers) {
                        if let LineAnswer::Accepted { task } = answer {
                            self.accepted.push(accepted(task, Some(order), order.key.as_deref()));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Which life of a process that was, counted from 1; 0 before the first.
    pub(super) fn life(&self, member: &str, at_us: u64) -> usize {
        self.starts.get(member).map_or(0, |starts| starts.partition_point(|start| *start <= at_us))
    }

    /// A task as it is at the end, wherever it is listed.
    pub(super) fn at_the_end(&self, task: &str) -> Option<&'a Seen> {
        self.listed.values().find_map(|tasks| tasks.get(task)).copied()
    }

    /// How many tasks have ended in which way.
    pub(super) fn ends(&self) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for seen in self.listed.values().next().into_iter().flat_map(BTreeMap::values) {
            *counts.entry(seen.ended_as.as_deref().unwrap_or(&seen.state)).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(end, count)| format!("{count} {end}")).collect();
        counts.join(", ")
    }
}

impl<'a> Op<'a> {
    /// Whether it is known what came of it.
    pub(super) fn is_clear(&self) -> bool {
        !matches!(self.answered, None | Some((_, Answer::Unknown { .. })))
    }

    /// The orders that it asks for.
    pub(super) fn orders(&self) -> &'a [Order] {
        match self.call {
            Call::Submit(order) | Call::Run(order) => std::slice::from_ref(order),
            Call::Bulk(orders) => orders,
            Call::Retry { .. } | Call::Cancel { .. } | Call::Get { .. } => &[],
        }
    }

    /// The task that it is about, for questions that name one.
    pub(super) fn about(&self) -> Option<&'a str> {
        match self.call {
            Call::Retry { task, .. } | Call::Cancel { task } | Call::Get { task } => Some(task),
            Call::Submit(_) | Call::Bulk(_) | Call::Run(_) => None,
        }
    }

    /// The task as the answer shows it.
    pub(super) fn seen(&self) -> Option<&'a Seen> {
        match self.answered {
            Some((_, Answer::Task { seen, .. })) => Some(seen),
            _ => None,
        }
    }
}
