//! Authenticates requests: cookie, record, decision, write.
//!
//! Only this module creates a [`Permit`], and only a permit lets a request reach an upstream. A public
//! route gets one at once, and a route with tokens for a valid personal access token. Every other route
//! gets one after [`decide`](crate::session::decide()) has admitted a live session and the store has the
//! change. A store outage is [`DenyReason::Unavailable`]: it admits no request and deletes no cookie.

mod attempt;
mod audited_write;
mod authenticator;
mod bearer_auth;
mod deny_reason;
mod end_session;
mod permit;
mod request;
mod risk_assessment;
mod session_cookie;
mod token_auth;
mod token_memo;

pub use authenticator::{Auth, Undecided};
pub use deny_reason::DenyReason;
pub use permit::Permit;
pub use request::{AuthOutcome, AuthRequest, AuthenticatedSession};
pub use token_auth::TokenRequest;

#[cfg(test)]
mod tests;
