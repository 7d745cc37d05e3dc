//! HTTP as the client commands speak it: one request, one answer, and problems as errors.

mod error;
mod path;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use error::{ClientError, Problem};
pub(crate) use path::Path;

use crate::failure::Failure;

/// The header by which an admin token names the tenant it acts for.
const TENANT_HEADER: HeaderName = HeaderName::from_static("wasmill-tenant");
/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Speaks to one server with one token. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    authorization: HeaderValue,
    tenant: Option<HeaderValue>,
}

/// Whose signature makes a server's certificate good.
#[derive(Debug)]
pub(crate) enum Trust {
    /// That of the authorities that this system trusts.
    System,
    /// That of these and no others.
    Only(Vec<reqwest::Certificate>),
}

impl Trust {
    /// The authorities in a PEM file.
    pub(crate) fn only(file: &std::path::Path) -> Result<Self, Failure> {
        let pem = std::fs::read(file).map_err(|error| Failure::file("read the authority", file, &error))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if authorities.is_empty() {
            return Err(Failure::usage(format!("there is no certificate in PEM in `{}`", file.display())));
        }
        Ok(Self::Only(authorities))
    }
}

/// A whole answer that is no problem.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Bytes,
    path: String,
}

impl Client {
    /// A client of `server`, which is a URL without a path. Nothing is sent yet.
    pub(crate) fn new(server: &str, token: &str, tenant: Option<&str>, trust: Trust) -> Result<Self, ClientError> {
        let bad_server = |reason: String| ClientError::BadServer { server: server.to_owned(), reason };
        let url = reqwest::Url::parse(server).map_err(|source| bad_server(source.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad_server("its scheme is neither http nor https".into()));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("wasmill/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // Reading the system's certificates takes longer than a request to a local server.
            builder = builder.tls_certs_only([]);
        } else if let Trust::Only(authorities) = trust {
            builder = builder.tls_certs_only(authorities);
        }
        // An error only says that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = builder.build().map_err(|source| bad_server(source.to_string()))?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ClientError::BadToken)?;
        authorization.set_sensitive(true);
        let tenant = tenant
            .map(|name| HeaderValue::from_str(name).map_err(|_| ClientError::BadTenant { name: name.into() }))
            .transpose()?;
        Ok(Self { http, server: server.trim_end_matches('/').to_owned(), authorization, tenant })
    }

    /// The server's URL, without a slash at the end.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A request with the headers that every request has.
    pub(crate) fn request(&self, method: Method, path: &Path) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        let request = request.header(AUTHORIZATION, self.authorization.clone());
        match &self.tenant {
            Some(tenant) => request.header(TENANT_HEADER, tenant.clone()),
            None => request,
        }
    }

    /// Sends a request and waits for the head of its answer; a problem is an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let broken = |source| ClientError::broken(&self.server, source);
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await.map_err(broken)?;
        Err(ClientError::Problem(Box::new(Problem::read(status.as_u16(), &body, retry_after))))
    }

    /// Sends a request and reads the whole answer; a problem is an error.
    pub(crate) async fn answer(&self, request: RequestBuilder) -> Result<Answer, ClientError> {
        let response = self.send(request).await?;
        let (status, path) = (response.status().as_u16(), response.url().path().to_owned());
        let body = response.bytes().await.map_err(|source| ClientError::broken(&self.server, source))?;
        Ok(Answer { status, body, path })
    }

    /// `GET`.
    pub(crate) async fn get(&self, path: &Path) -> Result<Answer, ClientError> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &Path) -> Result<Answer, ClientError> {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// Any method with a JSON body.
    pub(crate) async fn send_json(
        &self,
        method: Method,
        path: &Path,
        body: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ClientError::Unsendable { source })?;
        let request = self.request(method, path).header(CONTENT_TYPE, "application/json").body(body);
        self.answer(request).await
    }
}

impl Answer {
    /// The body as a value.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|source| ClientError::Unreadable { path: self.path.clone(), source })
    }
}

/// Whether `url` names this machine, so that no proxy stands in between and the local token may be
/// sent.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_checked_before_anything_is_sent() {
        for server in ["", "127.0.0.1:7700", "ftp://127.0.0.1", "http://"] {
            assert!(
                matches!(Client::new(server, "t", None, Trust::System), Err(ClientError::BadServer { .. })),
                "{server}"
            );
        }
        assert!(matches!(Client::new("http://h", "a\nb", None, Trust::System), Err(ClientError::BadToken)));
        assert!(matches!(
            Client::new("http://h", "t", Some("a\nb"), Trust::System),
            Err(ClientError::BadTenant { .. })
        ));
        assert_eq!(Client::new("http://h:1/", "t", None, Trust::System).unwrap().server(), "http://h:1");
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, expect) in [
            ("http://127.0.0.1:1", true),
            ("http://localhost", true),
            ("http://[::1]:7700", true),
            ("http://192.168.0.1", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expect, "{url}");
        }
    }
}
