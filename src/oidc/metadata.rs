//! The metadata of a provider (OpenID Connect Discovery 1.0), reduced to what the gateway uses.

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::failure::ProviderProblem;
use super::jws::ALGORITHMS;
use super::web_url::WebUrl;

/// Path of the document below the issuer.
pub(super) const PATH: &str = "/.well-known/openid-configuration";

/// Endpoints and capabilities of a provider.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) authorization: WebUrl,
    pub(super) token: WebUrl,
    pub(super) keys: WebUrl,
    pub(super) userinfo: Option<WebUrl>,
    pub(super) pushed_requests: Option<WebUrl>,
    pub(super) requires_pushed_requests: bool,
    pub(super) end_session: Option<WebUrl>,
    /// Whether every callback names the issuer (RFC 9207).
    pub(super) names_issuer: bool,
    /// Algorithms that both sides accept; never empty.
    pub(super) algorithms: Vec<Algorithm>,
}

impl Metadata {
    /// Parses the document of `issuer`.
    ///
    /// # Errors
    /// It belongs to another issuer, or lacks something that the gateway needs.
    pub(super) fn parse(body: &[u8], issuer: &WebUrl) -> Result<Metadata, ProviderProblem> {
        let document: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| ProviderProblem::Answer("it is not a JSON object"))?;
        let document = Document { values: &document, issuer };
        document.check_issuer()?;
        document.check_challenges()?;
        let required = |name| document.url(name)?.ok_or(ProviderProblem::Missing(name));
        Ok(Metadata {
            authorization: required("authorization_endpoint")?,
            token: required("token_endpoint")?,
            keys: required("jwks_uri")?,
            userinfo: document.url("userinfo_endpoint")?,
            pushed_requests: document.url("pushed_authorization_request_endpoint")?,
            requires_pushed_requests: document.flag("require_pushed_authorization_requests"),
            end_session: document.url("end_session_endpoint")?,
            names_issuer: document.flag("authorization_response_iss_parameter_supported"),
            algorithms: document.algorithms()?,
        })
    }
}

struct Document<'a> {
    values: &'a Map<String, Value>,
    issuer: &'a WebUrl,
}

impl Document<'_> {
    /// A document of another issuer would let it log in this provider's users.
    fn check_issuer(&self) -> Result<(), ProviderProblem> {
        match self.values.get("issuer").and_then(Value::as_str) {
            Some(issuer) if issuer == self.issuer.as_str() => Ok(()),
            Some(other) => Err(ProviderProblem::Issuer(other.chars().take(200).collect())),
            None => Err(ProviderProblem::Missing("issuer")),
        }
    }

    fn check_challenges(&self) -> Result<(), ProviderProblem> {
        match self.values.get("code_challenge_methods_supported") {
            Some(Value::Array(methods)) if !methods.iter().any(|method| method == "S256") => {
                Err(ProviderProblem::Unsupported("PKCE with S256"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Empty texts count as missing.
    fn url(&self, field: &'static str) -> Result<Option<WebUrl>, ProviderProblem> {
        let text = match self.values.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(ProviderProblem::Answer("an endpoint is not a text")),
        };
        let url = WebUrl::parse(text).map_err(|error| ProviderProblem::Url { field, error })?;
        match url.is_cleartext() && !self.issuer.is_cleartext() {
            true => Err(ProviderProblem::Answer("an endpoint of an https issuer is not https")),
            false => Ok(Some(url)),
        }
    }

    fn flag(&self, field: &str) -> bool {
        self.values.get(field) == Some(&Value::Bool(true))
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, ProviderProblem> {
        let listed = self.values.get("id_token_signing_alg_values_supported");
        let listed = listed.and_then(Value::as_array);
        let listed =
            listed.ok_or(ProviderProblem::Missing("id_token_signing_alg_values_supported"))?;
        let is_listed = |name: &str| listed.iter().any(|value| value == name);
        let common: Vec<Algorithm> =
            ALGORITHMS.iter().filter(|(name, _)| is_listed(name)).map(|(_, it)| *it).collect();
        match common.is_empty() {
            true => Err(ProviderProblem::Unsupported("RS, PS, ES or EdDSA signatures")),
            false => Ok(common),
        }
    }
}
