//! A provider: the operations that the portal and the sessions use.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::access_token;
use super::authorization_request as authorization;
use super::callback::{Callback, CallbackOutcome};
use super::discovery::Discovery;
use super::end_session;
use super::failure::{
    AccessTokenFailure, LoginFailure, LoginRefusal, LogoutTokenFailure, ProviderUnavailable,
    RefreshFailure, TokenFailure,
};
use super::id_token::{self, ExpectedLogin, LoginFacts};
use super::jws::{self, JwsError, SignedToken};
use super::login::{
    AccessToken, EndSession, EndSessionRequest, LogoutToken, OidcLogin, Profile, RefreshRequest,
    RefreshedLogin, Tokens,
};
use super::login_state::{PendingLogin, StartRequest};
use super::logout_token;
use super::metadata::Metadata;
use super::profile;
use super::requests::{Fields, printable};
use super::settings::OidcSettings;
use super::token_endpoint::{self, TokenResponse};
use super::user_claims;
use crate::clock::{Clock, UnixMillis};
use crate::http_client::HttpClient;
use crate::secret::KeyRing;

/// Largest response of a provider in bytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// Longest wait of a program for the first metadata.
const METADATA_WAIT: Duration = Duration::from_secs(2);

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
    discovery: Discovery,
}

/// Why a token is not verified.
enum TokenCheck {
    Unavailable(ProviderUnavailable),
    Invalid(&'static str),
}

impl OidcProvider {
    /// `tls` holds the roots that the provider's certificate must chain to. Sends nothing.
    pub fn new(settings: OidcSettings, tls: &ClientConfig, clock: Clock) -> OidcProvider {
        let client = HttpClient::new(tls, settings.timeout, MAX_RESPONSE);
        let discovery = Discovery::new(&settings.name, clock.clone());
        OidcProvider { settings, client, clock, discovery }
    }

    pub fn settings(&self) -> &OidcSettings {
        &self.settings
    }

    /// Returns the result of the latest request to the provider.
    pub fn status(&self) -> ProviderStatus {
        match self.discovery.status() {
            None => ProviderStatus::Unknown,
            Some(Ok(())) => ProviderStatus::Up,
            Some(Err(problem)) => ProviderStatus::Down(problem),
        }
    }

    /// Fetches the provider's metadata and keys, repeats failed attempts after 1 to 30 seconds, and renews
    /// both hourly. Runs until it is dropped. One task per provider is required.
    pub async fn keep_current(&self) {
        self.discovery.keep_current(&self.settings, &self.client).await;
    }

    /// Returns the URL to which the browser is sent. Waits for the metadata if needed.
    ///
    /// # Errors
    /// The provider does not respond: respond with 503 and `Retry-After`.
    pub async fn start(
        &self,
        keys: &KeyRing,
        request: &StartRequest,
    ) -> Result<String, ProviderUnavailable> {
        let metadata = self.metadata().await?;
        let pending = PendingLogin::new(request, self.clock.now()).limited_by(&self.settings);
        let state = pending.seal(keys, &self.settings.name, request.browser);
        let mut parameters = authorization::parameters(&self.settings, request, &pending, state);
        if metadata.requires_pushed_requests || self.settings.pushed_requests {
            let now = self.clock.now();
            let pushed =
                authorization::push(&self.settings, &metadata, &self.client, now, parameters);
            parameters = pushed.await.inspect_err(|failure| self.discovery.report(failure))?;
        }
        let pairs = parameters.iter().map(|(name, value)| (*name, value.as_str()));
        Ok(metadata.authorization.with_query(&authorization::query(pairs)))
    }

    /// Completes a login: redeems the code, verifies the ID token, and collects the claims.
    ///
    /// # Errors
    /// See [`LoginFailure`]. No session may be created.
    pub async fn finish(
        &self,
        callback: &Callback,
        pending: &PendingLogin,
    ) -> Result<OidcLogin, LoginFailure> {
        let metadata = self.metadata().await?;
        let code = self.code(callback, &metadata)?;
        let response = self.redeem(&metadata, code, pending).await?;
        let missing = LoginRefusal::IdToken("it is missing; is `openid` among the scopes?");
        let id_token = response.id_token.as_ref().ok_or(missing)?;
        let nonce = pending.nonce();
        let expected = ExpectedLogin {
            nonce: Some(&nonce),
            max_age: pending.max_age.map(Duration::from_secs),
            requested: pending.created,
            acr: &pending.acr,
            ..self.expected(&response)
        };
        let (facts, claims) = self.verify_id_token(&metadata, id_token, &expected).await?;
        let (profile, claims) =
            self.collect(&metadata, &response, &facts.subject, Some(claims)).await?;
        let tokens =
            Tokens { id_token: id_token.clone(), refresh_token: response.refresh_token.clone() };
        Ok(self.login(facts, profile, claims, tokens))
    }

