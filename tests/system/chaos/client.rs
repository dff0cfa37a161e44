//! An HTTP client with kept connections from a fixed source address. It returns every failure as a value.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use doorward::session::SessionId;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_util::task::AbortOnDropHandle;

use crate::chaos::history::{Session, Token};

pub const HOST: &str = "app.test";
/// The name of the session's cookie.
pub const COOKIE: &str = "__Host-doorward";
/// Longest wait for a response: twice the largest bound.
const TIMEOUT: Duration = Duration::from_secs(6);

/// A WebSocket through a gateway.
pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// A complete response.
pub struct HttpResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The cookies of one browser profile.
pub type Jar = BTreeMap<String, String>;

/// The connections of a tab.
pub struct Client {
    trust: Arc<rustls::ClientConfig>,
    from: Ipv4Addr,
    open: HashMap<SocketAddr, SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(trust: Arc<rustls::ClientConfig>, from: Ipv4Addr) -> Client {
        Client { trust, from, open: HashMap::new() }
    }

    /// Sends a request. If a kept connection turns out to be closed, retries on a new one, as browsers do.
    pub async fn send(
        &mut self,
        to: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpResponse, String> {
        let response = tokio::time::timeout(TIMEOUT, self.exchange(to, request)).await;
        response.unwrap_or_else(|_| Err(format!("nothing within {TIMEOUT:?}")))
    }

    async fn exchange(
        &mut self,
        to: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpResponse, String> {
        // Taken out while in use, so that a cancelled request also drops its connection.
        if let Some(mut kept) = self.open.remove(&to)
            && kept.ready().await.is_ok()
            && let Ok(response) = kept.send_request(request.clone()).await
        {
            return self.read_body(to, kept, response).await;
        }
        let mut fresh = self.connect(to).await.map_err(|error| format!("connecting: {error}"))?;
        let response = fresh.send_request(request).await;
        let response = response.map_err(|error| format!("asking: {error}"))?;
        self.read_body(to, fresh, response).await
    }

    /// Sends a request on a new connection and returns the response with an unread body.
    pub async fn open_stream(
        &self,
        to: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, String> {
        let exchange = async {
            let mut fresh = self.connect(to).await.map_err(|error| error.to_string())?;
            fresh.send_request(request).await.map_err(|error| error.to_string())
        };
        let response = tokio::time::timeout(TIMEOUT, exchange).await;
        response.unwrap_or_else(|_| Err(format!("nothing within {TIMEOUT:?}")))
    }

    /// Opens a WebSocket.
    pub async fn open_websocket(&self, to: SocketAddr, request: Request<()>) -> Option<WebSocket> {
        let opening = async {
            let stream = self.connect_tls(to).await.ok()?;
            Some(tokio_tungstenite::client_async(request, stream).await.ok()?.0)
        };
        tokio::time::timeout(TIMEOUT, opening).await.ok().flatten()
    }

    /// Sends a request with a long body and returns the response status.
    pub async fn upload<B>(&self, to: SocketAddr, request: Request<B>) -> Result<u16, String>
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let stream = self.connect_tls(to).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        Ok(response.status().as_u16())
    }

    async fn read_body(
        &mut self,
        to: SocketAddr,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<HttpResponse, String> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("reading: {error}"))?;
        self.open.insert(to, sender);
        let (status, headers) = (parts.status.as_u16(), parts.headers);
        Ok(HttpResponse { status, headers, body: body.to_bytes() })
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let stream = self.connect_tls(to).await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect_tls(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_nodelay(true)?;
        socket.bind(SocketAddr::new(IpAddr::V4(self.from), 0))?;
        let stream = socket.connect(to).await?;
        let name = ServerName::try_from(HOST).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.trust)).connect(name, stream).await
    }
}

impl HttpResponse {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The deny reason.
    pub fn reason(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the value of a hidden form field.
    pub fn form_field(&self, name: &str) -> Option<String> {
        let text = self.text();
        let tag = text.split('<').find(|tag| tag.contains(&format!("name=\"{name}\"")))?;
        let value = tag.split("value=\"").nth(1)?;
        Some(value.split('"').next()?.to_owned())
    }

    /// Returns the cookies of the response; the value `None` deletes one.
    pub fn cookies(&self) -> Vec<(String, Option<String>)> {
        let lines = self.headers.get_all("set-cookie").iter();
        lines.filter_map(|line| parse_set_cookie(line.to_str().ok()?)).collect()
    }

    /// Returns the new session token, if the response sets one.
    pub fn new_token(&self) -> Option<Token> {
        let cookies = self.cookies();
        let value = cookies.iter().find(|(name, _)| name == COOKIE)?.1.as_deref()?;
        parse_token(value)
    }

    /// Returns true if the response deletes the session cookie.
    pub fn deletes_cookie(&self) -> bool {
        self.cookies().iter().any(|(name, value)| name == COOKIE && value.is_none())
    }

    /// Returns true if the response is marked as a stale read.
    pub fn is_stale(&self) -> bool {
        self.headers.get("doorward-store").is_some_and(|state| state == "away")
    }

    pub fn store_cookies(&self, jar: &mut Jar) {
        for (name, value) in self.cookies() {
            match value {
                Some(value) => drop(jar.insert(name, value)),
                None => drop(jar.remove(&name)),
            }
        }
    }
}

fn parse_set_cookie(line: &str) -> Option<(String, Option<String>)> {
    let (name, value) = line.split(';').next()?.split_once('=')?;
    let deletes = value.is_empty() || line.contains("Max-Age=0");
    Some((name.to_owned(), (!deletes).then(|| value.to_owned())))
}

/// Parses a token: `version 1 | key id 1 | tag 8 | session id 16 | generation 4 | secret 32 | mac 16`.
pub fn parse_token(text: &str) -> Option<Token> {
    let bytes = BASE64URL_NOPAD.decode(text.strip_prefix("dw1_")?.as_bytes()).ok()?;
    let id = SessionId(bytes.get(10..26)?.try_into().ok()?);
    let session = Session(u64::from_str_radix(&id.handle(), 16).ok()?);
    let generation = u32::from_be_bytes(bytes.get(26..30)?.try_into().ok()?);
    let secret = u64::from_be_bytes(bytes.get(30..38)?.try_into().ok()?);
    Some(Token { session, generation, secret })
}

/// Returns a TLS configuration that trusts the CA of the test.
pub fn trust(ca: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("the CA")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
