//! The channels of a notification: a program that reads it from standard input, and a webhook.

use std::fmt;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::clock::{Clock, UnixMillis};
use crate::config::{self, NotifyCommand};
use crate::http_client::{HttpClient, HttpClientError};

pub(super) enum Channel {
    Command(NotifyCommand),
    Webhook(config::Webhook, HttpClient),
}

/// A webhook and the certificate authorities that it may use.
pub struct WebhookReceiver {
    pub target: config::Webhook,
    pub tls: Arc<rustls::ClientConfig>,
}

/// A notification that is signed for one attempt, because receivers reject old signatures.
pub(super) struct SignedMessage {
    pub(super) id: String,
    /// Unix seconds.
    pub(super) timestamp: String,
    pub(super) signature: Option<String>,
    pub(super) body: Bytes,
}

/// The standard error of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stderr {
    Discard,
    Inherit,
}

/// A failed delivery.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("the program cannot be run: {0}")]
    Start(io::Error),
    #[error("the program ended with {0}")]
    ExitStatus(ExitStatus),
    #[error(transparent)]
    Http(#[from] HttpClientError),
    #[error("response {status}")]
    Status {
        status: StatusCode,
        /// From Retry-After.
        retry_after: Option<Duration>,
    },
    #[error("response {0}; redirects are not followed, so set the final address as webhook")]
    Redirect(StatusCode),
    #[error("no result within {0:?}")]
    Timeout(Duration),
}

impl DeliveryError {
    /// Reports whether further attempts are pointless.
    pub fn is_permanent(&self) -> bool {
        match self {
            DeliveryError::Start(_)
            | DeliveryError::ExitStatus(_)
            | DeliveryError::Http(_)
            | DeliveryError::Timeout(_) => false,
            DeliveryError::Redirect(_) => true,
            DeliveryError::Status { status, .. } => {
                let transient = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !transient.contains(status)
            }
        }
    }

    /// Returns the delay that the receiver requested.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            DeliveryError::Status { retry_after, .. } => *retry_after,
            DeliveryError::Start(_)
            | DeliveryError::ExitStatus(_)
            | DeliveryError::Http(_)
            | DeliveryError::Redirect(_)
            | DeliveryError::Timeout(_) => None,
        }
    }
}

impl Channel {
    /// `timeout` applies to one attempt.
    pub(super) fn webhook(webhook: &WebhookReceiver, timeout: Duration) -> Channel {
        Channel::Webhook(webhook.target.clone(), HttpClient::new(&webhook.tls, timeout, 0))
    }

    /// Makes one attempt. Returns the exit status or the response status.
    pub(super) async fn send(
        &self,
        message: &SignedMessage,
        timeout: Duration,
        stderr: Stderr,
    ) -> Result<String, DeliveryError> {
        match self {
            Channel::Command(command) => {
                let run = tokio::time::timeout(timeout, run(command, message, stderr));
                run.await.unwrap_or(Err(DeliveryError::Timeout(timeout)))
            }
            Channel::Webhook(webhook, client) => post(webhook, client, message).await,
        }
    }
}

/// As in the log: without arguments and paths, which may be secret.
impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Command(command) => command.program.display().fmt(f),
            Channel::Webhook(webhook, _) => webhook.endpoint.fmt(f),
        }
    }
}

/// Exit code 0 is a delivery. Cancellation kills the program and all processes that it started.
async fn run(
    command: &NotifyCommand,
    message: &SignedMessage,
    stderr: Stderr,
) -> Result<String, DeliveryError> {
    let mut group = ProcessGroup(start(command, message, stderr).map_err(DeliveryError::Start)?);
    if let Some(mut input) = group.0.stdin.take() {
        // A program may exit without reading its input; the exit code counts.
        input.write_all(&message.body).await.unwrap_or_default();
    }
    let status = group.0.wait().await.map_err(DeliveryError::Start)?;
    if status.success() { Ok(status.to_string()) } else { Err(DeliveryError::ExitStatus(status)) }
}

/// The environment has `PATH` and the headers of a webhook, so that no secret of the gateway leaks.
fn start(command: &NotifyCommand, message: &SignedMessage, stderr: Stderr) -> io::Result<Child> {
    let mut process = Command::new(&command.program);
    process.args(&command.arguments).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        process.env("PATH", path);
    }
    process.env("WEBHOOK_ID", &message.id).env("WEBHOOK_TIMESTAMP", &message.timestamp);
    if let Some(signature) = &message.signature {
        process.env("WEBHOOK_SIGNATURE", signature);
    }
    let stderr = match stderr {
        Stderr::Discard => Stdio::null(),
        Stderr::Inherit => Stdio::inherit(),
    };
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
    process.process_group(0).kill_on_drop(true).spawn()
}

/// A program that leads its process group. Its ID is not reused before it was waited for.
struct ProcessGroup(Child);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It fails only if no process of the group is left.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }
}

/// Any 2xx is a delivery. Cancellation closes the connection.
async fn post(
    webhook: &config::Webhook,
    client: &HttpClient,
    message: &SignedMessage,
) -> Result<String, DeliveryError> {
    let response = client.send(&webhook.endpoint, request(webhook, message)).await?;
    match response.status() {
        status if status.is_success() => Ok(status.to_string()),
        status if status.is_redirection() => Err(DeliveryError::Redirect(status)),
        status => {
            let retry_after = retry_after(response.headers(), Clock::System.now());
            Err(DeliveryError::Status { status, retry_after })
        }
    }
}

fn request(webhook: &config::Webhook, message: &SignedMessage) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = webhook.target.clone().into();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [
        ("webhook-id", Some(message.id.as_str())),
        ("webhook-timestamp", Some(message.timestamp.as_str())),
        ("webhook-signature", message.signature.as_deref()),
    ] {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.insert(name, value);
        }
    }
    request
}

/// Parses seconds or a date (RFC 9110, section 10.2.3). `None` for anything else.
fn retry_after(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let at = u64::try_from(at.as_millisecond()).ok()?;
    Some(UnixMillis(at).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, UnixMillis(784_111_777_000))
        };
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO), "in the past");
        for invalid in ["", "-1", "soon", "1.5", "99999999999999999999", "Sun, 06 Nov"] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }
}
