//! The identity provider of the demo, on a loopback port. It asks for no password, so it is for the demo only.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::secret::{random_bytes, sha256};

use super::responses::{AppResponse, json_response, page};

pub(super) const CLIENT_ID: &str = "demo";

/// Largest token request in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The users and their group.
const USERS: [(&str, &str); 2] = [("carol", "staff"), ("dave", "guests")];

/// What the provider remembers of a login until the gateway redeems its code.
struct Grant {
    user: &'static str,
    group: &'static str,
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

/// The provider.
pub(super) struct DemoProvider {
    issuer: String,
    key: EncodingKey,
    /// Coordinates of the public key, in base64url.
    public_key: [String; 2],
    grants: Mutex<HashMap<String, Grant>>,
}

type Parameters = HashMap<String, String>;

impl DemoProvider {
    /// Creates a provider with a new key.
    pub(super) fn new(issuer: String) -> anyhow::Result<DemoProvider> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref())?;
        let point = pair.public_key().as_ref();
        let half = |at| BASE64URL_NOPAD.encode(point.get(at..at + 32).unwrap_or_default());
        Ok(DemoProvider {
            issuer,
            key: EncodingKey::from_ec_der(document.as_ref()),
            public_key: [half(1), half(33)],
            grants: Mutex::default(),
        })
    }

    /// Serves until the process ends.
    pub(super) async fn serve(self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap_or_default();
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let provider = Arc::new(self);
        while let Ok((stream, _)) = listener.accept().await {
            let provider = Arc::clone(&provider);
            let service = service_fn(move |request| {
                let provider = Arc::clone(&provider);
                async move { Ok::<_, Infallible>(provider.respond(request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> AppResponse {
        match request.uri().path() {
            "/.well-known/openid-configuration" => json_response(StatusCode::OK, &self.metadata()),
            "/jwks" => json_response(StatusCode::OK, &self.keys()),
            "/authorize" => self.authorize(request.uri().query().unwrap_or_default()),
            "/token" => {
                let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                self.token(&parameters(&body))
            }
            _ => json_response(StatusCode::NOT_FOUND, &json!({})),
        }
    }

    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "jwks_uri": at("/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": true,
        })
    }

    fn keys(&self) -> Value {
        let [x, y] = &self.public_key;
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "x": x, "y": y }] })
    }

    /// Shows the users, or returns to the gateway with a code for the selected one.
    fn authorize(&self, query: &str) -> AppResponse {
        let parameters = parameters(query.as_bytes());
        let get = |name: &str| parameters.get(name).cloned().unwrap_or_default();
        let redirect_uri = get("redirect_uri");
        if get("client_id") != CLIENT_ID || !is_callback(&redirect_uri) {
            return json_response(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_request" }));
        }
        let selected = get("login");
        let Some((user, group)) = USERS.into_iter().find(|(user, _)| *user == selected) else {
            return users_page(query);
        };
        let code = BASE64URL_NOPAD.encode(&random_bytes::<16>());
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("code", &code)
            .append_pair("state", &get("state"))
            .append_pair("iss", &self.issuer)
            .finish();
        let location = format!("{redirect_uri}?{query}");
        let (nonce, challenge) = (get("nonce"), get("code_challenge"));
        self.grants.lock().insert(code, Grant { user, group, nonce, challenge, redirect_uri });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SEE_OTHER;
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }

    /// Redeems a code, once.
    fn token(&self, form: &Parameters) -> AppResponse {
        let get = |name: &str| form.get(name).map_or("", String::as_str);
        let grant = self.grants.lock().remove(get("code")).filter(|grant| {
            let challenge = BASE64URL_NOPAD.encode(&sha256(get("code_verifier").as_bytes()));
            grant.challenge == challenge && grant.redirect_uri == get("redirect_uri")
        });
        let refused =
            || json_response(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_grant" }));
        let Some(grant) = grant else { return refused() };
        let Ok(id_token) = self.id_token(&grant) else { return refused() };
        json_response(
            StatusCode::OK,
            &json!({ "access_token": "demo", "token_type": "Bearer", "id_token": id_token }),
        )
    }

    fn id_token(&self, grant: &Grant) -> Result<String, jsonwebtoken::errors::Error> {
        let now = Timestamp::now().as_second();
        let claims = json!({
            "iss": self.issuer, "sub": grant.user, "aud": CLIENT_ID, "nonce": grant.nonce,
            "iat": now, "exp": now + 300, "auth_time": now,
            "preferred_username": grant.user, "groups": [grant.group],
            "email": format!("{}@example.com", grant.user), "email_verified": true,
        });
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)
    }
}

fn parameters(text: &[u8]) -> Parameters {
    form_urlencoded::parse(text).into_owned().collect()
}

/// Whether the URL is the callback of a gateway on this machine.
fn is_callback(url: &str) -> bool {
    let port = url.strip_prefix("https://localhost");
    let port = port.and_then(|rest| rest.strip_suffix("/.doorward/oidc/demo/callback"));
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn users_page(query: &str) -> AppResponse {
    let query = query.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let links: String = USERS
        .iter()
        .map(|(user, group)| {
            format!(
                "<li><a href=\"/authorize?{query}&amp;login={user}\">{user}</a>, group {group}</li>"
            )
        })
        .collect();
    page(PROVIDER_PAGE.replace("{users}", &links))
}

const PROVIDER_PAGE: &str = include_str!("provider.html");
