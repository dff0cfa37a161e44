//! A provider: the operations that the portal and the sessions use.

use rustls::ClientConfig;

use super::callback::Callback;
use super::failure::{
    LoginFailure, LogoutTokenFailure, Problem, ProviderUnavailable, RefreshFailure, Step,
};
use super::login::{
    EndSession, EndSessionRequest, LogoutToken, OidcLogin, RefreshRequest, RefreshedLogin,
};
use super::login_state::{PendingLogin, StartRequest};
use super::settings::OidcSettings;
use crate::clock::Clock;
use crate::http_client::HttpClient;
use crate::secret::KeyRing;

/// Largest response of a provider in bytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// Whether a provider can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderStatus {
    /// No request was answered yet.
    Unknown,
    Up,
    /// The latest request failed, for this reason.
    Down(String),
}

/// A configured provider. All workers share it; each request to the provider uses the runtime of its caller.
pub struct OidcProvider {
    settings: OidcSettings,
    client: HttpClient,
    clock: Clock,
}

impl OidcProvider {
    /// `tls` holds the roots that the provider's certificate must chain to. Sends nothing.
    pub fn new(settings: OidcSettings, tls: &ClientConfig, clock: Clock) -> OidcProvider {
        let client = HttpClient::new(tls, settings.timeout, MAX_RESPONSE);
        OidcProvider { settings, client, clock }
    }

    pub fn settings(&self) -> &OidcSettings {
        &self.settings
    }

    /// Returns the result of the latest request to the provider.
    pub fn status(&self) -> ProviderStatus {
        ProviderStatus::Unknown
    }

    /// Fetches the provider's metadata and keys, repeats failed attempts after 1 to 30 seconds, and renews
    /// both hourly. Runs until it is dropped; one task per provider suffices.
    pub async fn keep_current(&self) {
        std::future::pending().await
    }

    /// Returns the URL to which the browser is sent. Fetches the metadata if needed.
    ///
    /// # Errors
    /// The provider does not respond: respond with 503 and `Retry-After`.
    pub async fn start(
        &self,
        keys: &KeyRing,
        request: &StartRequest,
    ) -> Result<String, ProviderUnavailable> {
        let _ = PendingLogin::new(request, self.clock.now()).seal(keys, "", request.browser);
        Err(self.not_built())
    }

    /// Completes a login: redeems the code, verifies the ID token, and collects the claims.
    ///
    /// # Errors
    /// See [`LoginFailure`]. No session is created.
    pub async fn finish(
        &self,
        callback: &Callback,
        pending: &PendingLogin,
    ) -> Result<OidcLogin, LoginFailure> {
        let _ = (callback, pending, &self.client);
        Err(self.not_built().into())
    }

    /// Requests new tokens and claims. The caller ensures that a refresh token is used once.
    ///
    /// # Errors
    /// See [`RefreshFailure`].
    pub async fn refresh(
        &self,
        request: &RefreshRequest,
    ) -> Result<RefreshedLogin, RefreshFailure> {
        let _ = request;
        Err(self.not_built().into())
    }

    /// Verifies the form body of a back-channel logout request. The caller checks for replays of its ID.
    ///
    /// # Errors
    /// See [`LogoutTokenFailure`].
    pub async fn verify_logout_token(
        &self,
        body: &[u8],
    ) -> Result<LogoutToken, LogoutTokenFailure> {
        let _ = body;
        Err(self.not_built().into())
    }

    /// Returns the logout request at the provider; `None` if it has no such page, or none is known yet.
    pub fn end_session(&self, request: &EndSessionRequest) -> Option<EndSession> {
        let _ = request;
        None
    }

    fn not_built(&self) -> ProviderUnavailable {
        ProviderUnavailable { step: Step::Discovery, problem: Problem::Unsupported("this yet") }
    }
}
