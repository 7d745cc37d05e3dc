//! After the last fault: waits until everything is final, and writes down what every node shows.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use super::client::Node;
use super::history::{Happened, Line, Seen, Writer};
use wasmill_processes::http::Http;

/// A page of a listing.
const PAGE: usize = 1000;
/// Between two looks at what is not final yet.
const LOOK: Duration = Duration::from_millis(200);
/// Tasks that are looked at one by one.
const SHOWN_MAX: usize = 4000;
/// Lines of a process's log that tell of a bug.
const PANIC: &str = "panicked at";

/// Waits until every node says that nothing is left to do.
///
/// # Errors
///
/// It takes longer than `patience`; what is left is named.
pub(crate) fn wait_until_idle(http: &Http, nodes: &[Node], patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let busy: Vec<String> = nodes.iter().filter_map(|node| busy(http, node)).collect();
        if busy.is_empty() {
            return Ok(());
        }
        let busy = busy.join("\n");
        ensure!(begun.elapsed() < patience, "not everything is final {patience:?} after the last fault:\n{busy}");
        thread::sleep(LOOK);
    }
}

/// The work that a node still has.
fn busy(http: &Http, node: &Node) -> Option<String> {
    let left = || -> Result<Option<String>> {
        let (unfinished, slots_used) = idle(http, node)?;
        let url = format!("{}/v1/tasks?limit=3&state=waiting&state=queued&state=running", node.url);
        let listed = http.get(&url)?["items"].clone();
        let is_idle = unfinished == 0 && slots_used == 0 && listed.as_array().is_some_and(Vec::is_empty);
        Ok((!is_idle).then(|| format!("{unfinished} tasks in its queue, {slots_used} slots in use, it lists {listed}")))
    };
    let left = left().unwrap_or_else(|error| Some(format!("{error:#}")));
    left.map(|left| format!("{}: {left}", node.name))
}

/// Tasks that are not final, and slots that are in use.
fn idle(http: &Http, node: &Node) -> Result<(u64, u64)> {
    let queue = http.get(&format!("{}/v1/status", node.url))?["queue"].clone();
    let count =
        |state: &str| queue[state].as_u64().with_context(|| format!("{} does not count {state} tasks", node.name));
    let unfinished = count("waiting")? + count("queued")? + count("running")?;
    let hosts = http.get(&format!("{}/v1/hosts?limit=1000", node.url))?["items"].clone();
    let hosts = hosts.as_array().context("there is no list of hosts")?;
    let used = hosts.iter().filter(|host| host["state"] != "lost").filter_map(|host| host["slots_used"].as_u64()).sum();
    Ok((unfinished, used))
}

/// Writes down what every node shows.
pub(crate) fn write(http: &Http, nodes: &[Node], rng: &mut Rng, dir: &Path) -> Result<()> {
    let mut writer = Writer::create(dir, "end")?;
    let mut ids = Vec::new();
    for node in nodes {
        let (unfinished, slots_used) = idle(http, node)?;
        writer.line(&Line::Idle { node: node.name.clone(), unfinished, slots_used })?;
        let listed = list(http, node)?;
        for seen in &listed {
            writer.line(&Line::Listed { node: node.name.clone(), seen: seen.clone() })?;
        }
        ids = listed.into_iter().map(|seen| seen.task).collect();
    }
    rng.shuffle(&mut ids);
    for id in ids.iter().take(SHOWN_MAX) {
        let node = &nodes[rng.usize(0..nodes.len())];
        let url = format!("{}/v1/tasks/{id}", node.url);
        let seen = Seen::of(&http.get(&url)?).with_context(|| format!("{url} shows no task"))?;
        let happened = Happened::all_of(&http.get(&format!("{url}/events"))?);
        writer.line(&Line::Shown { node: node.name.clone(), seen, happened })?;
    }
    Ok(())
}

/// All tasks that a node lists.
fn list(http: &Http, node: &Node) -> Result<Vec<Seen>> {
    let mut tasks = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = http.get(&format!("{}/v1/tasks?limit={PAGE}{cursor}", node.url))?;
        let items = page["items"].as_array().context("a page has no items")?;
        for item in items {
            tasks.push(Seen::of(item).with_context(|| format!("{} lists what is no task: {item}", node.name))?);
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(tasks),
        }
    }
}

/// Lines in the logs of processes that tell of a bug, though the process may have lived on.
pub(crate) fn panics(logs: &Path, dir: &Path) -> Result<()> {
    let mut writer = Writer::create(dir, "panics")?;
    for entry in std::fs::read_dir(logs).with_context(|| format!("cannot list {}", logs.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", logs.display()))?.path();
        let member = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in String::from_utf8_lossy(&text).lines().filter(|line| line.contains(PANIC)) {
            writer.line(&Line::EndedByItself { member: member.clone(), at_us: 0, how: line.to_owned() })?;
        }
    }
    Ok(())
}
