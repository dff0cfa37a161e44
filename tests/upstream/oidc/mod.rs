//! The OpenID Connect client with a provider that follows the rules, or violates one of them.

mod client_auth;
mod login;
mod outage;
mod refusals;
mod shapes;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use doorward::clock::{Clock, UnixMillis};
use doorward::oidc::{
    AllowRules, Callback, ClaimMapping, ClientAuth, ClientSecret, LoginFailure, OidcLogin,
    OidcProvider, OidcSettings, PendingLogin, StartRequest, WebUrl,
};
use doorward::secret::KeyRing;
use rustls::{ClientConfig, RootCertStore};
use test_support::identity_provider::{CLIENT_ID, CLIENT_SECRET, IdentityProvider, seconds};
use tokio::task::JoinHandle;

const REDIRECT: &str = "https://app.test/.doorward/oidc/corp/callback";
const BROWSER: [u8; 16] = [7; 16];

/// A relying party with its provider.
struct Party {
    provider: IdentityProvider,
    client: Arc<OidcProvider>,
    keys: KeyRing,
    clock: Clock,
    task: JoinHandle<()>,
}

impl Party {
    async fn start() -> Party {
        Party::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut OidcSettings)) -> Party {
        Party::of(IdentityProvider::start().await, change)
    }

    fn of(provider: IdentityProvider, change: impl FnOnce(&mut OidcSettings)) -> Party {
        let mut settings = settings(&provider.issuer());
        change(&mut settings);
        let clock = Clock::manual(UnixMillis(seconds() * 1000));
        let client = Arc::new(OidcProvider::new(settings, &tls(), clock.clone()));
        let task = tokio::spawn({
            let client = Arc::clone(&client);
            async move { client.keep_current().await }
        });
        Party { provider, client, keys: KeyRing::generate("now"), clock, task }
    }

    /// Returns the URL of the authorization request.
    async fn start_login(&self, request: StartRequest) -> String {
        let request =
            StartRequest { redirect_uri: REDIRECT.to_owned(), browser: BROWSER, ..request };
        self.client.start(&self.keys, &request).await.expect("the provider responds")
    }

    async fn finish(&self, callback_url: &str) -> Result<OidcLogin, LoginFailure> {
        let (target, query) = callback_url.split_once('?').expect("a query");
        assert_eq!(target, REDIRECT);
        let callback = Callback::parse(query)?;
        let now = self.clock.now();
        let pending = PendingLogin::open(&self.keys, "corp", BROWSER, &callback.state, now)?;
        self.client.finish(&callback, &pending).await
    }

    async fn login_with(&self, request: StartRequest) -> Result<OidcLogin, LoginFailure> {
        let url = self.start_login(request).await;
        self.finish(&self.provider.authorize(&url)).await
    }

    async fn login(&self) -> Result<OidcLogin, LoginFailure> {
        self.login_with(StartRequest::default()).await
    }

    /// Returns why the login fails, as written to the log.
    async fn refusal(&self) -> String {
        match self.login().await.expect_err("refused") {
            LoginFailure::Refused(refusal) => refusal.to_string(),
            other @ (LoginFailure::Unavailable(_) | LoginFailure::State(_)) => {
                panic!("not refused: {other}")
            }
        }
    }

    /// Returns why the provider counts as unavailable.
    async fn outage(&self) -> String {
        match self.login().await.expect_err("unavailable") {
            LoginFailure::Unavailable(unavailable) => unavailable.to_string(),
            other @ (LoginFailure::Refused(_) | LoginFailure::State(_)) => {
                panic!("not unavailable: {other}")
            }
        }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settings(issuer: &str) -> OidcSettings {
    OidcSettings {
        name: "corp".to_owned(),
        issuer: WebUrl::parse(issuer).expect("a URL"),
        client_id: CLIENT_ID.to_owned(),
        client_auth: ClientAuth::SecretBasic(ClientSecret::new(CLIENT_SECRET.to_owned())),
        scopes: vec!["profile".to_owned()],
        claims: ClaimMapping::default(),
        allow: AllowRules::default(),
        userinfo: false,
        graph: None,
        pushed_requests: false,
        max_age: None,
        acr: Vec::new(),
        bearer_audience: Vec::new(),
        timeout: Duration::from_secs(5),
    }
}

fn tls() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// Returns the value of a parameter in a URL.
fn parameter(url: &str, name: &str) -> Option<String> {
    let query = url.split_once('?')?.1;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}