    fn login(
        &self,
        facts: LoginFacts,
        profile: Profile,
        claims: Map<String, Value>,
        tokens: Tokens,
    ) -> OidcLogin {
        OidcLogin {
            issuer: self.settings.issuer.as_str().to_owned(),
            subject: facts.subject,
            provider_session: facts.provider_session,
            authenticated: facts.authenticated,
            acr: facts.acr,
            amr: facts.amr,
            profile,
            claims,
            tokens,
        }
    }

    /// Returns the code of a callback from this provider. The issuer is compared whenever it is present,
    /// and required if the provider promises it (RFC 9207).
    fn code<'a>(
        &self,
        callback: &'a Callback,
        metadata: &Metadata,
    ) -> Result<&'a str, LoginRefusal> {
        match &callback.issuer {
            Some(issuer) if issuer != self.settings.issuer.as_str() => {
                return Err(LoginRefusal::CallbackIssuer(printable(issuer)));
            }
            None if metadata.names_issuer => {
                return Err(LoginRefusal::Callback("`iss` is missing"));
            }
            Some(_) | None => {}
        }
        match &callback.outcome {
            CallbackOutcome::Code(code) => Ok(code),
            CallbackOutcome::Error { code, description } => Err(LoginRefusal::Provider {
                code: printable(code),
                description: description.as_deref().map(printable),
            }),
        }
    }

    async fn redeem(
        &self,
        metadata: &Metadata,
        code: &str,
        pending: &PendingLogin,
    ) -> Result<TokenResponse, LoginFailure> {
        let fields = vec![
            ("grant_type", Zeroizing::new("authorization_code".to_owned())),
            ("code", Zeroizing::new(code.to_owned())),
            ("redirect_uri", Zeroizing::new(pending.redirect_uri.clone())),
            ("code_verifier", pending.code_verifier()),
        ];
        self.request_tokens(metadata, fields).await.map_err(|failure| match failure {
            TokenFailure::Unavailable(unavailable) => unavailable.into(),
            TokenFailure::InvalidGrant => LoginRefusal::Code("invalid_grant".to_owned()).into(),
        })
    }

    async fn request_tokens(
        &self,
        metadata: &Metadata,
        fields: Fields,
    ) -> Result<TokenResponse, TokenFailure> {
        let now = self.clock.now();
        let response = token_endpoint::request(&self.settings, metadata, &self.client, now, fields);
        response.await.inspect_err(|failure| {
            if let TokenFailure::Unavailable(unavailable) = failure {
                self.discovery.report(unavailable);
            }
        })
    }

    /// Returns what every ID token of a response must state.
    fn expected<'a>(&'a self, response: &'a TokenResponse) -> ExpectedLogin<'a> {
        ExpectedLogin {
            issuer: self.settings.issuer.as_str(),
            client_id: &self.settings.client_id,
            nonce: None,
            max_age: None,
            requested: UnixMillis::default(),
            acr: &[],
            access_token: response.access_token.as_ref().map(|token| token.as_str()),
            now: self.clock.now(),
        }
    }

    async fn verify_id_token(
        &self,
        metadata: &Metadata,
        token: &str,
        expected: &ExpectedLogin<'_>,
    ) -> Result<(LoginFacts, Map<String, Value>), LoginFailure> {
        let token = self.verify(metadata, token).await.map_err(|check| match check {
            TokenCheck::Unavailable(unavailable) => LoginFailure::Unavailable(unavailable),
            TokenCheck::Invalid(reason) => LoginRefusal::IdToken(reason).into(),
        })?;
        let facts = id_token::check(&token, expected)?;
        Ok((facts, token.claims))
    }

    /// Verifies the signature of a token. An unknown key ID causes a fetch of the keys, within limits.
    async fn verify(&self, metadata: &Metadata, token: &str) -> Result<SignedToken, TokenCheck> {
        let invalid = |error: JwsError| TokenCheck::Invalid(error.as_str());
        let keys = self.discovery.keys().await.map_err(TokenCheck::Unavailable)?;
        match jws::verify(token, &keys, &metadata.algorithms) {
            Err(JwsError::UnknownKey) => {
                let newer = self.discovery.newer_keys(&keys).await;
                let newer = newer.map_err(TokenCheck::Unavailable)?;
                let newer = newer.ok_or_else(|| invalid(JwsError::UnknownKey))?;
                jws::verify(token, &newer, &metadata.algorithms).map_err(invalid)
            }
            result => result.map_err(invalid),
        }
    }

    /// Collects all claims of a user and selects the identity. Checks the allow rules.
    async fn collect(
        &self,
        metadata: &Metadata,
        response: &TokenResponse,
        subject: &str,
        signed: Option<Map<String, Value>>,
    ) -> Result<(Profile, Map<String, Value>), LoginFailure> {
        let access_token = response.access_token.as_ref().map(|token| token.as_str());
        let mut claims = signed.unwrap_or_default();
        if self.settings.userinfo {
            let more = user_claims::user_info(metadata, &self.client, access_token, subject);
            user_claims::merge(&mut claims, more.await?);
        }
        let omitted =
            user_claims::omitted_groups(&self.settings, &self.client, access_token, &claims);
        let profile = profile::profile(&claims, &self.settings.claims, omitted.await?)?;
        profile::check_allowed(&profile, &claims, &self.settings.allow)?;
        Ok((profile, claims))
    }

    /// Requests new tokens and claims. The caller ensures that a refresh token is used once.
    ///
    /// # Errors
    /// See [`RefreshFailure`].
    pub async fn refresh(
        &self,
        request: &RefreshRequest,
    ) -> Result<RefreshedLogin, RefreshFailure> {
        let metadata = self.metadata().await?;
        let fields = vec![
            ("grant_type", Zeroizing::new("refresh_token".to_owned())),
            ("refresh_token", request.refresh_token.clone()),
        ];
        let response = self.request_tokens(&metadata, fields).await?;
        let claims = self.refreshed_claims(&metadata, &response, request).await?;
        let collected = match claims.is_some() || self.settings.userinfo {
            true => Some(self.collect(&metadata, &response, &request.subject, claims).await?),
            false => None,
        };
        let (profile, claims) = collected.unzip();
        Ok(RefreshedLogin {
            profile,
            claims: claims.unwrap_or_default(),
            id_token: response.id_token,
            refresh_token: response.refresh_token.unwrap_or_else(|| request.refresh_token.clone()),
        })
    }

    /// Returns the claims of the new ID token, if any. It must be of the same user.
    async fn refreshed_claims(
        &self,
        metadata: &Metadata,
        response: &TokenResponse,
        request: &RefreshRequest,
    ) -> Result<Option<Map<String, Value>>, LoginFailure> {
        let Some(id_token) = &response.id_token else { return Ok(None) };
        let expected = self.expected(response);
        let (facts, claims) = self.verify_id_token(metadata, id_token, &expected).await?;
        match facts.subject == request.subject {
            true => Ok(Some(claims)),
            false => Err(LoginRefusal::IdToken("it is of another user").into()),
        }
    }

    /// Verifies the form body of a back-channel logout request. The caller checks for replays of its ID.
    ///
    /// # Errors
    /// See [`LogoutTokenFailure`].
    pub async fn verify_logout_token(
        &self,
        body: &[u8],
    ) -> Result<LogoutToken, LogoutTokenFailure> {
        let token = logout_token::from_form(body).map_err(LogoutTokenFailure::Refused)?;
        let metadata = self.metadata().await?;
        let token = self.verify(&metadata, &token).await.map_err(|check| match check {
            TokenCheck::Unavailable(unavailable) => LogoutTokenFailure::Unavailable(unavailable),
            TokenCheck::Invalid(reason) => LogoutTokenFailure::Refused(reason),
        })?;
        let (issuer, client_id) = (self.settings.issuer.as_str(), &self.settings.client_id);
        logout_token::check(&token, issuer, client_id, self.clock.now())
            .map_err(LogoutTokenFailure::Refused)
    }

    /// Verifies an access token that a program presents, and selects the identity from its claims. Sends no
    /// request except for new keys.
    ///
    /// # Errors
    /// See [`AccessTokenFailure`].
    pub async fn verify_access_token(
        &self,
        token: &str,
    ) -> Result<AccessToken, AccessTokenFailure> {
        let metadata = self.discovery.metadata(METADATA_WAIT).await?;
        let token = self.verify(&metadata, token).await.map_err(|check| match check {
            TokenCheck::Unavailable(unavailable) => AccessTokenFailure::Unavailable(unavailable),
            TokenCheck::Invalid(reason) => reason.into(),
        })?;
        let (settings, issuer) = (&self.settings, self.settings.issuer.as_str());
        let facts =
            access_token::check(&token, issuer, &settings.bearer_audience, self.clock.now())?;
        if profile::has_group_overage(&token.claims, &settings.claims) {
            return Err(LoginRefusal::GroupOverage.into());
        }
        let profile = profile::profile(&token.claims, &settings.claims, Vec::new())?;
        profile::check_allowed(&profile, &token.claims, &settings.allow)?;
        Ok(AccessToken {
            issuer: issuer.to_owned(),
            subject: facts.subject,
            issued: facts.issued,
            acr: facts.acr,
            profile,
            claims: token.claims,
        })
    }

    /// Returns the logout request at the provider; `None` if it has no such page, or none is known yet.
    pub fn end_session(&self, request: &EndSessionRequest) -> Option<EndSession> {
        let metadata = self.discovery.current_metadata()?;
        let url = metadata.end_session.as_ref()?;
        Some(end_session::end_session(url, &self.settings.client_id, request))
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, ProviderUnavailable> {
        self.discovery.metadata(self.settings.timeout).await
    }
}
