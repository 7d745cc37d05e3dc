//! Points in time.

mod rfc3339;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// Within a term times in the log never decrease, and advance by a clock that cannot be set. A term
/// may begin at any time: what the node that leads takes for the time then, which is earlier than
/// that of the record before when a clock was ahead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// How long a machine has run, by a clock that nobody can set and that counts on while the machine
/// sleeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Uptime {
    /// Names the start of the machine; empty when it is not known.
    pub boot: String,
    /// Microseconds since then.
    pub us: u64,
}

/// A text that is not a time, or one before 1970.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTimestampError {
    /// It is no time at all.
    #[error("`{text}` is not a time: RFC 3339 like `2026-03-01T12:00:00.000Z` is expected")]
    NoTime {
        /// Its beginning.
        text: String,
    },
    /// It is a time that cannot be told as microseconds since 1970.
    #[error("`{text}` is before 1970, the earliest time here")]
    TooEarly {
        /// The time.
        text: String,
    },
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

    /// Reads a bound between times that can have happened: one before 1970 is as good as 1970.
    ///
    /// # Errors
    ///
    /// When the text is not a time.
    pub fn parse_bound(text: &str) -> Result<Self, ParseTimestampError> {
        match text.parse() {
            Err(ParseTimestampError::TooEarly { .. }) => Ok(Self(0)),
            parsed => parsed,
        }
    }
}

/// RFC 3339 in UTC with milliseconds, as the HTTP interface shows times.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ms().min(SHOWN_MS_MAX) as i64;
        let (days, of_day) = (ms / DAY_MS, ms % DAY_MS);
        let (year, month, day) = rfc3339::date(days);
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
    }
}

const DAY_MS: i64 = 86_400_000;
/// The last millisecond of the year 9999.
const SHOWN_MS_MAX: u64 = 253_402_300_799_999;

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Reads every time of RFC 3339; digits after the microseconds are left out.
    ///
    /// Beyond it a blank may stand for the `T`, seconds may be absent, and so may the minutes of an
    /// offset or their colon. A leap second is the first second of the next day, as there is no
    /// other number for it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect();
        let us = rfc3339::microseconds(text.as_bytes()).ok_or_else(|| ParseTimestampError::NoTime { text: shown() })?;
        u64::try_from(us).map(Self).map_err(|_| ParseTimestampError::TooEarly { text: shown() })
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
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn c30_times_at_the_edges_are_what_they_mean() {
        let shown = |text: &str| text.parse::<Timestamp>().unwrap_or_else(|error| panic!("{error}")).to_string();
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
            ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000Z"),
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01.000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
            ("9999-12-31T23:59:59.999999999999Z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999Z"),
            ("2038-01-19t03:14:08z", "2038-01-19T03:14:08.000Z"),
            ("2106-02-07 06:28:16.0000000000000000000000000001+00:00", "2106-02-07T06:28:16.000Z"),
            ("2262-04-11T23:47:17-00:00", "2262-04-11T23:47:17.000Z"),
            ("2000-02-29T00:00:00+23:59", "2000-02-28T00:01:00.000Z"),
            ("2024-02-29T12:00Z", "2024-02-29T12:00:00.000Z"),
            ("2024-02-29T12:00:00+02", "2024-02-29T10:00:00.000Z"),
            ("2024-02-29T12:00:00-0230", "2024-02-29T14:30:00.000Z"),
            ("2024-02-29T12:00:00,5Z", "2024-02-29T12:00:00.500Z"),
            // Leap seconds.
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("1990-12-31T15:59:60.25-08:00", "1991-01-01T00:00:00.250Z"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        let largest = Timestamp(253_402_300_799_999_000);
        assert_eq!(largest.to_string().parse(), Ok(largest));
    }

    #[test]
    fn c30_what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-03-01",
            "12:00:00Z",
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00z ",
            " 2026-03-01T12:00:00Z",
            "2026-03-01  12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2025-02-29T12:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-03-00T12:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:60:00Z",
            "2026-03-01T12:30:60Z",
            "2026-03-31T12:59:60Z",
            "2026-03-30T23:59:60Z",
            "2026-03-31T23:59:61Z",
            "2026-03-31T23:59:60+01:00",
            "2026-03-01T12:00:00+24:00",
            "2026-03-01T12:00:00-24:00",
            "2026-03-01T12:00:00+12:60",
            "2026-03-01T12:00:00+1",
            "2026-03-01T12:00:00+01:0",
            "2026-03-01T12:00:00+01:00:00",
            "2026-03-01T12:00:00 01:00",
            "10000-01-01T00:00:00Z",
            "+2026-03-01T12:00:00Z",
            "-2026-03-01T12:00:00Z",
            "026-03-01T12:00:00Z",
            "2026-3-1T12:00:00Z",
            "20260301T120000Z",
            "2026-03-01T12:00:00Z[UTC]",
            "2026-03-01T12:00:00ZZ",
            "2026-W09-7T12:00:00Z",
            "1772366400",
            "２026-03-01T12:00:00Z",
        ] {
            assert!(matches!(text.parse::<Timestamp>(), Err(ParseTimestampError::NoTime { .. })), "{text}");
        }
        for text in
            ["1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00+00:01"]
        {
            assert!(matches!(text.parse::<Timestamp>(), Err(ParseTimestampError::TooEarly { .. })), "{text}");
            assert_eq!(Timestamp::parse_bound(text), Ok(Timestamp(0)), "{text}");
        }
        assert!(Timestamp::parse_bound("soon").is_err());
    }

    /// A second implementation of the calendar.
    #[test]
    fn every_day_is_where_the_calendar_has_it() {
        let mut day = jiff::civil::date(1970, 1, 1);
        let mut us = 0;
        while day.year() < 2402 {
            let text = format!("{day}T00:00:00Z");
            assert_eq!(text.parse(), Ok(Timestamp(us)), "{text}");
            assert_eq!(Timestamp(us).to_string(), format!("{day}T00:00:00.000Z"));
            day = day.tomorrow().unwrap();
            us += 86_400_000_000;
        }
    }
}
