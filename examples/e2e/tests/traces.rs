//! The spans that an OpenTelemetry collector gets.

use std::net::TcpListener;

use wasmill_e2e::{Collector, Server, Span, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn attribute<'a>(span: &'a Span, name: &str) -> &'a str {
    span.attributes.get(name).unwrap_or_else(|| panic!("`{name}` is missing: {span:?}"))
}

#[test]
fn one_trace_shows_a_task_from_its_request_to_its_result() {
    let collector = Collector::start();
    let server = Server::start_with(&["--otlp-endpoint", collector.url()]);
    server.push("hello");

    // With a limit on fuel it needs an artifact of its own, which its attempt has to wait for.
    let task = r#"{"module":"hello","input":{"name":"a secret name"},"limits":{"fuel":1000000000}}"#;
    let traceparent = format!("00-{TRACE}-{CLIENT}-01");
    let (status, answer) = server.post("/v1/tasks", &[("traceparent", &traceparent)], task);
    assert_eq!(status, 201, "{answer}");

    let request = collector.wait_for(TRACE, "POST /v1/tasks");
    assert_eq!(request.parent, CLIENT);
    assert_eq!(attribute(&request, "http.route"), "/v1/tasks");
    assert_eq!(attribute(&request, "http.response.status_code"), "201");
    assert_eq!(attribute(&request, "wasmill.tenant"), "default");
    assert_eq!(attribute(&request, "service.name"), "wasmill");
    assert_eq!(attribute(&request, "service.instance.id"), "local");
    assert!(!attribute(&request, "host.name").is_empty());
    let submit = collector.wait_for(TRACE, "submit");
    assert_eq!(submit.parent, request.id);

    let [append, dispatch, queue, attempt, result] =
        ["append", "dispatch", "queue", "attempt", "result"].map(|name| collector.wait_for(TRACE, name));
    for span in [&append, &dispatch, &queue, &attempt, &result] {
        assert_eq!(span.parent, submit.id, "{span:?}");
    }
    for span in [&dispatch, &queue, &attempt, &result] {
        assert_eq!(attribute(span, "wasmill.task"), attribute(&submit, "wasmill.task"));
        assert_eq!(attribute(span, "wasmill.attempt"), "1");
    }
    assert!(attribute(&append, "wasmill.events").parse::<u64>().unwrap() >= 1);
    assert!(queue.began < queue.ended && queue.ended <= attempt.began && attempt.ended <= result.ended);
    assert_eq!(attribute(&attempt, "wasmill.outcome"), "succeeded");
    assert!(attribute(&attempt, "wasmill.fuel").parse::<u64>().unwrap() > 0);
    assert_eq!(attribute(&result, "wasmill.next"), "final");

    let prepare = collector.wait_for(TRACE, "prepare");
    assert_eq!(prepare.parent, submit.id);
    assert_eq!(attribute(&prepare, "wasmill.attempt"), "1");
    let compile = collector.wait_for(TRACE, "compile");
    assert_eq!(compile.parent, prepare.id);
    assert_eq!(attribute(&compile, "wasmill.profile"), "metered");
    let upload =
        until("the span of the upload", || collector.spans().into_iter().find(|span| span.name == "POST /v1/modules"));
    let compiled_at_upload = collector.wait_for(&upload.trace, "compile");
    assert_eq!(compiled_at_upload.parent, upload.id);

    let shown = format!("{:?}", collector.spans());
    for secret in ["a secret name", server.token().as_str(), "Hello"] {
        assert!(!shown.contains(secret), "`{secret}` is in a span");
    }
}

#[test]
fn what_is_recorded_last_is_sent_before_the_process_ends() {
    let collector = Collector::start();
    let mut server = Server::start_with(&["--otlp-endpoint", collector.url()]);
    server.push("hello");
    let (status, _) = server.post("/v1/tasks", &[], r#"{"module":"hello","input":{"name":"x"},"delay_ms":3600000}"#);
    assert_eq!(status, 201);
    server.stop();
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(names.iter().any(|name| name == "submit"), "{names:?}");
}

#[test]
fn a_trace_that_is_not_recorded_stays_so() {
    let collector = Collector::start();
    let mut server = Server::start_with(&["--otlp-endpoint", collector.url()]);
    server.push("hello");
    let traceparent = format!("00-{TRACE}-{CLIENT}-00");
    let (status, output) = server.post("/v1/run/hello", &[("traceparent", &traceparent)], r#"{"name":"x"}"#);
    assert_eq!(status, 200, "{output}");
    server.stop();
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "POST /v1/modules"), "{spans:?}");
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:?}");
}

#[test]
fn a_collector_that_is_not_there_is_in_nobodys_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut server = Server::start_with(&["--otlp-endpoint", &nobody]);
    server.push("hello");
    for _ in 0..3 {
        let (status, output) = server.post("/v1/run/hello", &[], r#"{"name":"x"}"#);
        assert_eq!(status, 200, "{output}");
    }
    server.stop();
}
