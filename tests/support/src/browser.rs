//! An HTTP client with a cookie jar, over TLS, with HTTP/1.1, HTTP/2 or raw bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::gateway::{Gateway, PASSWORD};

/// The name of the session cookie.
pub const SESSION: &str = "__Host-doorward";

/// Longest wait for one response.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One browser profile: a cookie jar and connection settings.
#[derive(Clone)]
pub struct Browser {
    pub address: SocketAddr,
    pub host: String,
    pub jar: BTreeMap<String, String>,
    pub h2: bool,
    /// PROXY protocol header, sent before the TLS handshake; empty sends none.
    pub proxy_header: Vec<u8>,
    /// Sent with every request.
    pub headers: Vec<(&'static str, String)>,
    pub tls: Arc<rustls::ClientConfig>,
}

/// A complete response.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Returns all `Set-Cookie` headers.
    pub fn set_cookies(&self) -> Vec<String> {
        let lines = self.headers.get_all("set-cookie").iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    }

    /// Returns the value of a hidden form field, or an empty string if it has none.
    pub fn form_field(&self, name: &str) -> String {
        let text = self.text();
        let at = text
            .find(&format!("name=\"{name}\""))
            .unwrap_or_else(|| panic!("no form field {name} in {text}"));
        let tag_start = text[..at].rfind('<').expect("a tag");
        let tag = &text[tag_start..tag_start + text[tag_start..].find('>').expect("closed")];
        let value = tag.find("value=\"").map(|from| &tag[from + 7..]);
        value.map(|rest| rest[..rest.find('"').expect("closed")].to_owned()).unwrap_or_default()
    }
}

impl Browser {
    /// Creates an empty profile for host `app.test` that trusts the gateway's development CA.
    pub fn new(gateway: &Gateway) -> Browser {
        Browser::at_address(gateway.address, &gateway.path("ca.pem"))
    }

    /// Creates an empty profile for a gateway in another process.
    pub fn at_address(address: SocketAddr, ca: &Path) -> Browser {
        let (host, jar) = ("app.test".to_owned(), BTreeMap::new());
        let (proxy_header, headers) = (Vec::new(), Vec::new());
        Browser { address, host, jar, h2: false, proxy_header, headers, tls: trust(ca) }
    }

    /// Switches the profile to HTTP/2.
    pub fn over_h2(mut self) -> Browser {
        self.h2 = true;
        self
    }

    /// Copies the profile, jar included, for use with another gateway.
    pub fn at_gateway(&self, gateway: &Gateway) -> Browser {
        Browser { address: gateway.address, ..self.clone() }
    }

    /// Returns the session token, or an empty string if the jar has none.
    pub fn token(&self) -> String {
        self.jar.get(SESSION).cloned().unwrap_or_default()
    }

    /// Stores a session token in the jar.
    pub fn with_token(mut self, token: &str) -> Browser {
        self.jar.insert(SESSION.to_owned(), token.to_owned());
        self
    }

    /// Sends a GET as a program would, without browser headers.
    pub async fn fetch(&mut self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    /// Sends a top-level navigation.
    pub async fn navigate(&mut self, path: &str) -> Response {
        self.send(
            "GET",
            path,
            &[("accept", "text/html"), ("sec-fetch-mode", "navigate"), ("sec-fetch-site", "none")],
            "",
        )
        .await
    }

    /// Submits a form of one of the gateway's own pages.
    pub async fn post_form(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let origin = format!("https://{}", self.host);
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "text/html"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-site", "same-origin"),
            ("origin", &origin),
        ];
        self.send("POST", path, &headers, &body).await
    }

    /// Logs in through the login page, asserts success and returns the last response.
    pub async fn log_in(&mut self, user: &str) -> Response {
        let response = self.try_log_in(user, PASSWORD, "/").await;
        assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
        assert!(!self.token().is_empty());
        response
    }

    /// Logs in like [`Browser::log_in`], starting with a navigation to `target`.
    pub async fn log_in_at(&mut self, user: &str, target: &str) -> Response {
        let response = self.try_log_in(user, PASSWORD, target).await;
        assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
        response
    }

    /// Tries to log in through the login page, starting with a navigation to `target`.
    pub async fn try_log_in(&mut self, user: &str, password: &str, target: &str) -> Response {
        let first = self.navigate(target).await;
        let login = match first.status {
            StatusCode::SEE_OTHER => first.header("location").to_owned(),
            _ => "/.doorward/login".to_owned(),
        };
        let form = self.navigate(&login).await;
        assert_eq!(form.status, StatusCode::OK, "{}", form.text());
        let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
        let fields = [("username", user), ("password", password), ("csrf", &csrf), ("to", &to)];
        self.post_form("/.doorward/login", &fields).await
    }

    /// Sends a request with the cookies of the jar and stores the cookies of the response.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut request = Request::builder().method(method);
        request = match self.h2 {
            true => request.uri(format!("https://{}{path}", self.host)),
            false => request.uri(path).header("host", &self.host),
        };
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !self.jar.is_empty() {
            let pairs: Vec<_> =
                self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let response = tokio::time::timeout(TIMEOUT, self.exchange(request))
            .await
            .expect("a response in time");
        self.store_cookies(&response);
        response
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Response {
        let tls = TokioIo::new(self.connect().await);
        let (response, connection) = if self.h2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .max_header_list_size(1024 * 1024)
                    .handshake(tls)
                    .await
                    .expect("HTTP/2");
            let connection = tokio::spawn(connection);
            (sender.send_request(request).await, connection)
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
                .max_headers(2000)
                .max_buf_size(1024 * 1024)
                .handshake(tls)
                .await
                .expect("HTTP/1.1");
            let connection = tokio::spawn(connection);
            (sender.send_request(request).await, connection)
        };
        let (parts, body) = response.expect("a response").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        // A graceful shutdown waits for open connections, so close this one before returning.
        let _left = tokio::time::timeout(Duration::from_secs(1), connection).await;
        Response { status: parts.status, headers: parts.headers, body }
    }

    /// Opens a TLS connection with the ALPN protocol of the profile.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let mut config = (*self.tls).clone();
        config.alpn_protocols = vec![if self.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(&self.proxy_header).await.expect("sent");
        let name = ServerName::try_from(self.host.clone()).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
    }

    /// Sends bytes and reads until the gateway closes or stays silent for a second.
    pub async fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("sent");
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(Ok(read)) =
            tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await
        {
            if read == 0 {
                break;
            }
            all.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Applies `Set-Cookie` headers; `Max-Age=0` deletes the cookie.
    fn store_cookies(&mut self, response: &Response) {
        for line in response.set_cookies() {
            let pair = line.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else { continue };
            if line.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

fn trust(ca: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("the CA")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
