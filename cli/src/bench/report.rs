//! Measured figures, and how they are shown.

use std::time::Duration;

use serde::Serialize;

use crate::bench::machine::{self, Machine};
use crate::bench::neighbours::Harm;
use crate::output::Table;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    neighbours: Vec<Harm>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Stable, for programs.
    name: &'static str,
    /// For people.
    what: String,
    value: f64,
    unit: &'static str,
}

impl Report {
    /// Nothing measured yet.
    pub(super) fn new() -> Self {
        Self { machine: machine::describe(), rows: Vec::new(), neighbours: Vec::new() }
    }

    /// Adds a figure.
    pub(super) fn add(&mut self, name: &'static str, what: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { name, what: what.into(), value, unit });
    }

    /// Adds the median and the 99th percentile of some durations, in milliseconds.
    pub(super) fn add_latency(&mut self, names: [&'static str; 2], what: &str, samples: &mut [Duration]) {
        for (name, (label, quantile)) in names.into_iter().zip([("p50", 0.5), ("p99", 0.99)]) {
            let value = self::quantile(samples, quantile).as_secs_f64() * 1e3;
            self.add(name, format!("{what}, {label} of {}", samples.len()), value, "ms");
        }
    }

    /// Adds what an attack did to a neighbour.
    pub(super) fn add_harm(&mut self, harm: Harm) {
        self.neighbours.push(harm);
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and finite numbers are always JSON")
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new(["WHAT", "VALUE", "UNIT"]);
        for row in &self.rows {
            table.row([row.what.clone(), show(row.value), row.unit.to_owned()]);
        }
        let mut shown = self.machine.line();
        if !self.rows.is_empty() {
            shown = format!("{shown}\n\n{}", table.render());
        }
        if !self.neighbours.is_empty() {
            let mut table = Table::new(Harm::TITLES);
            self.neighbours.iter().for_each(|harm| table.row(harm.cells()));
            shown = format!("{shown}\n\n{}", table.render());
        }
        shown
    }
}

/// Three significant digits, or all before the point.
fn show(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The smallest sample that at least this share of all samples does not exceed (nearest rank).
/// Sorts the samples.
///
/// # Panics
///
/// There are no samples.
pub(super) fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut samples: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut samples, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&mut samples, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&mut samples[..1], 0.99), Duration::from_millis(1));
    }

    #[test]
    fn figures_are_shown_with_the_digits_that_matter() {
        assert_eq!([0.123, 6.912, 12.34, 12_345.6].map(show), ["0.12", "6.91", "12.3", "12346"]);
    }
}
