//! Listings: the intersection of ordered indexes, walked from the newest task down or from the
//! oldest up.
//!
//! Every filter has an index that can say "your next task from this row on". The walk asks them in
//! turn and leaps to the farthest answer until all agree. So a filter that matches little is quick
//! whatever the others match, and the work is bounded by the number of questions, never by the size
//! of the table.

use std::collections::BTreeMap;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Statement, ToSql};
use wasmill_protocol::{TaskSpec, TaskState, TenantName};

use super::codec::time_number;
use super::filter::{Cursor, Page, Scan, ScanPage, TaskFilter};
use super::read::{self, Stored};
use super::row::TaskRow;
use super::store::{STATES, state_number};
use super::stored::{spec_bytes, view_bytes};

/// Questions to indexes that one page asks at most, about 50 ms of work. Then it ends early, with a
/// cursor.
const QUESTIONS_MAX: u32 = 20_000;
/// Questions that one step asks at most, about 5 ms of work: others read between two steps.
const QUESTIONS_PER_STEP: u32 = 2_000;
/// Tasks that one step reads at most.
const TASKS_PER_STEP: usize = 100;
/// Bytes that the tasks of a page take as JSON, about: then it ends early, but never without any.
const SHOWN_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes that they take in memory with payloads and results.
const HELD_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The memory of a small task, about.
const TASK_BYTES: u64 = 1024;
/// Bytes of tasks after which a page of a scan ends; one more task may go over it.
const SCAN_BYTES_MAX: u64 = 256 * 1024;

/// Which way a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    NewestFirst,
    OldestFirst,
}

/// The rest of one page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    tasks: usize,
    questions: u32,
    shown_bytes: u64,
    held_bytes: u64,
}

impl Budget {
    /// A page of at most `tasks` tasks.
    pub(super) fn new(tasks: usize) -> Self {
        Self { tasks, questions: QUESTIONS_MAX, shown_bytes: SHOWN_BYTES_MAX, held_bytes: HELD_BYTES_MAX }
    }

    /// Whether nothing more belongs on the page.
    pub(super) fn is_spent(&self) -> bool {
        self.tasks == 0 || self.questions == 0 || self.shown_bytes == 0 || self.held_bytes == 0
    }

    fn spend(&mut self, stored: &Stored) {
        self.tasks -= 1;
        self.shown_bytes = self.shown_bytes.saturating_sub(shown_bytes(&stored.spec));
        self.held_bytes = self.held_bytes.saturating_sub(spec_bytes(&stored.spec) + view_bytes(&stored.standing.view));
    }
}

/// A step of a listing: some tasks of a tenant, each as `show` makes it. The budget tells whether
/// more belong on the same page.
pub(super) fn step<T>(
    connection: &Connection,
    tenant: &TenantName,
    filter: &TaskFilter,
    budget: &mut Budget,
    cursor: Option<Cursor>,
    show: impl Fn(TaskRow) -> T,
) -> rusqlite::Result<Page<T>> {
    // One transaction, so that all questions are answered from the same state.
    let snapshot = connection.unchecked_transaction()?;
    let bounds = bounds(&snapshot, filter)?;
    let begin = cursor.map_or(bounds.newest, |cursor| bounds.newest.min(cursor.0));
    let questions_max = budget.questions.min(QUESTIONS_PER_STEP);
    let walk = Walk::begin(&snapshot, tenant, filter, Order::NewestFirst, begin..bounds.oldest - 1, questions_max)?;
    let Some(mut walk) = walk else { return Ok(Page::default()) };
    let (mut tasks, before) = (Vec::new(), budget.shown_bytes);
    while tasks.len() < TASKS_PER_STEP
        && !budget.is_spent()
        && let Some(row) = walk.next()?
    {
        if let Some(stored) = read::task_in(&snapshot, row)? {
            budget.spend(&stored);
            tasks.push(show(stored.standing.into_row(stored.id, stored.spec)));
        }
    }
    let questions = walk.questions;
    let next = walk.rest()?;
    budget.questions = budget.questions.saturating_sub(questions);
    Ok(Page { tasks, next, shown_bytes: before - budget.shown_bytes })
}

