//! A small HTTP/1.1 client for occasional requests: one connection per request, which closes with the
//! response or when the caller cancels. Requests of clients go through [`crate::upstream`] instead.
//!
//! Invariants:
//! - A request ends at its deadline, whatever the server does.
//! - A response head has at most [`MAX_HEAD`] bytes, and a body at most `max_body`.
//! - Redirects are not followed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

/// Maximum size of a response head in bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// Sends requests with the given trust and limits.
#[derive(Clone)]
pub struct HttpClient {
    tls: TlsConnector,
    timeout: Duration,
    max_body: usize,
}

/// A request without a response.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    #[error("the response body is longer than {0} bytes")]
    BodyTooLong(usize),
    #[error("no response within {0:?}")]
    Timeout(Duration),
}

impl HttpClient {
    /// `timeout` covers a whole request. `max_body` is the maximum size of a response body in bytes; zero
    /// leaves the body unread and returns an empty one.
    pub fn new(tls: &ClientConfig, timeout: Duration, max_body: usize) -> HttpClient {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        HttpClient { tls: Arc::new(tls).into(), timeout, max_body }
    }

    /// Sends a request to an endpoint and sets `Host`, `Connection` and `User-Agent`. The URI of the request
    /// has the path and query only. Cancellation closes the connection.
    ///
    /// # Errors
    /// When no complete response arrives in time.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, HttpClientError> {
        set_headers(endpoint, &mut request);
        let exchange = async {
            let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await;
            let stream = stream.map_err(HttpClientError::Connect)?;
            match endpoint.transport() {
                Transport::Tls => {
                    self.exchange(self.handshake(endpoint, stream).await?, request).await
                }
                Transport::Http1 | Transport::Http2 => self.exchange(stream, request).await,
            }
        };
        let timeout = HttpClientError::Timeout(self.timeout);
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(timeout))
    }

    async fn handshake(
        &self,
        endpoint: &Endpoint,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HttpClientError> {
        let name = ServerName::try_from(endpoint.host().to_owned());
        let name = name.map_err(|error| HttpClientError::Tls(io::Error::other(error)))?;
        self.tls.connect(name, stream).await.map_err(HttpClientError::Tls)
    }

    async fn exchange<T>(
        &self,
        stream: T,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, HttpClientError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut client = http1::Builder::new();
        let (mut sender, connection) =
            client.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
        // Aborted on drop: the connection does not outlive this call.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, self.read(body).await?))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, HttpClientError> {
        if self.max_body == 0 {
            return Ok(Bytes::new());
        }
        let body = Limited::new(body, self.max_body).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => HttpClientError::Connection(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>(), "{error}");
                HttpClientError::BodyTooLong(self.max_body)
            }
        })
    }
}

fn set_headers(endpoint: &Endpoint, request: &mut Request<Full<Bytes>>) {
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(endpoint.authority().as_str()) {
        headers.insert(HOST, host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let agent = concat!("doorward/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sends a GET request to a server that sends `response` and, if `open`, keeps the connection open.
    async fn get(
        max_body: usize,
        response: &'static str,
        open: bool,
    ) -> Result<Bytes, HttpClientError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let endpoint = Endpoint::parse(&endpoint).expect("an endpoint");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.expect("a request");
            stream.write_all(response.as_bytes()).await.expect("sent");
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            assert!(head.starts_with("GET /x HTTP/1.1\r\n") && head.contains("host: 127.0.0.1:"));
            if open {
                // Returns when the client closes the connection.
                stream.read_to_end(&mut Vec::new()).await.ok();
            }
        });
        let roots = rustls::RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = HttpClient::new(&tls, Duration::from_secs(1), max_body);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = http::Uri::from_static("/x");
        let response = client.send(&endpoint, request).await;
        tokio::time::timeout(Duration::from_secs(10), server).await.expect("closed").expect("ok");
        response.map(Response::into_body)
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_and_a_longer_one_is_an_error() {
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(get(4, response, true).await.expect("a response"), "body");
        let error = get(3, response, true).await.expect_err("too long");
        assert!(matches!(error, HttpClientError::BodyTooLong(3)), "{error}");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
        let error = get(3, chunked, true).await.expect_err("too long");
        assert!(matches!(error, HttpClientError::BodyTooLong(3)), "{error}");
    }

    #[tokio::test]
    async fn a_limit_of_zero_does_not_wait_for_the_body() {
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(get(0, response, true).await.expect("a response"), "");
    }

    #[tokio::test]
    async fn an_incomplete_response_ends_at_the_timeout_or_the_end_of_the_connection() {
        for response in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo"]
        {
            let error = get(4, response, true).await.expect_err("incomplete");
            assert!(matches!(error, HttpClientError::Timeout(_)), "{response:?}: {error}");
            let error = get(4, response, false).await.expect_err("incomplete");
            assert!(matches!(error, HttpClientError::Connection(_)), "{response:?}: {error}");
        }
    }
}
