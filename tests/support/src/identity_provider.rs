//! An OpenID Connect provider in the test process. By default it follows the rules and checks the gateway's
//! requests; [`IdentityProvider::set`] makes it lie.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::jwt_signer::JwtSigner;
use crate::upstream::header_values;

/// Client ID and secret of the gateway.
pub const CLIENT_ID: &str = "doorward";
pub const CLIENT_SECRET: &str = "a secret: 100% & more";

/// A response for [`Behavior::responses`].
#[derive(Clone)]
pub enum Scripted {
    /// Status and JSON body.
    Json(u16, Value),
    /// The bytes of a whole response. The connection then stays open, silent.
    Raw(Vec<u8>),
}

/// What the provider does; public, so that tests can change each part.
pub struct Behavior {
    /// The discovery document.
    pub metadata: Value,
    /// Keys of the JWKS document; the first one signs.
    pub keys: Vec<JwtSigner>,
    /// Claims of the next users, beside the protocol claims.
    pub claims: Map<String, Value>,
    /// Changes the ID token before it is signed: header and claims.
    pub tamper: fn(&mut Value, &mut Value),
    /// Replaces the signed ID token.
    pub id_token: Option<String>,
    pub userinfo: Value,
    /// Whether callbacks name the issuer.
    pub sends_issuer: bool,
    /// Whether token responses have a refresh token.
    pub sends_refresh_token: bool,
    /// Refresh tokens that are valid, with their subject.
    pub refresh_tokens: Vec<String>,
    /// Responses by path, instead of the normal ones.
    pub responses: HashMap<&'static str, Scripted>,
    /// Received requests.
    pub requests: Vec<ProviderRequest>,
    codes: HashMap<String, Grant>,
    pushed: HashMap<String, Vec<(String, String)>>,
    counter: u64,
}

/// A request that the provider received.
#[derive(Clone, Debug)]
pub struct ProviderRequest {
    pub method: String,
    pub path: String,
    pub head: String,
    pub fields: Vec<(String, String)>,
}

impl ProviderRequest {
    /// Returns the value of a form field; empty if it is missing.
    pub fn field(&self, name: &str) -> String {
        field(&self.fields, name)
    }
}

/// What belongs to an issued code.
#[derive(Clone)]
struct Grant {
    parameters: Vec<(String, String)>,
}

