//! One page in the text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write};

use prometheus::{Registry, TextEncoder};

/// The answer to one scrape.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: String,
}

impl Page {
    /// The content type of the format.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// A page with everything that the registry holds.
    pub fn of(registry: &Registry) -> Self {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
            tracing::error!(%error, "cannot write the metrics");
        }
        Self { text, name: String::new() }
    }

    /// Begins a metric; its samples follow. `kind` is `counter` or `gauge`.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A sample of the metric that was begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        let mut text = String::new();
        for (name, value) in labels {
            text.push_str(if text.is_empty() { "{" } else { "," });
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{name}=\"{}\"", escaped(value));
        }
        text.push_str(if text.is_empty() { "" } else { "}" });
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "{}{text} {value}", self.name);
    }

    /// A metric of one sample.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) {
        self.begin(name, kind, help);
        self.sample(&[], value);
    }

    /// The finished page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// A label's value as the format has it.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_so_that_they_can_be_read() {
        let mut page = Page::default();
        page.begin("wasmill_hosts", "gauge", "Hosts.");
        page.sample(&[("state", "ready"), ("name", "a\"b\\c\nd")], 3);
        page.single("wasmill_term", "gauge", "The term.", 7);
        let expected = "# HELP wasmill_hosts Hosts.\n# TYPE wasmill_hosts gauge\n\
            wasmill_hosts{state=\"ready\",name=\"a\\\"b\\\\c\\nd\"} 3\n\
            # HELP wasmill_term The term.\n# TYPE wasmill_term gauge\nwasmill_term 7\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_page_knows_the_program_and_the_process() {
        let text = Page::of(&crate::registry("1.2.3")).into_text();
        assert!(text.contains("wasmill_build_info{version=\"1.2.3\"} 1\n"), "{text}");
        assert!(text.contains("\nprocess_open_fds "), "{text}");
    }
}
