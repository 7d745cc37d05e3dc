//! Runs `tests/scenarios/*.txt`.
//!
//! A scenario is prose and blocks. A block is some commands, a line `----`, and what the core then
//! hands out; the commands of a block are steps after which `take_ready` is called once.
//! `UPDATE_EXPECT=1` rewrites what is below `----`. The commands are described in
//! `tests/scenarios/README.md`.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use expect_test::expect_file;
use wasmill_protocol::command::{Command, KeyCheck, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::task::{Edge, EdgeOn, RetryOn, RetryPolicy};
use wasmill_protocol::tenant::{Quotas, Role, Token};
use wasmill_protocol::{
    HostId, Incarnation, Limits, LogSeq, Outcome, OutcomeKind, Payload, TaskSpec, TenantName, Term, Usage,
};
use wasmill_record::event::EventBody;
use wasmill_scheduler_core::policy::ask::{Outside, PolicyAnswer};
use wasmill_scheduler_core::policy::{Key, Keys, PolicyFault, Seat, Stride};
use wasmill_scheduler_core::{CoreConfig, Input, Ready, ReplyTo};

use crate::asks::Asks;
use crate::broken::Broken;
use crate::names::{Names, digest};
use crate::show;
use crate::world::World;

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= 20, "the scenarios are found");
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut scenario = Scenario::new(&path);
        let actual = scenario.run(&text);
        expect_file![&path].assert_eq(&actual);
        scenario.world.assert_follower_agrees();
    }
}

/// One file while it runs.
struct Scenario {
    world: World,
    names: Names,
    file: String,
    replies: u64,
    /// The text to print besides the ready parts.
    said: String,
    asks: Asks,
    /// The last heartbeat of each host: what is not said again stays.
    beats: std::collections::BTreeMap<HostId, Heartbeat>,
}

/// A command: words, and words with `=`.
struct Line<'a> {
    text: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, words: text.split_whitespace().collect() }
    }

    fn word(&self, index: usize) -> &'a str {
        let mut plain = self.words.iter().filter(|word| !word.contains('='));
        plain.nth(index).unwrap_or_else(|| panic!("`{}` lacks a word", self.text))
    }

    fn has(&self, flag: &str) -> bool {
        self.words.contains(&flag)
    }

    fn text_of(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text_of(name).map(|text| text.parse().unwrap_or_else(|_| panic!("`{}`: {name} is a number", self.text)))
    }

    fn tenant(&self) -> TenantName {
        self.text_of("tenant").unwrap_or("default").parse().unwrap()
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(self.number("life").unwrap_or(1))
    }

    /// `label=value` pairs after `name=`, separated by commas.
    fn labels(&self, name: &str) -> Option<std::collections::BTreeMap<String, String>> {
        let text = self.text_of(name)?;
        let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
        Some(pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect())
    }
}

impl Scenario {
    fn new(path: &Path) -> Self {
        Self {
            world: World::new(CoreConfig::default()),
            names: Names::default(),
            file: path.display().to_string(),
            replies: 0,
            said: String::new(),
            asks: Asks::default(),
            beats: std::collections::BTreeMap::new(),
        }
    }

    fn run(&mut self, text: &str) -> String {
        let mut output = String::new();
        let mut lines = text.lines();
        let mut stepped = false;
        while let Some(line) = lines.next() {
            writeln!(output, "{line}").unwrap();
            if line == "----" {
                assert!(stepped, "{}: there is a command before `----`", self.file);
                stepped = false;
                output.push_str(&self.flush());
                // The earlier text ends with an empty line.
                lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
                output.push('\n');
            } else if !line.is_empty() && !line.starts_with('#') {
                stepped = true;
                self.command(&Line::new(line));
            }
        }
        assert!(!stepped, "{}: the last command has a `----`", self.file);
        output.truncate(output.trim_end().len());
        output + "\n"
    }

    fn flush(&mut self) -> String {
        let ready = self.world.take_ready();
        let mut output = std::mem::take(&mut self.said);
        for event in &ready.events {
            if let EventBody::AttemptStarted { id, .. } = event.body {
                self.names.started(id);
            }
            writeln!(output, "log    {}", show::event(&self.names, &event.body)).unwrap();
        }
        self.show_effects(&ready, &mut output);
        for ask in &ready.asks {
            writeln!(output, "ask    {}", self.asks.show(&self.names, ask)).unwrap();
        }
        if output.is_empty() { "nothing\n".into() } else { output }
    }

