//! The ways in which a letter can go, and how each can fail.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use http::StatusCode;

use super::Settings;
use super::command::Command;
use super::letter::Stamped;
use super::webhook::Webhook;

pub(super) enum Way {
    Command(Command),
    Webhook(Webhook),
}

/// Whether somebody sees what a program complains of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Unheard,
    Heard,
}

/// Why a letter did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("it cannot be run: {0}")]
    Start(io::Error),
    #[error("it ended with {0}")]
    Ended(ExitStatus),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("it answered {status}")]
    Answered {
        status: StatusCode,
        /// What its Retry-After says.
        wait: Option<Duration>,
    },
    #[error("it answered {0}, and redirects are not followed: write the address that it leads to")]
    Redirected(StatusCode),
    #[error("nothing came back within {0:?}")]
    Late(Duration),
}

impl Failure {
    /// Whether another attempt would end in the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Failure::Start(_)
            | Failure::Ended(_)
            | Failure::Connect(_)
            | Failure::Tls(_)
            | Failure::Exchange(_)
            | Failure::Late(_) => false,
            Failure::Redirected(_) => true,
            Failure::Answered { status, .. } => {
                let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !passes.contains(status)
            }
        }
    }

    /// For how long the receiver asked to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Failure::Answered { wait, .. } => *wait,
            Failure::Start(_)
            | Failure::Ended(_)
            | Failure::Connect(_)
            | Failure::Tls(_)
            | Failure::Exchange(_)
            | Failure::Redirected(_)
            | Failure::Late(_) => None,
        }
    }
}

impl Way {
    pub(super) fn all(settings: &Settings) -> Vec<Way> {
        let command = settings.command.clone().map(|command| Way::Command(Command(command)));
        let webhook = settings.webhook.as_ref().map(|hook| Way::Webhook(Webhook::new(hook)));
        command.into_iter().chain(webhook).collect()
    }

    /// One attempt; what came back.
    pub(super) async fn tell(
        &self,
        letter: &Stamped,
        timeout: Duration,
        voice: Voice,
    ) -> Result<String, Failure> {
        let attempt = async {
            match self {
                Way::Command(command) => command.run(letter, voice).await,
                Way::Webhook(webhook) => webhook.post(letter).await,
            }
        };
        tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(Failure::Late(timeout)))
    }
}

/// As the log names it: without arguments and paths, which may hold what opens a door.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Command(command) => command.fmt(f),
            Way::Webhook(webhook) => webhook.fmt(f),
        }
    }
}
