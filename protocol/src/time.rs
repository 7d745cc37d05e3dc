//! Points in time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// A control node reads the wall clock once when it starts and counts on from there by a monotonic clock, and never
/// starts below the last time in the log. So a clock that is set back or forth while it runs is not noticed,
/// and times in the log never decrease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a time: RFC 3339 like `2026-03-01T12:00:00.000Z` is expected")]
pub struct ParseTimestampError {
    text: String,
}

impl Timestamp {
    /// Later than every time that is computed with.
    pub const MAX: Self = Self(u64::MAX);

    /// This time and `ms` milliseconds; saturates.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// This time and `us` microseconds; saturates.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn us_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds since 1970, rounded down.
    pub fn ms(self) -> u64 {
        self.0 / 1000
    }
}

/// RFC 3339 in UTC with milliseconds, as the HTTP interface shows times.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = i64::try_from(self.0).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        match shown {
            Some(time) => write!(f, "{time:.3}"),
            None => f.write_str("9999-12-31T23:59:59.999Z"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseTimestampError { text: text.chars().take(80).collect() };
        let time: jiff::Timestamp = text.parse().map_err(|_| refused())?;
        u64::try_from(time.as_microsecond()).map(Self).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_with_milliseconds_and_read_back() {
        let time = Timestamp(1_772_366_400_123_456);
        assert_eq!(time.to_string(), "2026-03-01T12:00:00.123Z");
        assert_eq!("2026-03-01T13:00:00.123456+01:00".parse(), Ok(time));
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }
}