    fn show_effects(&self, ready: &Ready, output: &mut String) {
        for message in &ready.messages {
            writeln!(output, "send   {}", show::message(&self.names, message)).unwrap();
        }
        for (_, result) in &ready.replies {
            writeln!(output, "answer {}", show::reply(&self.names, result)).unwrap();
        }
        if !ready.acks.is_empty() {
            writeln!(output, "ack    {}", ready.acks.len()).unwrap();
        }
    }

    fn command(&mut self, line: &Line<'_>) {
        match line.words[0] {
            "config" => self.configure(line),
            "seat" => self.seat(line),
            "seat-outside" | "seat-built-in" => self.seat_by_name(line),
            "keys" | "places" | "trap" => self.policy_answers(line),
            "lift" => self.lift(line),
            "lead" => {
                let term = Term(line.number("term").unwrap_or(1));
                self.world.step(Input::Lead {
                    term,
                    node: "n1".into(),
                    passed_us: 0,
                    uptime: wasmill_protocol::Uptime::default(),
                });
            }
            "restart" => self.world.restart(line.number("term").unwrap()),
            "after" => {
                let ms = line.word(1).strip_suffix("ms").map_or_else(
                    || line.word(1).strip_suffix('s').unwrap().parse::<u64>().unwrap() * 1000,
                    |ms| ms.parse().unwrap(),
                );
                self.world.now = self.world.now.plus_ms(ms);
                self.world.step(Input::Tick);
            }
            "read-model" => self.world.step(Input::ReadModelAt(LogSeq(line.number("at").unwrap()))),
            "stored" => {
                let used_up = line.word(2) == "used-up";
                self.world.step(Input::Stored { tenant: line.word(1).parse().unwrap(), used_up });
            }
            "join" | "leave" | "beat" | "drain" | "undrain" => self.host_changes(line),
            "ended" | "checkpoint" | "returned" | "refused" => self.host_reports(line),
            "explain" | "hosts" | "depth" | "count" | "timeout" | "benched" => self.ask(line),
            _ => self.client_asks(line),
        }
    }

    fn configure(&mut self, line: &Line<'_>) {
        let mut config = CoreConfig::default();
        let name = |name: &str, default: String| line.text_of(name).map_or(default, str::to_owned);
        let small = |name: &str, default: u32| line.number(name).map_or(default, |n| u32::try_from(n).unwrap());
        config.order = name("order", config.order);
        config.place = name("place", config.place);
        config.dispatch_max = small("dispatch_max", config.dispatch_max);
        config.batch_max = small("batch_max", config.batch_max);
        config.tasks_max = line.number("tasks_max").unwrap_or(config.tasks_max);
        config.shapes_per_tenant_max = small("shapes_per_tenant_max", config.shapes_per_tenant_max);
        config.stall_ms = line.number("stall_ms").unwrap_or(config.stall_ms);
        config.longest_wait_ms = line.number("longest_wait_ms").unwrap_or(config.longest_wait_ms);
        self.world = World::new(config);
    }

    /// Seats policies that trap every time.
    fn seat(&mut self, line: &Line<'_>) {
        if let Some(name) = line.text_of(PolicyHook::Order.as_str()) {
            self.world.core.seat_order(Box::new(Broken(name.to_owned())));
        }
        if let Some(name) = line.text_of(PolicyHook::Place.as_str()) {
            self.world.core.seat_place(Box::new(Broken(name.to_owned())));
        }
    }

    /// Seats policies outside, or built-in ones.
    fn seat_by_name(&mut self, line: &Line<'_>) {
        for hook in [PolicyHook::Order, PolicyHook::Place] {
            let Some(name) = line.text_of(hook.as_str()) else { continue };
            let digest = digest(line.text_of("digest").unwrap_or(name));
            let outside =
                Outside { name: name.into(), digest, orders_shapes: line.has("shapes"), ..Outside::default() };
            let seat = match line.words[0] {
                "seat-built-in" => Seat::built_in(hook, name).unwrap(),
                _ => Seat::outside(hook, outside),
            };
            self.world.step(Input::PolicySeated(seat));
        }
    }

