//! Authenticates programs by an access token of an OpenID Connect provider (RFC 9068). No session is created.
//!
//! A revocation of the user's sessions refuses the tokens that were issued before.

use std::sync::Arc;

use tracing::{info, warn};

use crate::identity::LoginProvider;
use crate::message::token_credentials::TokenCredentials;
use crate::oidc::access_token::claimed_issuer;
use crate::oidc::{AccessToken, AccessTokenFailure};
use crate::route::Route;
use crate::secret::sha256;
use crate::session::{ExternalLogin, Identity, TokenId, TokenRefusal, UserTag, oidc_account};

use super::authenticator::Auth;
use super::deny_reason::DenyReason;
use super::permit::Permit;
use super::token_auth::TokenRequest;

impl Auth {
    /// Authenticates a request by its access token and applies the access rule of the route. `None` if the
    /// request has no token.
    pub async fn authorize_bearer(
        &self,
        route: &Arc<Route>,
        credentials: TokenCredentials,
        request: &TokenRequest<'_>,
    ) -> Option<Result<Permit, DenyReason>> {
        match credentials {
            TokenCredentials::Missing => None,
            TokenCredentials::Several => Some(Err(TokenRefusal::Several.into())),
            TokenCredentials::One { token, .. } => {
                Some(self.admit_bearer(route, &String::from_utf8_lossy(&token), request).await)
            }
        }
    }

    async fn admit_bearer(
        &self,
        route: &Arc<Route>,
        token: &str,
        request: &TokenRequest<'_>,
    ) -> Result<Permit, DenyReason> {
        let id = token_id(token);
        let throttle = &self.sessions().token_throttle;
        let failures = throttle.of_network(id, request.client);
        throttle.check(&failures)?;
        let identity = match self.verify_bearer(route, token, request).await {
            Err(denial @ DenyReason::Token(_)) => {
                throttle.charge(&failures).await;
                return Err(denial);
            }
            verified => verified?,
        };
        Auth::admit_program(route, Arc::new(identity), id, request)
    }

    /// Tries the providers of the route with the issuer of the token: one issuer may have several clients.
    async fn verify_bearer(
        &self,
        route: &Route,
        token: &str,
        request: &TokenRequest<'_>,
    ) -> Result<Identity, DenyReason> {
        let issuer = claimed_issuer(token);
        let providers = self.sessions().settings().providers.iter().filter(|provider| {
            route.bearer.contains(&provider.settings.name)
                && Some(provider.settings.issuer.as_str()) == issuer.as_deref()
        });
        let mut result = Err(refused("", "no provider of the route issued it".into(), request));
        for provider in providers {
            result = match provider.client.verify_access_token(token).await {
                Ok(token) => return self.current_bearer(provider, token, request).await,
                Err(failure) => Err(refused(&provider.settings.name, failure, request)),
            };
        }
        result
    }

    async fn current_bearer(
        &self,
        provider: &LoginProvider,
        token: AccessToken,
        request: &TokenRequest<'_>,
    ) -> Result<Identity, DenyReason> {
        let account = oidc_account(&token.issuer, &token.subject);
        let tag = UserTag(self.shared().keys.load().user_tag(&account));
        let login = ExternalLogin {
            provider: provider.settings.name.clone(),
            account,
            acr: token.acr,
            confirmed: token.issued,
            ..ExternalLogin::default()
        };
        let identity = provider.identity(token.profile, &token.claims, login);
        let identity = identity.map_err(|error| {
            refused(&provider.settings.name, AccessTokenFailure::Invalid(error), request)
        })?;
        match token.issued <= self.sessions().personal_tokens.cutoff(tag).await? {
            true => Err(TokenRefusal::Revoked.into()),
            false => Ok(identity),
        }
    }
}

/// Names a token in logs and caches. The token cannot be derived from it.
fn token_id(token: &str) -> TokenId {
    let digest = sha256(token.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    TokenId(id)
}

/// Logs why a token is refused.
fn refused(provider: &str, failure: AccessTokenFailure, request: &TokenRequest<'_>) -> DenyReason {
    if let AccessTokenFailure::Unavailable(error) = &failure {
        warn!(
            event = "oidc.unavailable",
            provider,
            %error,
            "an access token cannot be verified, because the keys of the provider are unavailable"
        );
        return DenyReason::ProviderUnavailable;
    }
    info!(
        event = "oidc.bearer-refused",
        provider,
        client = %request.client,
        error = %failure,
        "an access token of a program is refused"
    );
    match failure {
        AccessTokenFailure::Unavailable(_) => DenyReason::ProviderUnavailable,
        AccessTokenFailure::Expired => TokenRefusal::Expired.into(),
        AccessTokenFailure::Invalid(_) => TokenRefusal::Forged.into(),
        AccessTokenFailure::NotAllowed(user) => DenyReason::Forbidden { user },
    }
}
