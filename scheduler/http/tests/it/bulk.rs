use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use crate::support::{Answer, Client, Server, TASK, until};

async fn submit(client: &Client, lines: impl Into<reqwest::Body>) -> Answer {
    let request = client.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    client.send(request.body(lines)).await
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"), "{answer:?}");
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_line_in_a_line_out_in_the_same_order() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let text: String = (0..3_000).map(|n| format!("{}\n", json!({"module": digest, "input": n}))).collect();
    let answers = lines(&submit(&server.admin, text).await);
    assert_eq!(answers.len(), 3_000);
    let ids: Vec<_> = answers.iter().map(|answer| answer["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.is_sorted(), "ids are drawn in the order of the lines");
    for n in [0, 1, 1_023, 1_024, 2_999] {
        assert_eq!(server.admin.ended(&answers[n]["id"]).await["output"], json!(n));
    }
}

#[tokio::test]
async fn one_key_is_never_that_of_many_tasks() {
    let server = Server::start().await;
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let answer = server.admin.send(request.header("idempotency-key", "k").body("{}\n")).await;
    assert_eq!(answer.problem(), "422 field_invalid Idempotency-Key");
}

#[tokio::test]
async fn a_bad_line_spoils_no_other() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let good = json!({"module": digest}).to_string();
    let text = format!(
        "{good}\nnope\n\n{{\"module\":\"nobody\"}}\r\n{good}\r\n{{\"module\":\"{digest}\",\"prio\":1}}\n{good}"
    );
    let answers = lines(&submit(&server.admin, text).await);
    let shown: Vec<_> = answers
        .iter()
        .map(|answer| match answer["code"].as_str() {
            Some(code) => format!("{} {code}", answer["line"]),
            None => "id".to_owned(),
        })
        .collect();
    assert_eq!(shown, ["id", "2 malformed_json", "4 module_unknown", "id", "6 field_unknown", "id"]);
    assert_eq!(answers[4]["field"], "prio");
}

#[tokio::test]
async fn keys_and_large_payloads_work_in_bulk() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let large = "y".repeat(100_000);
    let text = format!(
        "{}\n{}\n{}\n{}\n{}\n",
        json!({"module": digest, "idempotency_key": "a"}),
        json!({"module": digest, "idempotency_key": "a"}),
        json!({"module": digest, "idempotency_key": "a", "name": "other"}),
        json!({"module": digest, "input_text": large}),
        json!({"module": digest, "idempotency_key": "b"}),
    );
    let first = lines(&submit(&server.admin, text.clone()).await);
    assert_eq!(first[0], first[1]);
    assert_eq!(first[2]["code"], "idempotency_conflict");
    assert_eq!(server.admin.ended(&first[3]["id"]).await["usage"]["output_bytes"], 100_000);
    let second = lines(&submit(&server.admin, text).await);
    assert_eq!((&second[0], &second[4]), (&first[0], &first[4]));
    assert_ne!(second[3], first[3]);
}

#[tokio::test]
async fn both_directions_stream() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|line| (Ok::<_, std::io::Error>(line), receiver))
    });
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let response = request.body(reqwest::Body::wrap_stream(body)).send().await.unwrap();
    let answers = response.bytes_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let mut answers = StreamReader::new(answers).lines();
    for n in 0..5 {
        // Each answer comes before the next line is sent.
        sender.send(format!("{}\n", json!({"module": digest, "input": n})).into()).await.unwrap();
        let answer: Value = serde_json::from_str(&answers.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(server.admin.ended(&answer["id"]).await["output"], n);
    }
    drop(sender);
    assert_eq!(answers.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn a_client_may_send_everything_before_it_reads() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    // Answers of two megabytes are more than the sockets hold.
    let line = format!("{{\"module\":\"{digest}\",\"delay_ms\":3600000}}\n");
    let text = line.repeat(40_000);
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let (sent, mut all_sent) = mpsc::channel::<()>(1);
    let chunks: Vec<_> = text.as_bytes().chunks(64 * 1024).map(Bytes::copy_from_slice).collect();
    let body = stream::iter(chunks).map(Ok::<_, std::io::Error>).chain(stream::once(async move {
        drop(sent);
        Ok(Bytes::new())
    }));
    let response = request.body(reqwest::Body::wrap_stream(body)).send().await.unwrap();
    let everything_sent = tokio::time::timeout(Duration::from_secs(60), all_sent.recv()).await;
    assert!(everything_sent.is_ok(), "the server did not stop to read");
    let answers = response.text().await.unwrap();
    assert_eq!(answers.lines().count(), 40_000);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_named() {
    let server = Server::start_with(|config| config.caps.payload_bytes = 1_000).await;
    let digest = server.upload(&server.admin, TASK).await;
    let good = json!({"module": digest}).to_string();
    let long = json!({"module": digest, "input_text": "x".repeat(3_000_000)}).to_string();
    let over = json!({"module": digest, "input_text": "x".repeat(1_001)}).to_string();
    let answers = lines(&submit(&server.admin, format!("{good}\n{long}\n{over}\n{good}\n")).await);
    assert!(answers[0]["id"].is_string() && answers[3]["id"].is_string(), "{answers:?}");
    assert_eq!((&answers[1]["code"], &answers[1]["line"]), (&json!("body_too_large"), &json!(2)));
    assert_eq!((&answers[2]["code"], &answers[2]["limit"]), (&json!("payload_too_large"), &json!(1_000)));
}

#[tokio::test]
async fn when_the_server_stops_the_client_is_told_how_far_it_came() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|line| (Ok::<_, std::io::Error>(line), receiver))
    });
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    sender.send(format!("{}\n", json!({"module": digest})).into()).await.unwrap();
    let response = request.body(reqwest::Body::wrap_stream(body)).send().await.unwrap();
    until("the line is accepted", async || {
        !server.admin.get("/v1/tasks").await.json()["items"].as_array().unwrap().is_empty()
    })
    .await;
    server.stop_http();
    let text = response.text().await.unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["code"], &last["line"]), (&json!("shutting_down"), &json!(2)));
    assert_eq!(text.lines().count(), 2);
}
