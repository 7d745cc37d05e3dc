//! HTTP as a client of Wasmill speaks it.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ureq::http::Request;

/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A client with connections of its own.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    token: Option<String>,
}

/// The response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The header `Wasmill-Task`.
    pub task: Option<String>,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// Whether it came to its end.
    pub is_whole: bool,
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Nothing.
    None,
    /// A document.
    Json(&'a Value),
    /// A document on each line.
    Lines(&'a str),
    /// Anything.
    Bytes(&'a [u8]),
}

impl Http {
    /// A client that gives up on an answer after `patience`.
    pub fn new(token: Option<&str>, patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A proxy for the outside must not lead away from this machine.
            .proxy(None)
            .timeout_global(Some(patience))
            .build();
        Self { agent: config.into(), token: token.map(str::to_owned) }
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// The answer did not come, or not to its end: nothing is known.
    pub fn call(&self, method: &str, url: &str, headers: &[(&str, &str)], body: Body<'_>) -> Result<Response> {
        let response = self.call_in_part(method, url, headers, body)?;
        ensure!(response.is_whole, "the answer broke off after {} bytes", response.body.len());
        Ok(response)
    }

    /// Asks once, and takes an answer that breaks off as far as it came.
    pub fn call_in_part(&self, method: &str, url: &str, headers: &[(&str, &str)], body: Body<'_>) -> Result<Response> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (kind, bytes) = match body {
            Body::None => ("", Vec::new()),
            Body::Json(value) => ("application/json", value.to_string().into_bytes()),
            Body::Lines(lines) => ("application/x-ndjson", lines.into()),
            Body::Bytes(bytes) => ("application/octet-stream", bytes.into()),
        };
        let mut response = if let Body::None = body {
            self.agent.run(request.body(()).context("a request cannot be made")?)?
        } else {
            self.agent.run(request.header("content-type", kind).body(bytes).context("a request cannot be made")?)?
        };
        let task = response.headers().get("wasmill-task").and_then(|task| task.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let mut reader = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).reader();
        let is_whole = reader.read_to_end(&mut body).is_ok();
        Ok(Response { status, task, body, is_whole })
    }

    /// The JSON that a path answers with 200.
    pub fn get(&self, url: &str) -> Result<Value> {
        let response = self.call("GET", url, &[], Body::None).with_context(|| format!("cannot get {url}"))?;
        ensure!(response.status == 200, "{url} answers {}: {}", response.status, response.text());
        response.json().with_context(|| format!("{url} does not answer JSON"))
    }

    /// Whether a path answers with 200.
    pub fn is_good(&self, url: &str) -> bool {
        self.call("GET", url, &[], Body::None).is_ok_and(|response| response.status == 200)
    }
}

impl Response {
    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body, if it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
