//! Which tasks are meant, where they are not named one by one.

use wasmill_api::{Page, TaskDoc};
use wasmill_protocol::TaskState;

use crate::client::{Client, Path};
use crate::failure::Failure;
use crate::units::parse_pair;

/// Tasks that are asked for at once.
const PAGE_TASKS: u64 = 1000;
/// States in which something can still happen to a task.
pub(crate) const UNFINISHED: [TaskState; 3] = [TaskState::Waiting, TaskState::Queued, TaskState::Running];

/// The filter of a listing: a task must match all of what is given.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "filter", multiple = true)]
pub(crate) struct FilterArgs {
    /// Only in this state: waiting, queued, running, succeeded, failed, cancelled, skipped; can be
    /// repeated
    #[arg(long = "state", value_name = "STATE", help_heading = "Filter")]
    states: Vec<String>,
    /// Only of this module: digest or alias
    #[arg(long, help_heading = "Filter")]
    module: Option<String>,
    /// Only of this name
    #[arg(long, help_heading = "Filter")]
    name: Option<String>,
    /// Only with this label; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair, help_heading = "Filter")]
    labels: Vec<(String, String)>,
    /// Only of this job
    #[arg(long, help_heading = "Filter")]
    job: Option<String>,
    /// Only created after this time, like 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", help_heading = "Filter")]
    created_after: Option<String>,
    /// Only created before this time
    #[arg(long, value_name = "TIME", help_heading = "Filter")]
    created_before: Option<String>,
}

impl FilterArgs {
    /// The filter as a query.
    pub(crate) fn apply(&self, path: Path) -> Path {
        let states: Vec<&str> = self.states.iter().map(String::as_str).collect();
        self.apply_in(path, &states)
    }

    fn apply_in(&self, mut path: Path, states: &[&str]) -> Path {
        for state in states {
            path = path.query("state", state);
        }
        path = path
            .query_if("module", self.module.as_deref())
            .query_if("name", self.name.as_deref())
            .query_if("job", self.job.as_deref())
            .query_if("created_after", self.created_after.as_deref())
            .query_if("created_before", self.created_before.as_deref());
        for (key, value) in &self.labels {
            path = path.query("label", format_args!("{key}={value}"));
        }
        path
    }

    /// Ids and states of all tasks that match at this moment, oldest first. Without states of its
    /// own, `states_default` are those of the filter; none are all.
    pub(crate) async fn tasks(
        &self,
        client: &Client,
        states_default: &[TaskState],
    ) -> Result<Vec<(String, TaskState)>, Failure> {
        let states: Vec<&str> = match self.states.is_empty() {
            true => states_default.iter().map(|state| state.as_str()).collect(),
            false => self.states.iter().map(String::as_str).collect(),
        };
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let path = self.apply_in(Path::new("/v1/tasks"), &states).query("limit", PAGE_TASKS);
            let page: Page<TaskDoc> = client.get(&path.query_if("cursor", cursor.as_deref())).await?.json()?;
            found.extend(page.items.iter().map(|task| (task.id.to_string(), task.state)));
            cursor = page.next;
            if cursor.is_none() {
                found.reverse();
                return Ok(found);
            }
        }
    }
}