/// The memory of a task in a listing, about: its texts as JSON writes them, and the rest of the
/// document.
fn shown_bytes(spec: &TaskSpec) -> u64 {
    const DOCUMENT_BYTES: usize = 1024;
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let text = |text: &String| text.bytes().map(escaped).sum::<usize>() + 3;
    let map = |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| text(key) + text(value)).sum::<usize>();
    let single = [&spec.name, &spec.description, &spec.idempotency_key];
    let texts = single.into_iter().flatten().map(text).sum::<usize>() + spec.args.iter().map(text).sum::<usize>();
    (DOCUMENT_BYTES + texts + map(&spec.env) + map(&spec.labels) + map(&spec.require)) as u64
}

/// The range of a scan of a tenant's tasks: those that are there now.
pub(super) fn scan(connection: &Connection) -> rusqlite::Result<Scan> {
    let newest =
        connection.prepare_cached("SELECT coalesce(max(row), 0) FROM task")?.query_row([], |row| row.get(0))?;
    Ok(Scan { next: 0, last: newest })
}

/// The next page of a scan.
pub(super) fn scan_page<T>(
    connection: &Connection,
    tenant: &TenantName,
    filter: &TaskFilter,
    scan: Scan,
    show: impl Fn(TaskRow) -> T,
) -> rusqlite::Result<ScanPage<T>> {
    let snapshot = connection.unchecked_transaction()?;
    let bounds = bounds(&snapshot, filter)?;
    let (begin, last) = (scan.next.max(bounds.oldest), scan.last.min(bounds.newest));
    let rows = begin..last.saturating_add(1);
    let walk = Walk::begin(&snapshot, tenant, filter, Order::OldestFirst, rows, QUESTIONS_PER_STEP)?;
    let Some(mut walk) = walk else { return Ok(ScanPage::default()) };
    let (mut tasks, mut bytes) = (Vec::new(), 0);
    while bytes < SCAN_BYTES_MAX
        && let Some(row) = walk.next()?
    {
        if let Some(stored) = read::task_in(&snapshot, row)? {
            bytes += TASK_BYTES + spec_bytes(&stored.spec) + view_bytes(&stored.standing.view);
            tasks.push(show(stored.standing.into_row(stored.id, stored.spec)));
        }
    }
    let rest = (!walk.is_over()).then_some(Scan { next: walk.candidate, last: scan.last });
    Ok(ScanPage { tasks, rest })
}

/// The rows between which a filter's times are.
struct Bounds {
    oldest: i64,
    newest: i64,
}

fn bounds(connection: &Connection, filter: &TaskFilter) -> rusqlite::Result<Bounds> {
    let newest = match filter.created_before {
        Some(before) => first_row_from(connection, time_number(before))? - 1,
        None => i64::MAX,
    };
    let oldest = match filter.created_after {
        Some(after) => first_row_from(connection, time_number(after).saturating_add(1))?,
        None => 1,
    };
    Ok(Bounds { oldest, newest })
}

struct Walk<'c> {
    order: Order,
    streams: Vec<Stream<'c>>,
    /// The next row that may match.
    candidate: i64,
    /// Neither this row nor any behind it matches.
    end: i64,
    questions: u32,
    questions_max: u32,
}

/// A filter as a sequence of rows in the order of the walk: the union of what its questions find.
struct Stream<'c> {
    order: Order,
    sources: Vec<Source<'c>>,
}

struct Source<'c> {
    statement: Statement<'c>,
    /// The last parameter is the row.
    row_parameter: usize,
    /// The answer to the last question, which stays right until the walk has passed it.
    answer: Answer,
}

#[derive(Clone, Copy)]
enum Answer {
    Unasked,
    Row(i64),
    Nothing,
}

