//! Authenticates programs by a personal access token. No session is created or changed.

use std::net::IpAddr;
use std::sync::Arc;

use crate::message::token_credentials::TokenCredentials;
use crate::route::Route;
use crate::session::{Identity, PersonalToken, TokenId, TokenRefusal, TokenUse};
use crate::sessions::TokenDenial;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::authenticator::Auth;
use super::deny_reason::DenyReason;
use super::permit::Permit;

/// A request of a program with a token.
pub struct TokenRequest<'a> {
    /// Every method that the app may execute the request as.
    pub methods: &'a [&'a str],
    pub client: IpAddr,
    /// Whether the route requires a recent login for these methods or a second factor, or the request opens a
    /// WebSocket.
    pub needs_session: bool,
}

impl Auth {
    /// Authenticates a request by its token and applies the access rule of the route. `None` if the request
    /// has no token.
    pub async fn authorize_token(
        &self,
        route: &Arc<Route>,
        credentials: TokenCredentials,
        request: &TokenRequest<'_>,
    ) -> Option<Result<Permit, DenyReason>> {
        let (text, user) = match credentials {
            TokenCredentials::Missing => return None,
            TokenCredentials::Several => return Some(Err(TokenRefusal::Several.into())),
            TokenCredentials::One { ref token, ref user } => (token, user.as_deref()),
        };
        let keys = self.shared().keys.load_full();
        let Ok(token) = PersonalToken::parse(&keys, text) else {
            return Some(Err(self.refuse_forged(request.client).into()));
        };
        Some(self.verify_token(route, request, &token, user).await)
    }

    async fn verify_token(
        &self,
        route: &Arc<Route>,
        request: &TokenRequest<'_>,
        token: &PersonalToken,
        user: Option<&str>,
    ) -> Result<Permit, DenyReason> {
        let used = TokenUse {
            route: &route.label(),
            methods: request.methods,
            client: request.client,
            user,
            now: self.shared().clock.now(),
        };
        let verified = self.sessions().personal_tokens.verify(token, used).await;
        let identity = verified.map_err(|denial| match denial {
            TokenDenial::Refused(refusal) => refusal.into(),
            TokenDenial::Unavailable(error) => DenyReason::Unavailable(error),
        })?;
        Auth::admit_program(route, identity, token.id, request)
    }

    /// Applies the access rule of the route to a program whose credentials were verified.
    ///
    /// # Errors
    /// The rule does not admit the user, or the request needs a session.
    pub fn admit_program(
        route: &Arc<Route>,
        identity: Arc<Identity>,
        credentials: TokenId,
        request: &TokenRequest<'_>,
    ) -> Result<Permit, DenyReason> {
        if request.needs_session || !route.accepts_login(&identity.provider) {
            return Err(TokenRefusal::NeedsSession.into());
        }
        match route.admits(&identity) {
            true => Ok(Permit::for_token(route, identity, credentials)),
            false => Err(DenyReason::Forbidden { user: identity.user.clone() }),
        }
    }

    fn refuse_forged(&self, client: IpAddr) -> TokenRefusal {
        let refusal = TokenRefusal::Forged;
        let context = EventContext { client: Some(client), ..EventContext::default() };
        self.shared().emit(SessionEvent::AccessTokenRefused(refusal.as_str()), context);
        refusal
    }
}