    /// `keys 3 1`, `places 0:h1:2 1:h2:1`, `trap place`: to the last question, or to `ask=` by its
    /// name.
    fn policy_answers(&mut self, line: &Line<'_>) {
        let plain = line.words[1..].iter().filter(|word| !word.contains('='));
        let (hook, answer) = match line.words[0] {
            "keys" => {
                let key = |rank: &&str| Key { rank: rank.parse().unwrap(), stride: Stride::By(1), ..Key::default() };
                (PolicyHook::Order, PolicyAnswer::Keys(Keys { tenants: plain.map(key).collect(), shapes: Vec::new() }))
            }
            "places" => (PolicyHook::Place, PolicyAnswer::Choices(plain.map(|text| self.asks.choice(text)).collect())),
            _ => {
                let hook = if line.word(1) == "order" { PolicyHook::Order } else { PolicyHook::Place };
                (hook, PolicyAnswer::Fault(PolicyFault { reason: "unreachable executed".to_owned() }))
            }
        };
        let id = self.asks.id(hook, line.text_of("ask"));
        self.world.step(Input::PolicyAnswered { id, answer });
    }

    fn lift(&mut self, line: &Line<'_>) {
        let name = |hook: PolicyHook| Some((hook, line.text_of(hook.as_str())?.to_owned()));
        let (hook, policy) = name(PolicyHook::Order).or_else(|| name(PolicyHook::Place)).unwrap();
        let digest = digest(line.text_of("digest").unwrap_or(&policy));
        let reply_to = self.reply_to();
        self.world.step(Input::Command { reply_to, command: Command::LiftPolicy { hook, policy, digest } });
    }

    fn host_changes(&mut self, line: &Line<'_>) {
        let host = HostId::from(line.word(1));
        let incarnation = line.incarnation();
        match line.words[0] {
            "join" => {
                let labels = line.labels("labels").unwrap_or_default();
                let number = |name| line.number(name).unwrap_or(0);
                let (process, predecessor) = (number("process"), number("predecessor"));
                let info = HostInfo {
                    id: host.clone(),
                    incarnation,
                    labels: labels.clone(),
                    process,
                    predecessor,
                    ..HostInfo::default()
                };
                let beat = Heartbeat { host: host.clone(), incarnation, labels, process, ..Heartbeat::default() };
                let is_new = |known: &Heartbeat| known.incarnation < incarnation || known.process != process;
                if self.beats.get(&host).is_none_or(is_new) {
                    self.beats.insert(host.clone(), beat);
                    self.world.held.remove(&host);
                }
                self.world.step(Input::HostJoined(info));
            }
            "leave" => self.world.step(Input::HostLeft(host, incarnation)),
            "beat" => self.beat(&host, line),
            drain => {
                let reply_to = self.reply_to();
                let command = Command::DrainHost { host, draining: drain == "drain" };
                self.world.step(Input::Command { reply_to, command });
            }
        }
    }

    fn beat(&mut self, host: &HostId, line: &Line<'_>) {
        let names = &mut self.names;
        let attempts = match line.text_of("holds") {
            Some("none") => Vec::new(),
            Some(listed) => listed.split(',').map(|name| names.attempt(name)).collect(),
            None => self.world.held.get(host).cloned().unwrap_or_default(),
        };
        let small = |name: &str, default: u32| line.number(name).map_or(default, |n| u32::try_from(n).unwrap());
        let beat = self.beats.get_mut(host).unwrap_or_else(|| panic!("`{}` joined before", line.word(1)));
        beat.number += 1;
        beat.attempts = attempts;
        beat.slots = small("slots", beat.slots.max(1));
        beat.credit = small("credit", beat.credit.max(beat.slots));
        beat.memory_bytes = line.number("memory_mib").map_or(beat.memory_bytes.max(1 << 32), |mib| mib << 20);
        beat.draining = line.has("draining");
        beat.unready = small("unready", beat.unready);
        beat.memory_held = line.number("held_mib").map_or(beat.memory_held, |mib| mib << 20);
        beat.modules_warm = line.text_of("warm").map(|names| names.split(',').map(digest).collect());
        match line.text_of("sated") {
            Some("none") => beat.sated = Vec::new(),
            Some(listed) => beat.sated = listed.split(',').map(|name| name.parse().unwrap()).collect(),
            None => {}
        }
        if let Some(labels) = line.labels("labels") {
            beat.labels = labels;
        }
        let mut beat = beat.clone();
        beat.incarnation = line.number("life").map_or(beat.incarnation, Incarnation);
        beat.process = line.number("process").unwrap_or(beat.process);
        self.world.step(Input::Heartbeat(beat));
    }