impl Order {
    /// Whether `row` comes before `other`.
    fn is_before(self, row: i64, other: i64) -> bool {
        match self {
            Self::NewestFirst => row > other,
            Self::OldestFirst => row < other,
        }
    }

    /// The row after `row`.
    fn after(self, row: i64) -> i64 {
        match self {
            Self::NewestFirst => row - 1,
            Self::OldestFirst => row + 1,
        }
    }

    /// The end of a question for the first row from parameter `number` on.
    fn starting_at(self, number: usize) -> String {
        match self {
            Self::NewestFirst => format!("row <= ?{number} ORDER BY row DESC LIMIT 1"),
            Self::OldestFirst => format!("row >= ?{number} ORDER BY row LIMIT 1"),
        }
    }
}

impl<'c> Walk<'c> {
    /// From the first of `rows` on to before the last one. `None` when nothing can match.
    fn begin(
        connection: &'c Connection,
        tenant: &TenantName,
        filter: &TaskFilter,
        order: Order,
        rows: Range<i64>,
        questions_max: u32,
    ) -> rusqlite::Result<Option<Self>> {
        let tenant: Option<i64> = connection
            .prepare_cached("SELECT no FROM tenant WHERE name = ?1")?
            .query_row([tenant.as_str()], |row| row.get(0))
            .optional()?;
        let Some(tenant) = tenant else { return Ok(None) };
        let Some(streams) = streams(connection, tenant, filter, order)? else { return Ok(None) };
        Ok(Some(Self { order, streams, candidate: rows.start, end: rows.end, questions: 0, questions_max }))
    }

    /// Whether no row is left.
    fn is_over(&self) -> bool {
        !self.order.is_before(self.candidate, self.end)
    }

    /// The next row that matches all filters.
    fn next(&mut self) -> rusqlite::Result<Option<i64>> {
        let mut agreed = 0;
        let mut index = 0;
        while !self.is_over() && self.questions < self.questions_max {
            match self.streams[index].next_from(self.candidate, &mut self.questions)? {
                None => {
                    self.candidate = self.end;
                    return Ok(None);
                }
                Some(row) if row == self.candidate => agreed += 1,
                Some(row) => {
                    self.candidate = row;
                    agreed = 1;
                }
            }
            if self.is_over() {
                return Ok(None);
            }
            if agreed == self.streams.len() {
                let row = self.candidate;
                self.candidate = self.order.after(row);
                return Ok(Some(row));
            }
            index = (index + 1) % self.streams.len();
        }
        Ok(None)
    }

    /// Where the next page begins, if anything may be left.
    fn rest(mut self) -> rusqlite::Result<Option<Cursor>> {
        if self.questions >= self.questions_max {
            return Ok((!self.is_over()).then_some(Cursor(self.candidate)));
        }
        // A page that happens to end with the last task should say so.
        Ok(match self.next()? {
            Some(row) => Some(Cursor(row)),
            None => (!self.is_over()).then_some(Cursor(self.candidate)),
        })
    }
}

impl<'c> Stream<'c> {
    fn next_from(&mut self, row: i64, questions: &mut u32) -> rusqlite::Result<Option<i64>> {
        let mut first: Option<i64> = None;
        for source in &mut self.sources {
            if let Some(found) = source.next_from(row, self.order, questions)?
                && first.is_none_or(|first| self.order.is_before(found, first))
            {
                first = Some(found);
            }
        }
        Ok(first)
    }

    fn new(connection: &'c Connection, order: Order, sql: &str, values: &[&[&dyn ToSql]]) -> rusqlite::Result<Self> {
        let mut sources = Vec::with_capacity(values.len());
        for values in values {
            let row_parameter = values.len() + 1;
            let mut statement = connection.prepare(&format!("{sql} AND {}", order.starting_at(row_parameter)))?;
            for (value, parameter) in values.iter().zip(1..) {
                statement.raw_bind_parameter(parameter, value)?;
            }
            sources.push(Source { statement, row_parameter, answer: Answer::Unasked });
        }
        Ok(Self { order, sources })
    }
}

