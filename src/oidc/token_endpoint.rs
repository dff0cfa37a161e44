//! The token endpoint: redeems codes and refresh tokens.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::client_credentials;
use super::failure::{ProviderProblem, Step, TokenFailure};
use super::metadata::Metadata;
use super::requests::{Answer, Call, Fields};
use super::settings::OidcSettings;
use crate::clock::UnixMillis;
use crate::http_client::HttpClient;

/// Tokens of a response; each may be missing.
pub(super) struct TokenResponse {
    pub(super) id_token: Option<Zeroizing<String>>,
    pub(super) access_token: Option<Zeroizing<String>>,
    pub(super) refresh_token: Option<Zeroizing<String>>,
}

/// Sends a token request with the credentials of the client.
///
/// Only `invalid_grant` is about the user. All other errors, such as `invalid_client`, are about the
/// configuration, and must not end a session.
pub(super) async fn request(
    settings: &OidcSettings,
    metadata: &Metadata,
    client: &HttpClient,
    now: UnixMillis,
    mut fields: Fields,
) -> Result<TokenResponse, TokenFailure> {
    let mut call = Call { step: Step::Token, url: &metadata.token, authorization: None };
    let credentials = client_credentials::add(settings, now, &mut fields);
    call.authorization =
        credentials.map_err(|problem| TokenFailure::Unavailable(call.fails(problem)))?;
    let answer = call.post_form(client, &fields).await;
    match answer.map_err(TokenFailure::Unavailable)? {
        Answer::Object(response) => Ok(tokens(&response)),
        Answer::Error { code, .. } if code == "invalid_grant" => Err(TokenFailure::InvalidGrant),
        Answer::Error { status, code } => {
            let problem = ProviderProblem::Status { status, error: Some(code) };
            Err(TokenFailure::Unavailable(call.fails(problem)))
        }
    }
}

fn tokens(response: &Map<String, Value>) -> TokenResponse {
    let text = |name: &str| {
        let text = response.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(|text| Zeroizing::new(text.to_owned()))
    };
    TokenResponse {
        id_token: text("id_token"),
        access_token: text("access_token"),
        refresh_token: text("refresh_token"),
    }
}
