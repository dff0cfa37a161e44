//! What is told of a request that nobody made.

use serde::Serialize;

use super::{Effects, SessionRules, SignalsExplained};

/// What would happen.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub method: String,
    pub host: String,
    /// The path that rules are compared with.
    pub path: String,
    pub route: Option<RouteExplained>,
    /// `admit`, `public`, `own-page`, or the word of the refusal, as in the log.
    pub verdict: &'static str,
    pub why: String,
    /// Whether the answer would carry a new token.
    pub renews: bool,
    /// What it does to the session once it is let through; absent where everybody may come.
    pub effects: Option<Effects>,
    /// What speaks against its place; absent without a session, and where everybody may come.
    pub signals: Option<SignalsExplained>,
    /// Empty when the request goes upstream.
    pub answers: Vec<AnswerExplained>,
    /// What goes upstream, in order; of the client's own fields those that were said.
    pub upstream_headers: Vec<(String, String)>,
}

/// The route that was found and what holds on it.
#[derive(Clone, Debug, Serialize)]
pub struct RouteExplained {
    pub label: String,
    pub upstreams: Vec<String>,
    pub access: String,
    pub limits: Vec<(&'static str, String)>,
    /// Absent where everybody may come.
    pub session: Option<SessionRules>,
}

/// How a refusal would look.
#[derive(Clone, Debug, Serialize)]
pub struct AnswerExplained {
    /// `a browser` or `a program`.
    pub to: &'static str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}