impl Source<'_> {
    fn next_from(&mut self, row: i64, order: Order, questions: &mut u32) -> rusqlite::Result<Option<i64>> {
        match self.answer {
            Answer::Nothing => return Ok(None),
            Answer::Row(answer) if !order.is_before(answer, row) => return Ok(Some(answer)),
            Answer::Row(_) | Answer::Unasked => {}
        }
        *questions += 1;
        self.statement.raw_bind_parameter(self.row_parameter, row)?;
        let mut rows = self.statement.raw_query();
        let found = match rows.next()? {
            Some(found) => Some(found.get(0)?),
            None => None,
        };
        self.answer = found.map_or(Answer::Nothing, Answer::Row);
        Ok(found)
    }
}

/// One stream for each filter; `None` when one of them matches nothing at all.
fn streams<'c>(
    connection: &'c Connection,
    tenant: i64,
    filter: &TaskFilter,
    order: Order,
) -> rusqlite::Result<Option<Vec<Stream<'c>>>> {
    let mut streams = Vec::new();
    if let Some(digest) = filter.module {
        let module: Option<i64> = connection
            .prepare_cached("SELECT no FROM module WHERE tenant = ?1 AND digest = ?2")?
            .query_row(rusqlite::params![tenant, digest.0], |row| row.get(0))
            .optional()?;
        let Some(module) = module else { return Ok(None) };
        let sql = "SELECT row FROM task INDEXED BY task_module WHERE module = ?1";
        streams.push(Stream::new(connection, order, sql, &[&[&module]])?);
    }
    if let Some(name) = &filter.name {
        let sql = "SELECT row FROM task INDEXED BY task_name WHERE tenant = ?1 AND name = ?2";
        streams.push(Stream::new(connection, order, sql, &[&[&tenant, name]])?);
    }
    for (key, value) in &filter.labels {
        let sql = "SELECT row FROM label WHERE tenant = ?1 AND key = ?2 AND value = ?3";
        streams.push(Stream::new(connection, order, sql, &[&[&tenant, key, value]])?);
    }
    // Without any filter the states together are all tasks of the tenant.
    if streams.is_empty() || !filter.states.is_empty() {
        let wanted = |state: &&TaskState| filter.states.is_empty() || filter.states.contains(*state);
        let numbers: Vec<i64> = STATES.iter().filter(wanted).map(|state| state_number(*state)).collect();
        let values: Vec<[&dyn ToSql; 2]> = numbers.iter().map(|number| [&tenant as _, number as _]).collect();
        let values: Vec<&[&dyn ToSql]> = values.iter().map(|values| &values[..]).collect();
        let sql = "SELECT row FROM task INDEXED BY task_state WHERE tenant = ?1 AND state = ?2";
        streams.push(Stream::new(connection, order, sql, &values)?);
    }
    Ok(Some(streams))
}

/// The lowest row created at or after `created`, or the one after the last: a binary search, as
/// rows are in the order of their creation.
fn first_row_from(connection: &Connection, created: i64) -> rusqlite::Result<i64> {
    // Two queries in one: SQLite answers only a lone `min` or `max` without reading the whole
    // table.
    let bounds = "SELECT coalesce((SELECT min(row) FROM task), 1), coalesce((SELECT max(row) FROM task), 0) + 1";
    let (mut low, mut high): (i64, i64) =
        connection.prepare_cached(bounds)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut probe = connection.prepare_cached("SELECT row, created FROM task WHERE row >= ?1 ORDER BY row LIMIT 1")?;
    // Rows below `low` are older, those from `high` on are not.
    while low < high {
        let middle = low + (high - low) / 2;
        let (row, found): (i64, i64) = probe.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if found < created {
            low = row + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
