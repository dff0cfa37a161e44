//! What a request and its answer do to the session, beyond being admitted.

use http::{Method, StatusCode};

use crate::message::PathPrefix;

/// The rules of one route. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// The app's own logout: a request there ends our session too.
    pub logout: Vec<PathPrefix>,
    /// Sensitive actions: the token is renewed once the app said that one was done.
    pub rotate: Vec<Action>,
    /// What the app may say in `Doorward-Session`.
    pub obeyed: Vec<Command>,
}

/// A sensitive action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub method: Method,
    pub path: PathPrefix,
}

/// What an app may say about its session in one line of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Renew the token now.
    Rotate,
    /// End the session.
    End,
    /// End all sessions of the user.
    EndAll,
    /// Keep the session and ask for a fresh login before anything else.
    Reauthenticate,
}

impl Steering {
    /// Whether a request can do anything: most routes have no rules, and cost nothing.
    pub fn is_empty(&self) -> bool {
        self.logout.is_empty() && self.rotate.is_empty() && self.obeyed.is_empty()
    }

    /// Whether this is the app's logout.
    pub fn logs_out(&self, path: &str) -> bool {
        self.logout.iter().any(|logout| logout.covers(path))
    }

    /// Whether this is a sensitive action.
    pub fn rotates(&self, method: &Method, path: &str) -> bool {
        self.rotate.iter().any(|action| action.method == *method && action.path.covers(path))
    }
}

impl Command {
    pub const ALL: [Command; 4] =
        [Command::Rotate, Command::End, Command::EndAll, Command::Reauthenticate];

    /// The word for configuration, and of the app.
    pub fn word(self) -> &'static str {
        match self {
            Command::Rotate => "rotate",
            Command::End => "end",
            Command::EndAll => "end-all",
            Command::Reauthenticate => "reauthenticate",
        }
    }

    /// The command behind a word.
    pub fn of(word: &str) -> Option<Command> {
        Command::ALL.into_iter().find(|command| command.word() == word)
    }
}

/// Whether an answer says that the action was done: forms answer with a redirect as often as with 200.
pub fn says_done(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}
