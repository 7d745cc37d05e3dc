//! A listing as lines: every task that a filter matches, oldest first, with its result if that is
//! asked for.
//!
//! The lines are made while the client takes them, a page of tasks and a piece of a result at a
//! time. So a listing holds less than 1 MiB however much it shows, and ends with the connection.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use wasmill_api::{NDJSON, TaskDoc};
use wasmill_protocol::{Payload, TaskId, TenantName};

use super::super::App;
use super::super::auth::Caller;
use super::super::problem::{Code, Fault, Handled};
use super::super::task_doc::{Shown, document};
use super::result::{StoredResult, write_result};
use super::{explain, has_output, unreadable};
use wasmill_scheduler::read_model::{Scan, TaskFilter, TaskRow};

/// Bytes that are sent together.
const CHUNK_BYTES: usize = 64 * 1024;

/// Whether a client asks for lines.
pub(super) fn are_asked_for(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        named && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

/// Answers with a line for each task. `None` matches nothing.
pub(super) async fn answer(app: App, caller: Caller, filter: Option<TaskFilter>, with_results: bool) -> Handled {
    let rest = match &filter {
        Some(_) => Some(app.handle.shared().read_model.scan().await.map_err(unreadable)?),
        None => None,
    };
    let lines = Lines {
        tenant: caller.tenant.clone(),
        filter: filter.unwrap_or_default(),
        rest,
        tasks: VecDeque::new(),
        stored: None,
        with_results,
        _caller: caller,
        app,
    };
    let chunks = stream::unfold(lines, |mut lines| async move {
        let chunk = lines.next().await?;
        Some((Ok::<_, Infallible>(chunk), lines))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// The rest of the lines.
struct Lines {
    app: App,
    tenant: TenantName,
    filter: TaskFilter,
    /// The tasks that were not read yet.
    rest: Option<Scan>,
    /// Tasks that were read and not written.
    tasks: VecDeque<Line>,
    /// The rest of the line that is being written.
    stored: Option<StoredResult>,
    with_results: bool,
    /// The request is under way until its last line.
    _caller: Caller,
}

/// A task to be written: its document, and its result if it is shown.
struct Line {
    row: TaskRow,
    /// The document without a result, and without the brace that ends it.
    head: Vec<u8>,
}

impl Line {
    fn new(row: TaskRow, document: &TaskDoc) -> Self {
        let mut head = serde_json::to_vec(document).expect("documents have text keys only");
        assert!(head.ends_with(NO_RESULT), "the result is the last field of a document");
        head.truncate(head.len() - NO_RESULT.len());
        Self { row, head }
    }
}

/// How a document without a result ends.
const NO_RESULT: &[u8] = b",\"output\":null}";

impl Lines {
    /// The next bytes of the answer. A fault becomes the last line.
    async fn next(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES {
            match self.write_some(&mut chunk).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    // A line that was begun cannot be read any more: the one that says why must
                    // stand by itself.
                    if self.stored.take().is_some() {
                        chunk.put_u8(b'\n');
                    }
                    (self.rest, self.tasks) = (None, VecDeque::new());
                    chunk.put_slice(&fault.to_json());
                    chunk.put_u8(b'\n');
                    break;
                }
            }
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }

    /// Writes some more. Whether anything may be left.
    async fn write_some(&mut self, chunk: &mut BytesMut) -> Handled<bool> {
        if let Some(stored) = &mut self.stored {
            if !stored.write(chunk).await? {
                self.stored = None;
                chunk.put_slice(b"}\n");
            }
            return Ok(true);
        }
        if let Some(line) = self.tasks.pop_front() {
            self.begin_line(line, chunk).await?;
            return Ok(true);
        }
        match self.rest {
            Some(scan) => self.read_page(scan).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn read_page(&mut self, scan: Scan) -> Handled<()> {
        if self.app.stopping.is_cancelled() {
            return Err(Fault::plain(Code::ShuttingDown));
        }
        let read_model = &self.app.handle.shared().read_model;
        let show = {
            let app = self.app.clone();
            move |row: TaskRow| {
                let document = document(&app, &row, Shown::Brief);
                (row, document)
            }
        };
        let page = read_model.scan_page_shown(&self.tenant, &self.filter, scan, show).await.map_err(unreadable)?;
        let (rows, mut documents): (Vec<_>, Vec<_>) = page.tasks.into_iter().unzip();
        explain(&self.app, &mut documents).await;
        let write = move || rows.into_iter().zip(&documents).map(|(row, document)| Line::new(row, document)).collect();
        self.tasks = read_model.show(&self.tenant, write).await.map_err(unreadable)?;
        self.rest = page.rest;
        Ok(())
    }

    async fn begin_line(&mut self, line: Line, chunk: &mut BytesMut) -> Handled<()> {
        let shown = self.with_results && has_output(&line.row);
        if !shown {
            chunk.put_slice(&line.head);
            chunk.put_slice(NO_RESULT);
            chunk.put_u8(b'\n');
            return Ok(());
        }
        match &line.row.output {
            Payload::Blob { digest, .. } => {
                let stored = StoredResult::open(&self.app, *digest).await;
                if stored.is_err() && is_gone(&self.app, &self.tenant, line.row.id).await? {
                    return Ok(());
                }
                chunk.put_slice(&line.head);
                self.stored = Some(stored?);
            }
            Payload::Inline(bytes) => {
                chunk.put_slice(&line.head);
                write_result(bytes, chunk);
                chunk.put_slice(b"}\n");
            }
            Payload::Empty => {
                chunk.put_slice(&line.head);
                write_result(b"", chunk);
                chunk.put_slice(b"}\n");
            }
        }
        Ok(())
    }
}

/// Whether a task has been removed since its page was read.
async fn is_gone(app: &App, tenant: &TenantName, task: TaskId) -> Handled<bool> {
    let found = app.handle.shared().read_model.task(tenant, task).await.map_err(unreadable)?;
    Ok(found.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&'static str]) -> bool {
        let headers = values.iter().map(|value| (ACCEPT, HeaderValue::from_static(value)));
        are_asked_for(&headers.collect())
    }

    #[test]
    fn lines_are_asked_for_by_name() {
        for values in [
            &["application/x-ndjson"][..],
            &["application/json, Application/X-NDJSON;q=0.5"],
            &["text/html", "application/x-ndjson ; q=1"],
        ] {
            assert!(asked(values), "{values:?}");
        }
        for values in [&[][..], &["*/*"], &["application/json"], &["application/x-ndjson;q=0"], &["x-ndjson"]] {
            assert!(!asked(values), "{values:?}");
        }
    }

    #[test]
    fn a_document_ends_with_its_result() {
        let document = serde_json::to_vec(&TaskDoc::default()).unwrap();
        assert!(document.ends_with(NO_RESULT));
    }
}
