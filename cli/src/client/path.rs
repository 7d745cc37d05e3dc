//! Paths with their queries, escaped.

use std::fmt::{self, Write as _};

/// The path and query of a request, with everything escaped that needs it.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// A path of fixed text, like `/v1/tasks`.
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), has_query: false }
    }

    /// Adds one segment of any text.
    #[must_use]
    pub(crate) fn segment(mut self, text: &str) -> Self {
        self.text.push('/');
        escape(text, &mut self.text);
        self
    }

    /// Adds one query parameter of any value.
    #[must_use]
    pub(crate) fn query(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        escape(&value.to_string(), &mut self.text);
        self
    }

    /// Adds one query parameter if there is a value for it.
    #[must_use]
    pub(crate) fn query_if(self, name: &'static str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Escapes all but the unreserved characters of RFC 3986, section 2.3, and `:`, which is in every
/// digest.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_could_mean_something_else_is_escaped() {
        let path = Path::new("/v1/aliases").segment("a/b?c").query("label", "k=v&w ü").query_if("limit", Some(5));
        assert_eq!(path.to_string(), "/v1/aliases/a%2Fb%3Fc?label=k%3Dv%26w%20%C3%BC&limit=5");
        assert_eq!(Path::new("/v1/tasks").query_if("limit", None::<u64>).to_string(), "/v1/tasks");
    }
}
