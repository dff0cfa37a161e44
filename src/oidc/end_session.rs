//! Logout at the provider (OpenID Connect RP-Initiated Logout 1.0).

use super::authorization_request::query;
use super::login::{EndSession, EndSessionRequest};
use super::web_url::WebUrl;

/// Longest URL in bytes. Servers refuse longer ones, and an ID token can be long.
const MAX_URL: usize = 4 * 1024;

/// Returns the request to the provider's page.
pub(super) fn end_session(
    url: &WebUrl,
    client_id: &str,
    request: &EndSessionRequest,
) -> EndSession {
    let mut fields = vec![("client_id", client_id.to_owned())];
    let optional = [
        ("id_token_hint", request.id_token_hint.as_ref().map(|token| token.to_string())),
        ("logout_hint", request.logout_hint.clone()),
        ("post_logout_redirect_uri", request.post_logout_redirect_uri.clone()),
        ("state", request.state.clone()),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let target = url.with_query(&query(fields.iter().map(|(name, value)| (*name, value.as_str()))));
    match target.len() <= MAX_URL {
        true => EndSession::Redirect(target),
        false => EndSession::Form { action: url.as_str().to_owned(), fields },
    }
}
