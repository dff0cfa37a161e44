//! Requests to a provider. Redirects are not followed: an endpoint is where the metadata says.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::failure::{ProviderProblem, ProviderUnavailable, Step};
use super::web_url::WebUrl;
use crate::http_client::HttpClient;

/// Longest error text of a provider that reaches the log, in characters.
const MAX_ERROR: usize = 200;

/// Form fields, some of which are secrets.
pub(super) type Fields = Vec<(&'static str, Zeroizing<String>)>;

/// A JSON object, or the error of an OAuth endpoint.
pub(super) enum Answer {
    Object(Map<String, Value>),
    /// Status 400 to 499 with an `error` code.
    Error {
        status: StatusCode,
        code: String,
    },
}

/// One request.
pub(super) struct Call<'a> {
    pub(super) step: Step,
    pub(super) url: &'a WebUrl,
    pub(super) authorization: Option<HeaderValue>,
}

impl Call<'_> {
    pub(super) async fn get(&self, client: &HttpClient) -> Result<Bytes, ProviderUnavailable> {
        let request = self.request(Method::GET, None, Bytes::new());
        let response = self.send(client, request).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(self.fails(ProviderProblem::Status { status, error: None })),
        }
    }

    pub(super) async fn get_object(
        &self,
        client: &HttpClient,
    ) -> Result<Map<String, Value>, ProviderUnavailable> {
        let body = self.get(client).await?;
        self.object(&body)
    }

    pub(super) async fn post_form(
        &self,
        client: &HttpClient,
        fields: &Fields,
    ) -> Result<Answer, ProviderUnavailable> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = self.request(Method::POST, Some(kind), form.into());
        let response = self.send(client, request).await?;
        self.answer(&response)
    }

    pub(super) async fn post_json(
        &self,
        client: &HttpClient,
        body: &'static str,
    ) -> Result<Answer, ProviderUnavailable> {
        let kind = HeaderValue::from_static("application/json");
        let request = self.request(Method::POST, Some(kind), Bytes::from_static(body.as_bytes()));
        let response = self.send(client, request).await?;
        self.answer(&response)
    }

    fn answer(&self, response: &Response<Bytes>) -> Result<Answer, ProviderUnavailable> {
        let status = response.status();
        if status.is_success() {
            return self.object(response.body()).map(Answer::Object);
        }
        let code = error_code(response.body());
        match code {
            Some(code) if status.is_client_error() => Ok(Answer::Error { status, code }),
            error => Err(self.fails(ProviderProblem::Status { status, error })),
        }
    }

    pub(super) fn fails(&self, problem: ProviderProblem) -> ProviderUnavailable {
        ProviderUnavailable { step: self.step, problem }
    }

    fn object(&self, body: &[u8]) -> Result<Map<String, Value>, ProviderUnavailable> {
        let object = serde_json::from_slice(body);
        object.map_err(|_| self.fails(ProviderProblem::Answer("it is not a JSON object")))
    }

    fn request(
        &self,
        method: Method,
        kind: Option<HeaderValue>,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // The path was parsed from a URI.
        *request.uri_mut() = self.url.path_and_query().parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind);
        }
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        request
    }

    async fn send(
        &self,
        client: &HttpClient,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ProviderUnavailable> {
        let response = client.send(self.url.endpoint(), request).await;
        response.map_err(|error| self.fails(ProviderProblem::Http(error)))
    }
}

/// Returns the `error` of OAuth, or the `error.code` of Microsoft Graph.
fn error_code(body: &[u8]) -> Option<String> {
    let body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let error = body.get("error")?;
    let code = error.as_str().or_else(|| error.get("code")?.as_str())?;
    Some(printable(code))
}

/// Returns a text of the provider for the log: short, without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect()
}

/// Returns the header `Bearer …`; `None` if the token cannot be part of a header.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
