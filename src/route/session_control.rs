//! Session control: effects of a request and its response on the session, beyond admission.

use std::fmt;

use http::{Method, StatusCode};

use crate::message::PathPrefix;

/// The session control rules of one route. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionControlRules {
    /// Logout paths of the upstream: a request to one also ends the session.
    pub logout: Vec<LogoutPage>,
    /// Sensitive actions: the token is rotated after a successful response.
    pub rotate: Vec<SensitiveAction>,
    /// Commands that the upstream may send in `Doorward-Session`.
    pub upstream_commands: Vec<SessionCommand>,
}

/// A logout path of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutPage {
    pub path: PathPrefix,
    /// Query parameters that must all be present, decoded; empty for any query.
    pub parameters: Vec<(String, String)>,
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

    /// Returns whether path and query are a logout of the upstream.
    pub fn is_logout(&self, path: &str, query: Option<&str>) -> bool {
        self.logout.iter().any(|logout| logout.matches(path, query.unwrap_or_default()))
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

impl LogoutPage {
    fn matches(&self, path: &str, query: &str) -> bool {
        let is_sent = |(name, value): &(String, String)| {
            form_urlencoded::parse(query.as_bytes()).any(|sent| sent.0 == *name && sent.1 == *value)
        };
        self.path.covers(path) && self.parameters.iter().all(is_sent)
    }
}

impl fmt::Display for LogoutPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = form_urlencoded::Serializer::new(String::new());
        f.write_str(self.path.as_str())?;
        match query.extend_pairs(&self.parameters).finish() {
            query if query.is_empty() => Ok(()),
            query => write!(f, "?{query}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_page_matches_by_path_and_query_parameters() {
        let page = |path: &str, parameters: &[(&str, &str)]| LogoutPage {
            path: PathPrefix::parse(path).expect("a path"),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let rules = SessionControlRules {
            logout: vec![
                page("/logout", &[]),
                page("/", &[("do", "logout")]),
                page("/w", &[("title", "Special:UserLogout"), ("a", "b c")]),
            ],
            ..SessionControlRules::default()
        };
        for (path, query) in [
            ("/logout", None),
            ("/logout/x", Some("y=z")),
            ("/start", Some("id=a&do=logout&sectok=1")),
            ("/start", Some("%64o=log%6Fut")),
            ("/start", Some("do=login&do=logout")),
            ("/w/index.php", Some("a=b+c&title=Special%3AUserLogout")),
        ] {
            assert!(rules.is_logout(path, query), "{path} {query:?}");
        }
        for (path, query) in [
            ("/start", None),
            ("/start", Some("do=logout2")),
            ("/start", Some("undo=logout")),
            ("/start", Some("do")),
            ("/w", Some("title=Special:UserLogout")),
            ("/start", Some("q=do%3Dlogout")),
        ] {
            assert!(!rules.is_logout(path, query), "{path} {query:?}");
        }
        assert_eq!(rules.logout[2].to_string(), "/w?title=Special%3AUserLogout&a=b+c");
    }
}
