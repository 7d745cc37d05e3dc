//! One HTTP request with headers that the command line does not send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::PATIENCE;

/// Sends a body to `path` of the server at `url`; gives status and body of the answer.
///
/// # Panics
///
/// There is no answer.
pub(crate) fn post(url: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    send(url, "POST", path, headers, body)
}

/// Asks for `path`; gives status and body of the answer.
///
/// # Panics
///
/// There is no answer.
pub(crate) fn get(url: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    send(url, "GET", path, headers, "")
}

fn send(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let host = url.strip_prefix("http://").expect("the server speaks HTTP without TLS");
    let mut connection = TcpStream::connect(host).expect("the server listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    connection.write_all(request.as_bytes()).expect("the request is taken");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("the server answers with text");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_else(|| panic!("the answer has no status: {answer}")), body.unwrap_or_default())
}
