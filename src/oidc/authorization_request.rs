//! The authorization request: the parameters with which the browser arrives at the provider.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::client_credentials;
use super::failure::{ProviderProblem, ProviderUnavailable, Step};
use super::login_state::{PendingLogin, StartRequest};
use super::metadata::Metadata;
use super::requests::{Answer, Call, Fields};
use super::settings::OidcSettings;
use crate::clock::UnixMillis;
use crate::http_client::HttpClient;

/// Returns the parameters. PKCE and nonce are always part of them.
pub(super) fn parameters(
    settings: &OidcSettings,
    request: &StartRequest,
    pending: &PendingLogin,
    state: String,
) -> Vec<(&'static str, String)> {
    let scopes = settings.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
    let scopes: Vec<&str> = std::iter::once("openid").chain(scopes).collect();
    let mut all = vec![
        ("response_type", "code".to_owned()),
        ("client_id", settings.client_id.clone()),
        ("redirect_uri", pending.redirect_uri.clone()),
        ("scope", scopes.join(" ")),
        ("state", state),
        ("nonce", pending.nonce()),
        ("code_challenge", pending.code_challenge()),
        ("code_challenge_method", "S256".to_owned()),
    ];
    let max_age = pending.max_age.map(|seconds| ("max_age", seconds.to_string()));
    let acr = (!pending.acr.is_empty()).then(|| ("acr_values", pending.acr.join(" ")));
    let prompt = request.prompt.clone().map(|prompt| ("prompt", prompt));
    all.extend(max_age.into_iter().chain(acr).chain(prompt));
    all
}

/// Encodes parameters as a query.
pub(super) fn query<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// Pushes the parameters (RFC 9126). Returns those that remain for the URL.
pub(super) async fn push(
    settings: &OidcSettings,
    metadata: &Metadata,
    client: &HttpClient,
    now: UnixMillis,
    parameters: Vec<(&'static str, String)>,
) -> Result<Vec<(&'static str, String)>, ProviderUnavailable> {
    let Some(url) = &metadata.pushed_requests else {
        let problem = ProviderProblem::Unsupported("pushed authorization requests");
        return Err(ProviderUnavailable { step: Step::PushedRequest, problem });
    };
    let mut call = Call { step: Step::PushedRequest, url, authorization: None };
    let without_client = parameters.into_iter().filter(|(name, _)| *name != "client_id");
    let mut fields: Fields =
        without_client.map(|(name, value)| (name, Zeroizing::new(value))).collect();
    let credentials = client_credentials::add(settings, now, &mut fields);
    call.authorization = credentials.map_err(|problem| call.fails(problem))?;
    match call.post_form(client, &fields).await? {
        Answer::Object(answer) => {
            let uri = request_uri(&answer);
            let uri = uri.ok_or_else(|| call.fails(ProviderProblem::Missing("request_uri")))?;
            Ok(vec![("client_id", settings.client_id.clone()), ("request_uri", uri)])
        }
        Answer::Error { status, code } => {
            Err(call.fails(ProviderProblem::Status { status, error: Some(code) }))
        }
    }
}

fn request_uri(answer: &Map<String, Value>) -> Option<String> {
    let uri = answer.get("request_uri")?.as_str()?;
    (!uri.is_empty() && uri.len() <= 2048).then(|| uri.to_owned())
}
