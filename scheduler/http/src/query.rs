//! Query parameters, with errors that name the parameter.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use hyper::Uri;
use hyper::http::request::Parts;
use wasmill_api::FieldError;
use wasmill_protocol::Timestamp;

use super::problem::{Code, Fault, Handled};

/// The parameters of one request; whoever takes them all ends with [`Parameters::finish`].
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pairs: Vec<(String, String)>,
}

/// More parameters than this are not looked at.
const PARAMETERS_MAX: usize = 300;

impl Parameters {
    /// The parameters of a URI.
    pub(super) fn of(uri: &Uri) -> Handled<Self> {
        if uri.query().is_none_or(str::is_empty) {
            return Ok(Self::default());
        }
        let query = uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect::<Handled<Vec<_>>>()?;
        if pairs.len() > PARAMETERS_MAX {
            let detail = format!("the query has {} parameters, over the limit of {PARAMETERS_MAX}", pairs.len());
            return Err(Fault::new(Code::LimitExceeded, detail).limit(PARAMETERS_MAX as u64));
        }
        Ok(Self { pairs })
    }

    /// A parameter that is given at most once.
    pub(super) fn text(&mut self, name: &str) -> Handled<Option<String>> {
        let mut values = self.texts(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(FieldError::invalid(name, "is given more than once").into()),
        }
    }

    /// A parameter that may be given again and again.
    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        self.pairs.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// A whole number from `min` to `max`.
    pub(super) fn number(&mut self, name: &str, min: u64, max: u64) -> Handled<Option<u64>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if digits && (min..=max).contains(&number) => Ok(Some(number)),
            Ok(number) if number > max => Err(FieldError::over(name, number, max).into()),
            Err(_) if digits => Err(FieldError::over(name, shown(&text), max).into()),
            _ => {
                let detail = format!("`{}` is not a whole number from {min} to {max}", shown(&text));
                Err(Fault::from(FieldError::invalid(name, detail)).limit(max))
            }
        }
    }

    /// `true` or `false`; absent is `false`.
    pub(super) fn flag(&mut self, name: &str) -> Handled<bool> {
        match self.text(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(FieldError::invalid(name, format!("`{}` is neither `true` nor `false`", shown(other))).into())
            }
        }
    }

    /// Whole numbers from `min` to `max` with commas between them; `None` when the parameter is not
    /// given.
    pub(super) fn numbers(&mut self, name: &str, min: u64, max: u64) -> Handled<Option<Vec<u64>>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = if digits { part.parse().ok() } else { None };
            number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
                let detail = format!("`{}` is not a whole number from {min} to {max}", shown(part));
                Fault::from(FieldError::invalid(name, detail)).limit(max)
            })
        };
        text.split(',').map(number).collect::<Handled<Vec<u64>>>().map(Some)
    }

    /// Anything that is written as one word.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Handled<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| FieldError::invalid(name, error.to_string()).into())
    }

    /// A bound between times that can have happened.
    pub(super) fn time(&mut self, name: &str) -> Handled<Option<Timestamp>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        Timestamp::parse_bound(&text).map(Some).map_err(|error| FieldError::invalid(name, error.to_string()).into())
    }

    /// Where the page before ended; for listings whose cursor is a name.
    pub(super) fn cursor(&mut self) -> Handled<Option<String>> {
        match self.text("cursor")? {
            Some(cursor) if cursor.is_empty() => {
                Err(FieldError::invalid("cursor", "is empty: use the `next` of the page before, or leave it out")
                    .into())
            }
            cursor => Ok(cursor),
        }
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(self) -> Handled<()> {
        match self.pairs.first() {
            Some((name, _)) => {
                let name = shown(name);
                Err(Fault::new(Code::FieldUnknown, format!("there is no parameter `{name}` here")).field(name))
            }
            None => Ok(()),
        }
    }
}

/// A query without parameters: a handler that has none takes this.
#[derive(Debug)]
pub(super) struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Handled<Self> {
        Parameters::of(&parts.uri)?.finish()?;
        Ok(Self)
    }
}

/// A parameter as `application/x-www-form-urlencoded` writes it: `+` is a blank, `%XX` a byte of
/// UTF-8.
fn pair(pair: &str) -> Handled<(String, String)> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let malformed = |what: &str, name: &str| {
        let detail = format!("{what} is not UTF-8 in percent-encoding");
        Fault::new(Code::MalformedRequest, detail).field(shown(name))
    };
    let decoded = decode(name).ok_or_else(|| malformed("the name of a parameter", name))?;
    let value = decode(value).ok_or_else(|| malformed(&format!("the parameter `{}`", shown(&decoded)), &decoded))?;
    Ok((decoded, value))
}

/// `None` when the bytes are not UTF-8. A `%` that no two digits follow stands for itself, as
/// browsers have it.
fn decode(text: &str) -> Option<String> {
    let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    if !text.contains('%') {
        return Some(text.into_owned());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Parameters {
        Parameters::of(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn numbers_are_never_clamped() {
        assert_eq!(of("n=7").number("n", 1, 9).unwrap(), Some(7));
        assert_eq!(of("").number("n", 1, 9).unwrap(), None);
        for wrong in ["n=0", "n=10", "n=-1", "n=", "n=1e3", "n=+5", "n=99999999999999999999999", "n=1&n=2"] {
            let fault = of(wrong).number("n", 1, 9).unwrap_err();
            assert_eq!(fault.document().field.as_deref(), Some("n"), "{wrong}");
            assert_eq!(fault.code().status(), 422, "{wrong}");
        }
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        for (query, expected) in [
            ("n=a%20b+c%2Bd", "a b c+d"),
            ("n=%C3%BC%e2%82%AC", "ü€"),
            ("n", ""),
            ("n=", ""),
            ("&n=x=y&", "x=y"),
            ("%6E=100%", "100%"),
            ("n=%zz%4", "%zz%4"),
            ("n=%00", "\u{0}"),
        ] {
            assert_eq!(of(query).text("n").unwrap().as_deref(), Some(expected), "{query}");
        }
    }

    #[test]
    fn c30_what_is_not_utf8_is_refused_by_name() {
        for (query, field) in
            [("n=%FF", "n"), ("a=1&n=x%C3", "n"), ("n=%ED%A0%80", "n"), ("n=%C0%80", "n"), ("n%FF=1", "n%FF")]
        {
            let fault = Parameters::of(&format!("/x?{query}").parse().unwrap()).unwrap_err();
            assert_eq!(fault.document().field.as_deref(), Some(field), "{query}");
            assert_eq!(fault.code().status(), 400, "{query}");
        }
    }

    #[test]
    fn lists_of_numbers_have_commas() {
        assert_eq!(of("n=0,10,255").numbers("n", 0, 255).unwrap(), Some(vec![0, 10, 255]));
        assert_eq!(of("").numbers("n", 0, 255).unwrap(), None);
        for wrong in ["n=", "n=1,", "n=1,,2", "n=256", "n=-1", "n=1;2", "n=1&n=2", "n=%2B1"] {
            let fault = of(wrong).numbers("n", 0, 255).unwrap_err();
            assert_eq!((fault.document().field.as_deref(), fault.code().status()), (Some("n"), 422), "{wrong}");
        }
    }

    #[test]
    fn what_nobody_takes_is_refused_by_name() {
        let mut parameters = of("label=a%3Db&label=c&colour=red");
        assert_eq!(parameters.texts("label"), ["a=b", "c"]);
        assert_eq!(parameters.finish().unwrap_err().document().field.as_deref(), Some("colour"));
    }
}
