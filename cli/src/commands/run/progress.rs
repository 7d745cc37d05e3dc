//! The progress bar of `wasmill run`, for people at a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use wasmill_api::TaskDoc;

use crate::output::printable;

/// Shows on stderr how far the task is, and takes itself away when dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    has_length: bool,
}

impl Progress {
    /// A spinner until the task says how much there is to do.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, has_length: false }
    }

    /// Shows what the task says.
    pub(super) fn show(&mut self, task: &TaskDoc) {
        let progress = task.progress.clone().unwrap_or_default();
        let message = Some(progress.message).filter(|message| !message.is_empty());
        let message = message.or_else(|| task.waiting_for.clone()).unwrap_or_else(|| task.state.as_str().to_owned());
        self.bar.set_message(printable(&message));
        if progress.total > 0 {
            if !self.has_length {
                self.has_length = true;
                self.bar.set_style(style("{bar:30} {percent}% {msg} {elapsed}"));
            }
            self.bar.set_length(progress.total);
            self.bar.set_position(progress.done.min(progress.total));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are valid")
}
