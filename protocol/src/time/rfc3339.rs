//! Reading RFC 3339, to the ends of its years and with every fraction that it allows; and the
//! calendar behind it.

const SECONDS_OF_DAY: i64 = 86_400;

/// Microseconds since 1970 of a time, negative before. `None` if it is not a time.
pub(super) fn microseconds(text: &[u8]) -> Option<i64> {
    let mut rest = Rest(text);
    let (year, month, day) = (rest.number(4)?, rest.after(b"-")?.number(2)?, rest.after(b"-")?.number(2)?);
    if !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    let (hour, minute) = (rest.after(b"Tt ")?.number(2)?, rest.after(b":")?.number(2)?);
    let (mut second, mut fraction) = (0, 0);
    if rest.after(b":").is_some() {
        second = rest.number(2)?;
        if rest.after(b".,").is_some() {
            fraction = rest.fraction()?;
        }
    }
    let offset = rest.offset()?;
    if !rest.0.is_empty() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_since_1970(year, month, day);
    let seconds = days * SECONDS_OF_DAY + hour * 3_600 + minute * 60 + second - offset;
    if second == 60 && !is_month_begin(seconds) {
        return None;
    }
    Some(seconds * 1_000_000 + fraction)
}

/// The text that was not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Goes on after one of these bytes.
    fn after(&mut self, any: &[u8]) -> Option<&mut Self> {
        let (first, rest) = self.0.split_first()?;
        self.0 = any.contains(first).then_some(rest)?;
        Some(self)
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    }

    /// Microseconds.
    fn fraction(&mut self) -> Option<i64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, rest) = self.0.split_at(digits);
        self.0 = rest;
        let six = fraction.iter().chain(std::iter::repeat(&b'0')).take(6);
        (digits > 0).then(|| six.fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0')))
    }

    /// Seconds east of Greenwich.
    fn offset(&mut self) -> Option<i64> {
        if self.after(b"Zz").is_some() {
            return Some(0);
        }
        let sign = if self.after(b"+").is_some() { 1 } else { self.after(b"-").map(|_| -1)? };
        let hours = self.number(2)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            self.after(b":");
            self.number(2)?
        };
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the Gregorian calendar continued backwards.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that not every year has is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The year, month and day that begin so many days after 1970-01-01.
pub(super) fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// Whether it is the first second of a month: leap seconds are the last of one.
fn is_month_begin(seconds: i64) -> bool {
    seconds.rem_euclid(SECONDS_OF_DAY) == 0 && date(seconds.div_euclid(SECONDS_OF_DAY)).2 == 1
}