    fn host_reports(&mut self, line: &Line<'_>) {
        let host = HostId::from(line.word(1));
        let id = self.names.attempt(line.word(2));
        let report = match line.words[0] {
            "ended" => {
                self.world.let_go(&host, id);
                let kind = outcome_kind(line.word(3));
                let usage = Usage { run_us: line.number("run_ms").unwrap_or(1) * 1000, ..Usage::default() };
                let outcome = Arc::new(Outcome::new(kind, ""));
                Report::Ended { id, outcome, usage, output: Payload::Empty, captured: Payload::Empty }
            }
            "checkpoint" => Report::Checkpoint { id, number: line.word(3).parse().unwrap(), data: Payload::Empty },
            "returned" => {
                self.world.let_go(&host, id);
                Report::Returned { id }
            }
            _ => {
                self.world.let_go(&host, id);
                return self.world.step(Input::AssignRefused { host, attempts: vec![id] });
            }
        };
        let incarnation = match line.number("life") {
            Some(life) => Incarnation(life),
            None => self.beats.get(&host).map_or(Incarnation(1), |beat| beat.incarnation),
        };
        let reply_to = self.reply_to();
        self.world.step(Input::FromHost { reply_to, message: FromHost { host, incarnation, reports: vec![report] } });
    }

    fn ask(&mut self, line: &Line<'_>) {
        let (core, now) = (&self.world.core, self.world.now);
        let said = match line.words[0] {
            "explain" => {
                let task = self.names.task(line.word(1));
                let waiting = core.explain(task, now).map(|waiting| waiting.waiting_for);
                match waiting {
                    None => format!("{} is unknown", line.word(1)),
                    Some(None) => format!("{} runs", line.word(1)),
                    Some(Some(why)) => format!("{} waits for: {}", line.word(1), self.names.shortened(&why)),
                }
            }
            "hosts" => {
                let hosts = core.hosts();
                let shown = hosts.iter().map(|view| {
                    format!("{}/{} is {} with {}", view.info.id, view.info.incarnation, view.state, view.attempts)
                });
                shown.collect::<Vec<_>>().join(", ")
            }
            "depth" => {
                let depth = core.queue_depth();
                format!("{} waiting, {} queued, {} running", depth.waiting, depth.queued, depth.running)
            }
            "timeout" => {
                core.next_timeout().map_or("no timeout".into(), |at| format!("next timeout at {}", show::time(at)))
            }
            "benched" => {
                let benched = core.state().policies_benched();
                let shown = benched.map(|benched| format!("{} for {}", benched.policy, benched.hook.as_str()));
                let shown = shown.collect::<Vec<_>>().join(", ");
                format!("benched: {}", if shown.is_empty() { "nobody" } else { &shown })
            }
            _ => format!("{} = {}", line.word(1), core.counters().by_name[line.word(1)]),
        };
        writeln!(self.said, "say    {said}").unwrap();
    }

    fn reply_to(&mut self) -> ReplyTo {
        self.replies += 1;
        ReplyTo(self.replies)
    }

