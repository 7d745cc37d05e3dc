//! Query parameters, with errors that name the parameter.

use axum::extract::Query as Pairs;
use hyper::Uri;
use wasmill_protocol::api::FieldError;

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
        let Ok(Pairs(pairs)) = Pairs::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(Fault::new(Code::MalformedRequest, "the query is not of the form `name=value&name=value`"));
        };
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

    /// Anything that is written as one word.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Handled<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| FieldError::invalid(name, error.to_string()).into())
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
        for wrong in ["n=0", "n=10", "n=-1", "n=", "n=1e3", "n=+5", "n=99999999999999999999999", "n=1&n=2", "n=%FF"] {
            let fault = of(wrong).number("n", 1, 9).unwrap_err();
            assert_eq!(fault.document().field.as_deref(), Some("n"), "{wrong}");
            assert_eq!(fault.code().status(), 422, "{wrong}");
        }
    }

    #[test]
    fn what_nobody_takes_is_refused_by_name() {
        let mut parameters = of("label=a%3Db&label=c&colour=red");
        assert_eq!(parameters.texts("label"), ["a=b", "c"]);
        assert_eq!(parameters.finish().unwrap_err().document().field.as_deref(), Some("colour"));
    }
}
