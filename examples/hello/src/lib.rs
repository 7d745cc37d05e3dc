//! A task in ten lines: JSON in, JSON out.

use serde::{Deserialize, Serialize};
use wasmill_guest::{Context, Error, task};

/// Whom to greet.
#[derive(Deserialize)]
struct Input {
    name: String,
}

/// A greeting, and the attempt that gives it.
#[derive(Debug, PartialEq, Serialize)]
struct Output {
    greeting: String,
    attempt: u32,
}

#[task]
fn hello(ctx: &Context, input: Input) -> Result<Output, Error> {
    let name = input.name.trim();
    if name.is_empty() {
        return Err(Error::reject("there is nobody to greet: `name` is empty"));
    }
    println!("greeting {name}");
    Ok(Output { greeting: format!("Hello, {name}!"), attempt: ctx.attempt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_by_name() {
        let ctx = Context::for_test().attempt(2).build();
        let output = hello(&ctx, Input { name: " Ada ".into() });
        assert_eq!(output, Ok(Output { greeting: "Hello, Ada!".into(), attempt: 2 }));
    }

    #[test]
    fn rejects_an_empty_name() {
        let error = hello(&Context::for_test().build(), Input { name: " ".into() }).expect_err("nobody is there");
        assert!(!error.is_retryable());
    }
}