/// A running provider. It ends on drop.
pub struct IdentityProvider {
    pub address: SocketAddr,
    state: Arc<Mutex<Behavior>>,
    received: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl IdentityProvider {
    pub async fn start() -> IdentityProvider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let issuer = format!("http://{address}/realm");
        let state = Arc::new(Mutex::new(Behavior::new(&issuer)));
        let received = watch::Sender::new(0);
        let (shared, count) = (Arc::clone(&state), received.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), count.clone()));
            }
        });
        IdentityProvider { address, state, received, task }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}/realm", self.address)
    }

    /// Changes the behavior.
    pub fn set(&self, change: impl FnOnce(&mut Behavior)) {
        change(&mut self.lock());
    }

    /// Returns the requests to a path, such as `/token`.
    pub fn requests(&self, path: &str) -> Vec<ProviderRequest> {
        let state = self.lock();
        let all = state.requests.iter();
        all.filter(|request| request.path.split('?').next() == Some(path)).cloned().collect()
    }

    /// Waits until this many requests have arrived in total.
    pub async fn received(&self, requests: usize) {
        let mut received = self.received.subscribe();
        let wait = received.wait_for(|so_far| *so_far >= requests);
        let wait = tokio::time::timeout(std::time::Duration::from_secs(20), wait).await;
        wait.expect("the request arrives").expect("the provider runs");
    }

    /// Logs a user in as a browser would: returns the URL of the callback with its query.
    pub fn authorize(&self, url: &str) -> String {
        let query = url.split_once('?').expect("a query").1;
        self.lock().authorize(query)
    }

    /// Signs a token with the first key. The header is `typ` and the claims are complete.
    pub fn sign(&self, kind: &str, claims: &Value) -> String {
        let state = self.lock();
        let mut header = state.keys[0].header();
        header["typ"] = kind.into();
        state.keys[0].sign(&header, claims)
    }

    fn lock(&self) -> MutexGuard<'_, Behavior> {
        self.state.lock().expect("no panic")
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Behavior {
    fn new(issuer: &str) -> Behavior {
        let base = issuer.trim_end_matches("/realm");
        let metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"),
            "jwks_uri": format!("{base}/keys"),
            "userinfo_endpoint": format!("{base}/userinfo"),
            "pushed_authorization_request_endpoint": format!("{base}/par"),
            "end_session_endpoint": format!("{base}/logout"),
            "authorization_response_iss_parameter_supported": true,
            "id_token_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
        });
        let claims = json!({
            "sub": "user-1", "sid": "session-1", "preferred_username": "alice",
            "email": "alice@example.com", "email_verified": true, "groups": ["staff"],
        });
        Behavior {
            metadata,
            keys: vec![JwtSigner::p256("key-1")],
            claims: claims.as_object().cloned().expect("an object"),
            tamper: |_, _| {},
            id_token: None,
            userinfo: json!({ "sub": "user-1" }),
            sends_issuer: true,
            sends_refresh_token: false,
            refresh_tokens: Vec::new(),
            responses: HashMap::new(),
            requests: Vec::new(),
            codes: HashMap::new(),
            pushed: HashMap::new(),
            counter: 0,
        }
    }

    fn next(&mut self, prefix: &str) -> String {
        self.counter += 1;
        format!("{prefix}-{}", self.counter)
    }

    fn authorize(&mut self, query: &str) -> String {
        let mut parameters = fields(query);
        if let Some(pushed) = self.pushed.remove(&field(&parameters, "request_uri")) {
            parameters = pushed;
        }
        let code = self.next("code");
        let issuer = self.metadata["issuer"].as_str().unwrap_or_default().to_owned();
        let mut response = form_urlencoded::Serializer::new(String::new());
        response.append_pair("code", &code).append_pair("state", &field(&parameters, "state"));
        if self.sends_issuer {
            response.append_pair("iss", &issuer);
        }
        let target = format!("{}?{}", field(&parameters, "redirect_uri"), response.finish());
        self.codes.insert(code, Grant { parameters });
        target
    }

    fn token(&mut self, request: &ProviderRequest) -> (u16, Value) {
        let error = |error: &str| (400, json!({ "error": error }));
        match request.field("grant_type").as_str() {
            "authorization_code" => {
                let Some(grant) = self.codes.remove(&request.field("code")) else {
                    return error("invalid_grant");
                };
                let challenge = field(&grant.parameters, "code_challenge");
                let redirect = field(&grant.parameters, "redirect_uri");
                if challenge != s256(&request.field("code_verifier"))
                    || redirect != request.field("redirect_uri")
                {
                    return error("invalid_grant");
                }
                (200, self.tokens(&field(&grant.parameters, "nonce")))
            }
            "refresh_token" => {
                let token = request.field("refresh_token");
                if !self.refresh_tokens.contains(&token) {
                    return error("invalid_grant");
                }
                self.refresh_tokens.retain(|known| *known != token);
                (200, self.tokens(""))
            }
            _ => error("unsupported_grant_type"),
        }
    }

    fn tokens(&mut self, nonce: &str) -> Value {
        let access = self.next("access");
        let mut response =
            json!({ "token_type": "Bearer", "expires_in": 300, "access_token": access });
        response["id_token"] = self.signed_id_token(nonce, &access).into();
        if self.sends_refresh_token {
            let refresh = self.next("refresh");
            self.refresh_tokens.push(refresh.clone());
            response["refresh_token"] = refresh.into();
        }
        response
    }

    fn signed_id_token(&self, nonce: &str, access: &str) -> String {
        if let Some(token) = &self.id_token {
            return token.clone();
        }
        let now = seconds();
        let mut claims = Value::Object(self.claims.clone());
        claims["iss"] = self.metadata["issuer"].clone();
        claims["aud"] = CLIENT_ID.into();
        claims["iat"] = now.into();
        claims["exp"] = (now + 300).into();
        claims["auth_time"] = now.into();
        if !nonce.is_empty() {
            claims["nonce"] = nonce.into();
        }
        if self.keys[0].algorithm() != "EdDSA" {
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, access.as_bytes());
            claims["at_hash"] = BASE64URL_NOPAD.encode(&hash.as_ref()[..16]).into();
        }
        let mut header = self.keys[0].header();
        (self.tamper)(&mut header, &mut claims);
        self.keys[0].sign(&header, &claims)
    }

    /// Returns status and body for a request, or `None` for an unknown path.
    fn response(&mut self, request: &ProviderRequest) -> (u16, Value) {
        let path = request.path.split('?').next().unwrap_or_default();
        let is_client = is_authenticated(request);
        match (request.method.as_str(), path) {
            ("GET", "/realm/.well-known/openid-configuration") => (200, self.metadata.clone()),
            ("GET", "/keys") => {
                let keys: Vec<Value> = self.keys.iter().map(JwtSigner::jwk).collect();
                (200, json!({ "keys": keys }))
            }
            ("POST", "/token" | "/par") if !is_client => {
                (401, json!({ "error": "invalid_client" }))
            }
            ("POST", "/token") => self.token(request),
            ("POST", "/par") => {
                let uri = self.next("urn:example:request");
                self.pushed.insert(uri.clone(), request.fields.clone());
                (201, json!({ "request_uri": uri, "expires_in": 60 }))
            }
            ("GET", "/userinfo") => (200, self.userinfo.clone()),
            (_, _) => (404, json!({})),
        }
    }
}

