//! Entry points of the authentication.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::connections::SessionSnapshot;
use crate::message::{CookieLookup, cookies};
use crate::route::Route;
use crate::secret::KeyRing;
use crate::session::{Provider, Refusal, SessionKey, Token};
use crate::sessions::verified_store::VerifiedStore;
use crate::sessions::{NewToken, SessionSettings, Sessions, Shared};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::attempt::AuthAttempt;
use super::deny_reason::DenyReason;
use super::permit::Permit;
use super::request::{AuthOutcome, AuthRequest, AuthenticatedSession};
use super::session_cookie;
use super::token_memo::TokenMemo;

/// Lost compare-and-swaps before the store counts as unavailable. Each means that another request
/// won.
const MAX_ATTEMPTS: usize = 32;

/// Authentication of one worker.
#[derive(Clone)]
pub struct Auth {
    sessions: Sessions,
    verified_tokens: Arc<TokenMemo>,
}

impl Auth {
    /// Creates the authentication of one worker.
    pub fn new(sessions: Sessions) -> Auth {
        let keys = sessions.shared().keys.load_full();
        Auth { sessions, verified_tokens: Arc::new(TokenMemo::new(keys)) }
    }

    /// Returns the session services.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns the state that all workers share.
    pub fn shared(&self) -> &Shared {
        self.sessions.shared()
    }

    /// Returns the session settings of the configuration.
    pub fn settings(&self) -> &SessionSettings {
        self.sessions.settings()
    }

    fn store(&self) -> &VerifiedStore {
        self.sessions.verified_store()
    }

    /// Authenticates a request and applies the access rule of its route.
    pub async fn authorize(&self, route: &Arc<Route>, request: &AuthRequest<'_>) -> AuthOutcome {
        let mut decided = self.authenticate(request).await;
        if let Ok(session) = &decided
            && session.record.identity.provider != Provider::Password
            && Box::pin(self.sessions.recheck(&session.key, &session.record)).await
        {
            decided = Box::pin(self.authenticate(request)).await;
        }
        match decided {
            Ok(session) => check_access(route, session),
            Err(reason) => AuthOutcome { permit: Err(reason), token: None },
        }
    }

    /// Authenticates a request, without an access rule.
    pub async fn authenticate(
        &self,
        request: &AuthRequest<'_>,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let keys = self.shared().keys.load_full();
        let token = self.parse_token(&keys, request)?;
        // Taken before the store command, so that a later end closes the connection.
        let end_seq = self.shared().connections.end_seq();
        let attempt = AuthAttempt {
            store: self.store(),
            histories: &self.sessions.histories,
            keys: &keys,
            token: &token,
            request,
            end_seq,
        };
        let verified_at = Instant::now();
        if let Some(session) = attempt.try_cached(verified_at).await {
            return Ok(session);
        }
        match self.store().with_deadline(pin!(self.decide_with_retry(&attempt, verified_at))).await
        {
            Err(DenyReason::Unavailable(error)) => attempt.serve_stale(error),
            decided => decided,
        }
    }

    /// Retries until no other request wrote first.
    async fn decide_with_retry(
        &self,
        attempt: &AuthAttempt<'_>,
        mut verified_at: Instant,
    ) -> Result<AuthenticatedSession, DenyReason> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(session) = attempt.run(verified_at).await? {
                return Ok(session);
            }
            tokio::task::yield_now().await;
            verified_at = Instant::now();
        }
        let busy = "every write was overtaken by another; does a script or a clock loop?";
        self.shared().metrics.store_error();
        Err(DenyReason::Unavailable(Unavailable(busy.to_owned())))
    }

    /// Returns whether a rotated token is still current when a slow response ends. A late cookie
    /// must not overwrite a newer one.
    pub async fn is_successor_current(&self, token: &NewToken) -> bool {
        let keys = self.shared().keys.load_full();
        let Ok((load, loaded)) =
            self.store().with_deadline(pin!(self.store().load_latest(&token.key))).await
        else {
            return false;
        };
        let Ok(verified) = self.store().verify(&keys, &token.key, &load, loaded) else {
            return false;
        };
        let record = verified.record;
        let offered = record.offer.as_ref().is_some_and(|offer| offer.hash == token.hash);
        offered || record.current_hash == token.hash
    }

    /// Returns whether the cookie is a token with a valid MAC, live or not. Runs no lookup and
    /// emits no event.
    pub fn has_valid_mac(&self, cookie: &CookieLookup) -> bool {
        self.session_of(cookie).is_some()
    }

    /// Returns the session that the cookie names, live or not, if its MAC is valid. Runs no lookup
    /// and emits no event.
    pub fn session_of(&self, cookie: &CookieLookup) -> Option<SessionKey> {
        match cookie {
            CookieLookup::Missing => None,
            CookieLookup::One(value) => self.session_in(value),
            // Chosen by their MACs.
            CookieLookup::Several(values) => values.iter().find_map(|value| self.session_in(value)),
        }
    }

    fn session_in(&self, value: &[u8]) -> Option<SessionKey> {
        self.verified_tokens.parse(&self.shared().keys.load(), value).ok().map(|token| token.key)
    }

    /// Returns the session cookie of a request. Values that the gateway did not issue do not count beside
    /// one that it did.
    pub fn session_cookie(&self, headers: &HeaderMap) -> CookieLookup {
        match cookies::find(headers, &self.settings().cookies.session) {
            CookieLookup::Several(values) => {
                session_cookie::select(&self.shared().keys.load(), values)
            }
            found @ (CookieLookup::Missing | CookieLookup::One(_)) => found,
        }
    }

    /// Parses the cookie. A forged token is refused without a lookup.
    fn parse_token(
        &self,
        keys: &Arc<KeyRing>,
        request: &AuthRequest<'_>,
    ) -> Result<Arc<Token>, DenyReason> {
        let value = match request.cookie {
            CookieLookup::Missing => return Err(DenyReason::NoSession),
            CookieLookup::Several(_) => return Err(DenyReason::DuplicateCookie),
            CookieLookup::One(value) => value,
        };
        self.verified_tokens.parse(keys, value).map_err(|_| {
            if keys.is_provisional() {
                return DenyReason::Unavailable(Unavailable::missing_keys());
            }
            let (client, agent) =
                (Some(request.context.address), request.context.user_agent.as_str());
            let context = EventContext { client, agent, ..EventContext::default() };
            self.shared().emit(SessionEvent::TokenInvalid, context);
            DenyReason::Forged
        })
    }
}

/// Applies the access rule of the route to an authenticated session.
fn check_access(route: &Arc<Route>, session: AuthenticatedSession) -> AuthOutcome {
    let AuthenticatedSession { identity, record, key, facts, token, end_seq, verified_at, stale } =
        session;
    let permit = if !route.accepts_login(&identity.provider) {
        Err(DenyReason::Refused(Refusal::Reauthenticate))
    } else if route.admits(&identity) {
        let touched = facts.touched;
        let snapshot = SessionSnapshot { key, record, touched, end_seq, verified_at, stale };
        Ok(Permit::for_user(Arc::clone(route), identity, snapshot))
    } else {
        Err(DenyReason::Forbidden { user: identity.user.clone() })
    };
    AuthOutcome { permit, token }
}