    fn client_asks(&mut self, line: &Line<'_>) {
        let tenant = line.tenant();
        let named = || line.word(1).to_owned();
        let command = match line.words[0] {
            "submit" => self.submit(line),
            "cancel" => {
                let reason = line.text_of("reason").map(str::to_owned);
                Command::Cancel { tenant, task: self.names.task(line.word(1)), reason }
            }
            "prioritize" => {
                let priority = line.word(2).parse().unwrap();
                Command::Prioritize { tenant, task: self.names.task(line.word(1)), priority }
            }
            "tenant" => {
                let weight = line.number("weight").map_or(1, |weight| u32::try_from(weight).unwrap());
                let class = class(line).unwrap_or(0);
                Command::CreateTenant { name: named().parse().unwrap(), weight, class, quotas: quotas(line) }
            }
            "change-tenant" => {
                let weight = line.number("weight").map(|weight| u32::try_from(weight).unwrap());
                let (name, class) = (named().parse().unwrap(), class(line));
                Command::ChangeTenant { name, weight, class, quotas: Some(quotas(line)) }
            }
            "remove-tenant" => Command::RemoveTenant { name: named().parse().unwrap() },
            "module" => {
                let bytes = line.number("bytes").unwrap_or(100);
                let module = ModuleInfo { digest: self.names.module(line.word(1)), bytes, ..ModuleInfo::default() };
                Command::AddModule { tenant, module: module.into(), alias: line.text_of("alias").map(str::to_owned) }
            }
            "remove-module" => Command::RemoveModule { tenant, digest: digest(line.word(1)) },
            "alias" => Command::SetAlias { tenant, name: named(), digest: digest(line.word(2)) },
            "remove-alias" => Command::RemoveAlias { tenant, name: named() },
            "token" => {
                let hash = digest(line.text_of("hash").unwrap_or(line.word(1)));
                let role = if line.has("admin") { Role::Admin } else { Role::Read };
                let token = Token { id: named(), tenant, hash, role, ..Token::default() };
                if line.has("first") { Command::AddFirstToken { token } } else { Command::AddToken { token } }
            }
            "remove-token" => Command::RemoveToken { tenant, id: named() },
            other => panic!("{}: `{other}` is no command", self.file),
        };
        let reply_to = self.reply_to();
        self.world.step(Input::Command { reply_to, command });
    }

    fn submit(&mut self, line: &Line<'_>) -> Command {
        let module = match (line.text_of("module"), line.text_of("alias")) {
            (_, Some(alias)) => ModuleRef::Alias(alias.into()),
            (module, None) => ModuleRef::Digest(digest(module.unwrap_or("m"))),
        };
        let default = RetryPolicy::default();
        let retry = RetryPolicy {
            attempts_max: line.number("attempts").map_or(default.attempts_max, |n| u32::try_from(n).unwrap()),
            backoff_ms: line.number("backoff_ms").unwrap_or(default.backoff_ms),
            on: if line.text_of("retry") == Some("any") { RetryOn::AnyFailure } else { RetryOn::Errored },
            ..default
        };
        let memory_bytes = line.number("memory_mib").unwrap_or(256) << 20;
        let spec = TaskSpec {
            tenant: line.tenant(),
            limits: Limits { memory_bytes, ..Limits::default() },
            priority: line.text_of("priority").map_or(0, |text| text.parse().unwrap()),
            retry,
            not_before: line.number("delay_ms").map_or_else(Default::default, |ms| self.world.now.plus_ms(ms)),
            expires_ms: line.number("expires_ms"),
            require: line.labels("require").unwrap_or_default(),
            ..TaskSpec::default()
        };
        let key = line.text_of("key").map(|key| KeyCheck {
            key: key.into(),
            fingerprint: digest(line.text_of("body").unwrap_or("same")),
            checked_to: LogSeq(line.number("checked_to").unwrap_or(self.world.log.len() as u64)),
        });
        // `after=t1,t2:failure,t3:any`
        let edge = |text: &str| {
            let (name, on) = text.split_once(':').unwrap_or((text, "success"));
            let on = match on {
                "success" => EdgeOn::Success,
                "failure" => EdgeOn::Failure,
                "any" => EdgeOn::Any,
                other => panic!("`{other}` is no end of a predecessor"),
            };
            Edge { predecessor: self.names.task(name), on }
        };
        let edges = line.text_of("after").map_or_else(Vec::new, |names| names.split(',').map(edge).collect());
        Command::Submit { task: self.names.task(line.word(1)), module, spec: Arc::new(spec), key, edges }
    }
}

fn class(line: &Line<'_>) -> Option<i8> {
    line.text_of("class").map(|class| class.parse().unwrap())
}

fn quotas(line: &Line<'_>) -> Quotas {
    Quotas {
        tasks_queued: line.number("tasks_queued"),
        tasks_running: line.number("tasks_running"),
        memory_bytes: line.number("memory_mib").map(|mib| mib << 20),
        modules: line.number("modules"),
        module_bytes: line.number("module_bytes"),
        compile_ms_per_s: line.number("compile_ms_per_s"),
        ..Quotas::default()
    }
}

fn outcome_kind(name: &str) -> OutcomeKind {
    OutcomeKind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap_or_else(|| panic!("`{name}` is an outcome"))
}
