//! An OpenTelemetry collector of a test's own, which keeps what it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use prost::Message as _;

use crate::until;

/// Takes OTLP over HTTP at [`Collector::url`] as long as the test runs.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// A span as it was received, its values as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The name of the span.
    pub name: String,
    /// The trace, in hexadecimal digits.
    pub trace: String,
    /// The span, in hexadecimal digits.
    pub id: String,
    /// The span above it, in hexadecimal digits; empty at the top.
    pub parent: String,
    /// Nanoseconds since 1970.
    pub began: u64,
    /// Nanoseconds since 1970.
    pub ended: u64,
    /// The attributes of the span, and of its process.
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// There is no port for it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(&connection, &kept));
            }
        });
        Self { url: format!("http://{address}"), spans }
    }

    /// Where it takes traces.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The spans that it was sent so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a span of a trace by its name.
    ///
    /// # Panics
    ///
    /// It does not come.
    #[track_caller]
    pub fn wait_for(&self, trace: &str, name: &str) -> Span {
        until(&format!("the span `{name}`"), || {
            self.spans().into_iter().find(|span| span.trace == trace && span.name == name)
        })
    }
}

/// Answers every request of one connection.
fn serve(connection: &TcpStream, kept: &Mutex<Vec<Span>>) {
    let mut reader = BufReader::new(connection);
    while let Some(body) = request(&mut reader) {
        let decoded = ExportTraceServiceRequest::decode(&body[..]).expect("the body is of OTLP");
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans(decoded));
        // An empty message is an answer without complaints.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        if (&mut &*connection).write_all(answer).is_err() {
            return;
        }
    }
}

/// The body of the next request; `None` at the end of the connection.
fn request(reader: &mut BufReader<&TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    assert_eq!(line.trim_end(), "POST /v1/traces HTTP/1.1");
    let mut body_bytes = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                body_bytes = value.parse().expect("a length is a number");
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; body_bytes];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_process in request.resource_spans {
        let process = of_process.resource.unwrap_or_default().attributes;
        for span in of_process.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            spans.push(Span {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: process.iter().chain(&span.attributes).map(text).collect(),
            });
        }
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attribute: &KeyValue) -> (String, String) {
    let value = match &attribute.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text.clone(),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        Some(AnyValue { value: Some(Value::BoolValue(flag)) }) => flag.to_string(),
        other => format!("{other:?}"),
    };
    (attribute.key.clone(), value)
}