/// Accepts the secret in the header or the form, any client assertion, and public clients by their ID.
fn is_authenticated(request: &ProviderRequest) -> bool {
    let encode =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let pair = format!("{}:{}", encode(CLIENT_ID), encode(CLIENT_SECRET));
    let basic = format!("Basic {}", BASE64.encode(pair.as_bytes()));
    match header_values(&request.head, "authorization").first() {
        Some(header) => *header == basic,
        None => {
            let secret = request.field("client_secret");
            request.field("client_id") == CLIENT_ID
                && (secret.is_empty() || secret == CLIENT_SECRET)
        }
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<Behavior>>, received: watch::Sender<usize>) {
    let Some(request) = read_request(&mut stream).await else { return };
    let response = {
        let mut state = state.lock().expect("no panic");
        state.requests.push(request.clone());
        respond(&mut state, &request)
    };
    received.send_modify(|count| *count += 1);
    let (bytes, stays_open) = response;
    if stream.write_all(&bytes).await.is_ok() && stays_open {
        // Returns when the client closes the connection.
        stream.read_to_end(&mut Vec::new()).await.ok();
    }
}

/// Returns the bytes of a response, and whether the connection stays open afterwards.
fn respond(state: &mut Behavior, request: &ProviderRequest) -> (Vec<u8>, bool) {
    let path = request.path.split('?').next().unwrap_or_default();
    if request.method == "GET" && path == "/authorize" {
        let target = state.authorize(request.path.split_once('?').map_or("", |(_, query)| query));
        let head = format!(
            "HTTP/1.1 303 See Other\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return (head.into_bytes(), false);
    }
    match state.responses.get(path).cloned() {
        Some(Scripted::Raw(bytes)) => (bytes, true),
        Some(Scripted::Json(status, body)) => (json_response(status, &body), false),
        None => {
            let (status, body) = state.response(request);
            (json_response(status, &body), false)
        }
    }
}

fn json_response(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

async fn read_request(stream: &mut TcpStream) -> Option<ProviderRequest> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header_values(head, "content-length").first().cloned();
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                return Some(parse_request(head, body));
            }
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            Ok(_) | Err(_) => return None,
        }
    }
}

fn parse_request(head: &str, body: &str) -> ProviderRequest {
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let method = line.next().unwrap_or_default().to_owned();
    let path = line.next().unwrap_or_default().to_owned();
    ProviderRequest { method, path, head: head.to_owned(), fields: fields(body) }
}

fn fields(encoded: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(encoded.as_bytes()).into_owned().collect()
}

fn field(fields: &[(String, String)], name: &str) -> String {
    fields.iter().find(|(field, _)| field == name).map_or(String::new(), |(_, value)| value.clone())
}

fn s256(verifier: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    BASE64URL_NOPAD.encode(hash.as_ref())
}

/// Returns the current time in seconds since 1970.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
