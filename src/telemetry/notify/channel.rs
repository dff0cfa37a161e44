//! The channels in which a message can go, and how each can fail.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use http::StatusCode;

use super::Settings;
use super::command::Command;
use super::message::SignedMessage;
use super::webhook::Webhook;

pub(super) enum Channel {
    Command(Command),
    Webhook(Webhook),
}

/// Whether somebody sees what a program complains of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stderr {
    Discard,
    Inherit,
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("it cannot be run: {0}")]
    Start(io::Error),
    #[error("it ended with {0}")]
    ExitStatus(ExitStatus),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("it answered {status}")]
    Status {
        status: StatusCode,
        /// What its Retry-After says.
        wait: Option<Duration>,
    },
    #[error("it answered {0}, and redirects are not followed: write the address that it leads to")]
    Redirect(StatusCode),
    #[error("nothing came back within {0:?}")]
    Timeout(Duration),
}

impl DeliveryError {
    /// Whether another attempt would end in the same channel.
    pub fn is_permanent(&self) -> bool {
        match self {
            DeliveryError::Start(_)
            | DeliveryError::ExitStatus(_)
            | DeliveryError::Connect(_)
            | DeliveryError::Tls(_)
            | DeliveryError::Exchange(_)
            | DeliveryError::Timeout(_) => false,
            DeliveryError::Redirect(_) => true,
            DeliveryError::Status { status, .. } => {
                let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !passes.contains(status)
            }
        }
    }

    /// For how long the receiver asked to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            DeliveryError::Status { wait, .. } => *wait,
            DeliveryError::Start(_)
            | DeliveryError::ExitStatus(_)
            | DeliveryError::Connect(_)
            | DeliveryError::Tls(_)
            | DeliveryError::Exchange(_)
            | DeliveryError::Redirect(_)
            | DeliveryError::Timeout(_) => None,
        }
    }
}

impl Channel {
    pub(super) fn all(settings: &Settings) -> Vec<Channel> {
        let command = settings.command.clone().map(|command| Channel::Command(Command(command)));
        let webhook = settings.webhook.as_ref().map(|hook| Channel::Webhook(Webhook::new(hook)));
        command.into_iter().chain(webhook).collect()
    }

    /// One attempt; what came back.
    pub(super) async fn tell(
        &self,
        message: &SignedMessage,
        timeout: Duration,
        stderr: Stderr,
    ) -> Result<String, DeliveryError> {
        let attempt = async {
            match self {
                Channel::Command(command) => command.run(message, stderr).await,
                Channel::Webhook(webhook) => webhook.post(message).await,
            }
        };
        tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(DeliveryError::Timeout(timeout)))
    }
}

/// As the log names it: without arguments and paths, which may hold what opens a door.
impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Command(command) => command.fmt(f),
            Channel::Webhook(webhook) => webhook.fmt(f),
        }
    }
}
