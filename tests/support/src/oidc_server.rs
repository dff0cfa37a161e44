//! An OpenID Connect provider inside the test process: authorization code flow with PKCE, refresh tokens that
//! work once, and logout tokens. It does what the specifications say; tests can set its claims and stop it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use doorward::clock::Clock;
use doorward::secret::{random_bytes, sha256};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Client ID of the gateway.
pub const CLIENT_ID: &str = "doorward-test";

/// A running provider. Dropping it stops it.
pub struct OidcServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// The user who logs in next, and what the provider has issued.
struct State {
    issuer: String,
    clock: Clock,
    key: EcdsaKeyPair,
    subject: String,
    /// Claims of the ID token beside the standard ones.
    claims: Map<String, Value>,
    session: Option<String>,
    /// Seconds since the user proved their identity.
    auth_age: u64,
    codes: HashMap<String, Grant>,
    refresh_tokens: HashMap<String, Grant>,
    is_down: bool,
    paths: Vec<String>,
}

#[derive(Clone)]
struct Grant {
    subject: String,
    session: Option<String>,
    nonce: String,
    challenge: String,
    redirect_uri: String,
    auth_time: u64,
    acr: Option<String>,
}

impl OidcServer {
    /// Starts a provider whose next user is `alice` with the subject `subject-1` and the group `staff`.
    pub async fn start(clock: Clock) -> OidcServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::new(format!("http://{address}"), clock)));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        OidcServer { address, state, task }
    }

    /// Returns `[login.oidc.corp]` for this provider, followed by further keys.
    pub fn configuration(&self, more: &str) -> String {
        format!(
            "[login.oidc.corp]\nissuer = \"http://{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_auth = \"none\"\ntrust_user_names = true\nlabel = \"Example Company\"\n{more}\n",
            self.address
        )
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Sets the user who logs in next.
    pub fn set_user(&self, subject: &str, claims: Value) {
        let mut state = self.state();
        state.subject = subject.to_owned();
        state.claims = claims.as_object().expect("an object").clone();
    }

    /// Sets the session of the provider in which the next login happens.
    pub fn set_session(&self, session: Option<&str>) {
        self.state().session = session.map(str::to_owned);
    }

    /// Sets how long ago the next user proved their identity, in seconds.
    pub fn set_auth_age(&self, seconds: u64) {
        self.state().auth_age = seconds;
    }

    /// A provider that is down responds with 503.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Deletes every refresh token, as after the end of an account.
    pub fn revoke_grants(&self) {
        self.state().refresh_tokens.clear();
    }

    /// Returns how many requests a path has received.
    pub fn requests(&self, path: &str) -> usize {
        self.state().paths.iter().filter(|other| *other == path).count()
    }

    /// Logs the next user in as a browser at this authorization URL. Returns the URL of the callback.
    pub fn authorize(&self, url: &str) -> String {
        let query = url.split_once('?').expect("a query").1;
        let parameters = Parameters::parse(query);
        assert!(url.starts_with(&format!("http://{}/authorize?", self.address)), "{url}");
        self.state().authorize(&parameters)
    }

    /// Returns an access token for programs (RFC 9068) of the next user, with the audience `api`. `change` alters
    /// header and claims before the signature.
    pub fn access_token(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let state = self.state();
        let mut claims = Value::Object(state.claims.clone());
        claims["iss"] = json!(state.issuer);
        claims["sub"] = json!(state.subject);
        claims["aud"] = json!("api");
        claims["client_id"] = json!("nightly-build");
        claims["jti"] = json!(random_text());
        claims["iat"] = json!(state.now());
        claims["exp"] = json!(state.now() + 300);
        let mut header = json!({ "alg": "ES256", "kid": "1", "typ": "at+jwt" });
        change(&mut header, &mut claims);
        state.sign_with(&header, &claims)
    }

    /// Returns the form of a back-channel logout.
    pub fn logout_form(&self, session: Option<&str>, subject: Option<&str>) -> String {
        let state = self.state();
        let now = state.now();
        let mut claims = json!({
            "iss": state.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120,
            "jti": random_text(),
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        session.iter().for_each(|session| claims["sid"] = json!(session));
        subject.iter().for_each(|subject| claims["sub"] = json!(subject));
        format!("logout_token={}", state.sign("logout+jwt", &claims))
    }
}

impl Drop for OidcServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn new(issuer: String, clock: Clock) -> State {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let claims = json!({
            "preferred_username": "alice", "name": "Alice", "groups": ["staff"],
            "email": "alice@example.test", "email_verified": true,
        });
        State {
            issuer,
            clock,
            key,
            subject: "subject-1".to_owned(),
            claims: claims.as_object().expect("an object").clone(),
            session: None,
            auth_age: 0,
            codes: HashMap::new(),
            refresh_tokens: HashMap::new(),
            is_down: false,
            paths: Vec::new(),
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().0 / 1_000
    }

    fn authorize(&mut self, parameters: &Parameters) -> String {
        for (name, value) in
            [("response_type", "code"), ("client_id", CLIENT_ID), ("code_challenge_method", "S256")]
        {
            assert_eq!(parameters.get(name), value, "{name}");
        }
        // A provider asks for the password again if the login is too old.
        let max_age = parameters.get("max_age").parse().unwrap_or(u64::MAX);
        let acr = parameters.get("acr_values").split(' ').next().unwrap_or_default();
        let grant = Grant {
            subject: self.subject.clone(),
            session: self.session.clone(),
            nonce: parameters.get("nonce").to_owned(),
            challenge: parameters.get("code_challenge").to_owned(),
            redirect_uri: parameters.get("redirect_uri").to_owned(),
            auth_time: self.now() - if self.auth_age > max_age { 0 } else { self.auth_age },
            acr: (!acr.is_empty()).then(|| acr.to_owned()),
        };
        let (code, callback) = (random_text(), grant.redirect_uri.clone());
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("code", &code)
            .append_pair("state", parameters.get("state"))
            .append_pair("iss", &self.issuer)
            .finish();
        self.codes.insert(code, grant);
        format!("{callback}?{query}")
    }

    fn token(&mut self, form: &Parameters) -> (u16, Value) {
        let refused = (400, json!({ "error": "invalid_grant" }));
        let grant = match form.get("grant_type") {
            "refresh_token" => self.refresh_tokens.remove(form.get("refresh_token")),
            _ => self.codes.remove(form.get("code")).filter(|grant| {
                let challenge = sha256(form.get("code_verifier").as_bytes());
                grant.challenge == BASE64URL_NOPAD.encode(&challenge)
                    && grant.redirect_uri == form.get("redirect_uri")
            }),
        };
        let Some(grant) = grant else { return refused };
        let refresh_token = random_text();
        let id_token = self.sign("JWT", &self.id_claims(&grant));
        self.refresh_tokens.insert(refresh_token.clone(), grant);
        let answer = json!({
            "access_token": random_text(), "token_type": "Bearer", "expires_in": 60,
            "id_token": id_token, "refresh_token": refresh_token,
        });
        (200, answer)
    }

    fn id_claims(&self, grant: &Grant) -> Value {
        let now = self.now();
        let mut claims = Value::Object(self.claims.clone());
        claims["iss"] = json!(self.issuer);
        claims["sub"] = json!(grant.subject);
        claims["aud"] = json!(CLIENT_ID);
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + 300);
        claims["nonce"] = json!(grant.nonce);
        claims["auth_time"] = json!(grant.auth_time);
        grant.session.iter().for_each(|session| claims["sid"] = json!(session));
        grant.acr.iter().for_each(|acr| claims["acr"] = json!(acr));
        claims
    }

    fn sign(&self, kind: &str, claims: &Value) -> String {
        self.sign_with(&json!({ "alg": "ES256", "kid": "1", "typ": kind }), claims)
    }

    fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("signed");
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    fn answer(&mut self, path: &str, form: &Parameters) -> (u16, Value) {
        self.paths.push(path.to_owned());
        if self.is_down {
            return (503, json!({ "error": "temporarily_unavailable" }));
        }
        match path {
            "/.well-known/openid-configuration" => (200, self.metadata()),
            "/jwks" => (200, self.keys()),
            "/token" => self.token(form),
            _ => (404, json!({})),
        }
    }

    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "jwks_uri": at("/jwks"),
            "end_session_endpoint": at("/end"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": true,
            "backchannel_logout_supported": true,
            "backchannel_logout_session_supported": true,
        })
    }

    fn keys(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..65]);
        let [x, y] = [x, y].map(|bytes| BASE64URL_NOPAD.encode(bytes));
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": x, "y": y,
        }] })
    }
}

struct Parameters(HashMap<String, String>);

impl Parameters {
    fn parse(text: &str) -> Parameters {
        Parameters(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

fn random_text() -> String {
    BASE64URL_NOPAD.encode(&random_bytes::<16>())
}

/// Serves one request.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            break (head.to_owned(), body.to_owned());
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => read.extend_from_slice(&buffer[..length]),
        }
    };
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (status, answer) = state.lock().expect("no panic").answer(path, &Parameters::parse(&body));
    let text = answer.to_string();
    let response = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(response.as_bytes()).await.unwrap_or_default();
}

fn content_length(head: &str) -> usize {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.map_or(0, |(_, value)| value.trim().parse().expect("a number"))
}
