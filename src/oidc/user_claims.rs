//! Claims beyond the ID token: UserInfo, and groups that a token was too small for.

use serde_json::{Map, Value};

use super::failure::{LoginFailure, LoginRefusal, ProviderProblem, ProviderUnavailable, Step};
use super::metadata::Metadata;
use super::profile::{MAX_GROUPS, has_group_overage};
use super::requests::{Answer, Call, bearer};
use super::settings::OidcSettings;
use super::web_url::WebUrl;
use crate::http_client::HttpClient;

/// Fetches the UserInfo of `subject`.
///
/// # Errors
/// The provider does not respond, or the claims belong to another subject.
pub(super) async fn user_info(
    metadata: &Metadata,
    client: &HttpClient,
    access_token: Option<&str>,
    subject: &str,
) -> Result<Map<String, Value>, LoginFailure> {
    let Some(url) = &metadata.userinfo else {
        let problem = ProviderProblem::Missing("userinfo_endpoint");
        return Err(ProviderUnavailable { step: Step::Discovery, problem }.into());
    };
    let authorization = authorization(Step::UserInfo, access_token)?;
    let call = Call { step: Step::UserInfo, url, authorization: Some(authorization) };
    let claims = call.get_object(client).await?;
    match claims.get("sub").and_then(Value::as_str) == Some(subject) {
        true => Ok(claims),
        false => Err(LoginRefusal::Claims("UserInfo belongs to another subject".to_owned()).into()),
    }
}

/// Adds claims to those of the ID token, which are signed and have precedence.
pub(super) fn merge(signed: &mut Map<String, Value>, others: Map<String, Value>) {
    for (name, value) in others {
        signed.entry(name).or_insert(value);
    }
}

/// Returns the groups that the token omits; none if it holds them all.
///
/// # Errors
/// The look-up fails or is not configured. A login without the groups would deny or admit at random.
pub(super) async fn omitted_groups(
    settings: &OidcSettings,
    client: &HttpClient,
    access_token: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<Vec<String>, LoginFailure> {
    if !has_group_overage(claims, &settings.claims) {
        return Ok(Vec::new());
    }
    match &settings.graph {
        Some(graph) => graph_groups(graph, client, access_token).await,
        None => Err(LoginRefusal::GroupOverage.into()),
    }
}

/// The URL in `_claim_sources` is not used: it names a retired service, and the token must not choose where
/// the gateway connects to.
async fn graph_groups(
    graph: &WebUrl,
    client: &HttpClient,
    access_token: Option<&str>,
) -> Result<Vec<String>, LoginFailure> {
    let fails = |problem| ProviderUnavailable { step: Step::GroupLookup, problem };
    let url = graph.join("/me/getMemberGroups");
    let url = url.map_err(|error| fails(ProviderProblem::Url { field: "graph", error }))?;
    let authorization = Some(authorization(Step::GroupLookup, access_token)?);
    let call = Call { step: Step::GroupLookup, url: &url, authorization };
    match call.post_json(client, r#"{"securityEnabledOnly":true}"#).await? {
        Answer::Object(answer) => group_ids(&answer),
        Answer::Error { status, code } => {
            Err(fails(ProviderProblem::Status { status, error: Some(code) }).into())
        }
    }
}

fn group_ids(answer: &Map<String, Value>) -> Result<Vec<String>, LoginFailure> {
    let problem = ProviderProblem::Answer("`value` is not a list of group IDs");
    let invalid = ProviderUnavailable { step: Step::GroupLookup, problem };
    let Some(Value::Array(values)) = answer.get("value") else { return Err(invalid.into()) };
    if values.len() > MAX_GROUPS || answer.contains_key("@odata.nextLink") {
        return Err(LoginRefusal::Claims("more than 1,000 groups".to_owned()).into());
    }
    let ids: Option<Vec<String>> =
        values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
    ids.ok_or_else(|| invalid.into())
}

fn authorization(
    step: Step,
    access_token: Option<&str>,
) -> Result<http::HeaderValue, ProviderUnavailable> {
    let problem = ProviderProblem::Missing("access_token");
    access_token.and_then(bearer).ok_or(ProviderUnavailable { step, problem })
}
