//! The result of an explanation.

use serde::Serialize;

use super::{RiskExplanation, SessionEffects, SessionRules};

/// How the proxy would handle a request.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub method: String,
    pub host: String,
    /// The path that routes and rules are matched against.
    pub path: String,
    pub route: Option<RouteExplanation>,
    /// `admit`, `public`, `own-page`, or the denial, as in the access log.
    pub verdict: &'static str,
    pub why: String,
    /// Whether the response would set a new token.
    pub rotates: bool,
    /// Effects on the session if permitted; `None` on public routes.
    pub effects: Option<SessionEffects>,
    /// Risk assessment; `None` without a session and on public routes.
    pub risk: Option<RiskExplanation>,
    /// Local responses; empty if the request is forwarded.
    pub responses: Vec<ResponseExplanation>,
    /// Headers of the upstream request, in order.
    pub upstream_headers: Vec<(String, String)>,
}

/// The matching route and its settings.
#[derive(Clone, Debug, Serialize)]
pub struct RouteExplanation {
    pub label: String,
    pub upstreams: Vec<String>,
    pub access: String,
    pub limits: Vec<(&'static str, String)>,
    /// `None` on public routes.
    pub session: Option<SessionRules>,
}

/// A local response.
#[derive(Clone, Debug, Serialize)]
pub struct ResponseExplanation {
    /// `a browser` or `a program`.
    pub to: &'static str,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}
