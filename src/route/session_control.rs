//! Session control: effects of a request and its response on the session, beyond admission.

use http::{Method, StatusCode};

use crate::message::PathPrefix;

/// The session control rules of one route. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionControlRules {
    /// Logout paths of the upstream: a request to one also ends the session.
    pub logout: Vec<PathPrefix>,
    /// Sensitive actions: the token is rotated after a successful response.
    pub rotate: Vec<SensitiveAction>,
    /// Commands that the upstream may send in `Doorward-Session`.
    pub upstream_commands: Vec<SessionCommand>,
}

/// A sensitive action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensitiveAction {
    pub method: Method,
    pub path: PathPrefix,
}

/// A command that an upstream sends in the `Doorward-Session` response header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    /// Rotates the token now.
    Rotate,
    /// Ends the session.
    End,
    /// Ends all sessions of the user.
    EndAll,
    /// Keeps the session and requires reauthentication.
    Reauthenticate,
}

impl SessionControlRules {
    /// Returns whether there are no rules, as on most routes.
    pub fn is_empty(&self) -> bool {
        self.logout.is_empty() && self.rotate.is_empty() && self.upstream_commands.is_empty()
    }

    /// Returns whether the path is a logout path of the upstream.
    pub fn is_logout(&self, path: &str) -> bool {
        self.logout.iter().any(|logout| logout.covers(path))
    }

    /// Returns whether a request, executed as one of these methods, is a sensitive action.
    pub fn is_sensitive_action<'a>(
        &self,
        mut methods: impl Iterator<Item = &'a Method>,
        path: &str,
    ) -> bool {
        let is_action = |method: &Method| {
            self.rotate.iter().any(|action| action.method == *method && action.path.covers(path))
        };
        methods.any(is_action)
    }
}

impl SessionCommand {
    pub const ALL: [SessionCommand; 4] = [
        SessionCommand::Rotate,
        SessionCommand::End,
        SessionCommand::EndAll,
        SessionCommand::Reauthenticate,
    ];

    /// Returns the name in the configuration and in the response header.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionCommand::Rotate => "rotate",
            SessionCommand::End => "end",
            SessionCommand::EndAll => "end-all",
            SessionCommand::Reauthenticate => "reauthenticate",
        }
    }

    /// Returns the command with this name.
    pub fn from_name(name: &str) -> Option<SessionCommand> {
        SessionCommand::ALL.into_iter().find(|command| command.as_str() == name)
    }
}

/// Returns whether a response reports success. Forms often respond with a redirect instead of 200.
pub fn is_success(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}
