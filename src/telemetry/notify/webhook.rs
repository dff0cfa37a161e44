//! A webhook: one POST on a connection of its own.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::channel::DeliveryError;
use super::message::SignedMessage;
use crate::clock::{Clock, UnixMillis};
use crate::config;
use crate::message::endpoint::Transport;

/// The most bytes of an answer's head. Its body is not read.
const BUFFER: usize = 16 * 1024;

pub(super) struct Webhook {
    at: config::Webhook,
    tls: TlsConnector,
}

impl Webhook {
    pub(super) fn new(hook: &super::Webhook) -> Webhook {
        let mut trust = hook.tls.as_ref().clone();
        trust.alpn_protocols = vec![b"http/1.1".to_vec()];
        Webhook { at: hook.target.clone(), tls: Arc::new(trust).into() }
    }

    /// Any 2xx says that it was told. Cancelled, it closes the connection.
    pub(super) async fn post(&self, message: &SignedMessage) -> Result<String, DeliveryError> {
        let endpoint = &self.at.endpoint;
        let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await;
        let stream = stream.map_err(DeliveryError::Connect)?;
        let request = self.request(message);
        let answer = match endpoint.transport() {
            Transport::Tls => exchange(self.secure(stream).await?, request).await?,
            Transport::Http1 | Transport::Http2 => exchange(stream, request).await?,
        };
        match answer.status() {
            status if status.is_success() => Ok(status.to_string()),
            status if status.is_redirection() => Err(DeliveryError::Redirect(status)),
            status => {
                let wait = retry_after(answer.headers(), Clock::System.now());
                Err(DeliveryError::Status { status, wait })
            }
        }
    }

    async fn secure(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DeliveryError> {
        let name = ServerName::try_from(self.at.endpoint.host().to_owned());
        let name = name.map_err(|error| DeliveryError::Tls(io::Error::other(error)))?;
        self.tls.connect(name, stream).await.map_err(DeliveryError::Tls)
    }

    fn request(&self, message: &SignedMessage) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(message.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.at.target.clone().into();
        let authority = self.at.endpoint.authority().as_str();
        let said = [
            ("webhook-id", Some(message.id.as_str())),
            ("webhook-timestamp", Some(message.timestamp.as_str())),
            ("webhook-signature", message.signature.as_deref()),
            (HOST.as_str(), Some(authority)),
        ];
        let fields = request.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
        fields.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("doorward/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in said {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                fields.insert(name, value);
            }
        }
        request
    }
}

async fn exchange<T>(
    stream: T,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, DeliveryError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut client = http1::Builder::new();
    let (mut sender, connection) =
        client.max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
    // Ends with this exchange, whatever the receiver does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Seconds, or a date (RFC 9110, 10.2.3). Anything else asks for nothing.
fn retry_after(fields: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = fields.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let at = u64::try_from(at.as_millisecond()).ok()?;
    Some(UnixMillis(at).since(now))
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.endpoint.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
        let asked = |text: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&fields, UnixMillis(784_111_777_000))
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO), "it is over");
        for nothing in ["", "-1", "soon", "1.5", "99999999999999999999", "Sun, 06 Nov"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }
}
