//! One kept-alive connection with as little between as possible: what the client costs is part of
//! every figure.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpSocket, TcpStream};
use wasmill_api::ModuleDoc;

/// Where to connect and who asks.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    authority: String,
    host: HeaderValue,
    authorization: HeaderValue,
    /// The address of this machine that connections come from, when it matters.
    source: Option<[u8; 4]>,
}

/// One connection, one request at a time.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    endpoint: Endpoint,
}

impl Endpoint {
    /// `server` is a URL of plain HTTP.
    pub(super) fn new(server: &str, token: &str) -> Result<Self> {
        let authority = server.trim_end_matches('/').strip_prefix("http://");
        let authority = authority.with_context(|| format!("`{server}` is not plain HTTP, which alone is measured"))?;
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {token}")).context("the token cannot be sent")?;
        authorization.set_sensitive(true);
        let with_port = if authority.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let host = HeaderValue::from_str(authority).with_context(|| format!("`{server}` is not a URL"))?;
        Ok(Self { authority: with_port, host, authorization, source: None })
    }

    /// The same server for somebody else, who comes from another address.
    pub(super) fn as_another(&self, token: &str, source: [u8; 4]) -> Result<Self> {
        let server = format!("http://{}", self.authority);
        Ok(Self { source: Some(source), ..Self::new(&server, token)? })
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> &str {
        self.authorization.to_str().unwrap_or_default()
    }

    /// Opens a connection without a word, with little room for what comes when that is named.
    pub(super) async fn open(&self, receive_bytes: Option<u32>) -> Result<TcpStream> {
        let cannot = || format!("cannot reach {}", self.authority);
        let address =
            tokio::net::lookup_host(&self.authority).await.with_context(cannot)?.next().with_context(cannot)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source.filter(|_| address.is_ipv4()) {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(address).await.with_context(cannot)?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(stream)
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream = self.open(None).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("cannot speak HTTP")?;
        // An error of the connection is also an error of the request that is on it, where it is
        // reported.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, endpoint: self.clone() })
    }
}

impl Connection {
    /// Sends a request; the body of the answer is still to be read.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().with_context(|| format!("`{path}` is not a path"))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.endpoint.host.clone());
        headers.insert(AUTHORIZATION, self.endpoint.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.sender.ready().await.with_context(|| format!("the connection broke before {path}"))?;
        self.sender.send_request(request).await.with_context(|| format!("the connection broke at {path}"))
    }

    /// Sends a request and reads the answer, which must be of status `expect`.
    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
        expect: &[u16],
    ) -> Result<Bytes> {
        let response = self.send(method, path, content_type, body).await?;
        let status = response.status().as_u16();
        let body =
            response.into_body().collect().await.with_context(|| format!("the answer to {path} broke off"))?.to_bytes();
        ensure!(expect.contains(&status), "{path} was answered with {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// `GET` of JSON.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let body = self.call(Method::GET, path, "application/json", Bytes::new(), &[200]).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer to {path} cannot be understood"))
    }

    /// `POST` of JSON for JSON.
    pub(super) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: impl Into<Bytes>) -> Result<T> {
        let body = self.call(Method::POST, path, "application/json", body.into(), &[200, 201]).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer to {path} cannot be understood"))
    }

    /// Uploads a module and answers its digest.
    pub(super) async fn push(&mut self, module: Bytes) -> Result<String> {
        let body = self.call(Method::POST, "/v1/modules", "application/wasm", module, &[200, 201]).await?;
        let module: ModuleDoc = serde_json::from_slice(&body).context("the upload's answer is no module")?;
        Ok(module.digest.to_string())
    }

    /// Runs a module on an empty payload and drops the result.
    pub(super) async fn run(&mut self, run_path: &str) -> Result<()> {
        self.call(Method::POST, run_path, "application/octet-stream", Bytes::new(), &[200]).await.map(drop)
    }
}

/// The path of `POST /v1/run` for a module.
pub(super) fn run_path(digest: &str) -> String {
    format!("/v1/run/{digest}")
}
