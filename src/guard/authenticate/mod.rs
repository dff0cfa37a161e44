//! Authenticates a request: cookie, record, decision, write.

mod attempt;
mod audited_write;
mod end_session;
mod risk_assessment;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::CookieLookup;
use crate::route::AccessRule;
use crate::secret::KeyRing;
use crate::session::{
    ClientContext, EndReason, Identity, Record, RotationTiming, RoutePolicy, SessionFacts,
    SessionKey, Successor, Token,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use attempt::AuthAttempt;

use super::connections::EndSeq;
use super::{DenyReason, Guard, NewToken, Permit, SessionSnapshot};

/// Lost compare-and-swaps before the store counts as unavailable. Each means that another request
/// won.
const MAX_ATTEMPTS: usize = 32;

/// A request to authenticate.
pub struct AuthRequest<'a> {
    pub cookie: &'a CookieLookup,
    pub context: &'a ClientContext,
    pub policy: &'a RoutePolicy,
    pub requirement: &'a AccessRule,
    pub timing: RotationTiming,
    /// Whether it counts as activity for the idle timeout.
    pub is_activity: bool,
    /// How long after its last confirmation a session may be served during an outage; `None` for
    /// never.
    pub serve_stale_for: Option<Duration>,
}

/// Result for a request. Either way the response carries the token.
pub struct AuthOutcome {
    pub permit: Result<Permit, DenyReason>,
    pub token: Option<NewToken>,
}

/// A session after the decision.
pub struct AuthenticatedSession {
    /// Current identity of the user.
    pub identity: Arc<Identity>,
    pub record: Arc<Record>,
    pub key: SessionKey,
    pub facts: SessionFacts,
    pub token: Option<NewToken>,
    end_seq: EndSeq,
    verified_at: Instant,
    /// Served from the cache during a store outage.
    stale: bool,
}

impl Guard {
    /// Authenticates a request and applies the access rule of its route.
    pub async fn authorize(&self, request: &AuthRequest<'_>) -> AuthOutcome {
        match self.authenticate(request).await {
            Ok(session) => self.check_access(request, session),
            Err(reason) => AuthOutcome { permit: Err(reason), token: None },
        }
    }

    /// Authenticates a request, without an access rule.
    pub async fn authenticate(
        &self,
        request: &AuthRequest<'_>,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let keys = self.shared.keys.load_full();
        let token = self.parse_token(&keys, request)?;
        // Taken before the store command, so that a later end closes the connection.
        let end_seq = self.shared.connections.end_seq();
        let attempt = AuthAttempt {
            guard: self,
            keys: &keys,
            token: &token,
            request: request,
            end_seq: end_seq,
        };
        let verified_at = Instant::now();
        if let Some(session) = attempt.try_cached(verified_at).await {
            return Ok(session);
        }
        match self.with_deadline(pin!(self.decide_with_retry(&attempt, verified_at))).await {
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
        Err(self.unavailable(Unavailable(busy.to_owned())))
    }

    /// Returns whether a rotated token is still current when a slow response ends. A late cookie
    /// must not overwrite a newer one.
    pub async fn is_successor_current(&self, token: &NewToken) -> bool {
        let (keys, requested_at) = (self.shared.keys.load_full(), Instant::now());
        let Ok(loaded) = self.with_deadline(pin!(self.load_latest(&token.key))).await else {
            return false;
        };
        let Ok(verified) = self.verify(&keys, &token.key, loaded, requested_at) else {
            return false;
        };
        let record = verified.record;
        let offered = record.offer.as_ref().is_some_and(|offer| offer.hash == token.hash);
        offered || record.current_hash == token.hash
    }

    fn check_access(
        &self,
        request: &AuthRequest<'_>,
        session: AuthenticatedSession,
    ) -> AuthOutcome {
        let AuthenticatedSession {
            identity,
            record,
            key,
            facts,
            token,
            end_seq,
            verified_at,
            stale,
        } = session;
        let verdict = if request.requirement.allows(&identity) {
            let touched = facts.touched;
            let snapshot = SessionSnapshot { key, record, touched, end_seq, verified_at, stale };
            Ok(Permit::for_user(identity, snapshot))
        } else {
            Err(DenyReason::Forbidden { user: identity.user.clone() })
        };
        AuthOutcome { permit: verdict, token }
    }

    /// Returns whether the cookie is a token with a valid MAC, live or not. Runs no lookup and
    /// emits no event.
    pub fn has_valid_mac(&self, presented: &CookieLookup) -> bool {
        match presented {
            CookieLookup::Missing | CookieLookup::Duplicate => false,
            CookieLookup::One(value) => Token::parse(&self.shared.keys.load(), value).is_ok(),
        }
    }

    /// Encodes a successor token with the current signing key.
    pub(super) fn issue_token(
        &self,
        keys: &KeyRing,
        key: SessionKey,
        next: &Successor,
    ) -> Option<NewToken> {
        let token = Token::new(keys.signing_key().0, key, next.generation, next.secret);
        let (text, issued_at) = (token.encode(keys)?, self.now());
        Some(NewToken { text, key, generation: next.generation, hash: token.hash(), issued_at })
    }

    /// Parses the cookie. A forged token is refused without a lookup.
    pub(super) fn parse_token(
        &self,
        keys: &KeyRing,
        request: &AuthRequest<'_>,
    ) -> Result<Token, DenyReason> {
        let value = match request.cookie {
            CookieLookup::Missing => return Err(DenyReason::NoSession),
            CookieLookup::Duplicate => return Err(DenyReason::DuplicateCookie),
            CookieLookup::One(value) => value,
        };
        Token::parse(keys, value).map_err(|_| {
            let (client, agent) =
                (Some(request.context.address), request.context.user_agent.as_str());
            let context = EventContext { client, agent, ..EventContext::default() };
            self.shared.emit(SessionEvent::TokenInvalid, context);
            DenyReason::Forged
        })
    }

    /// Returns the current groups and address from the users file, not those at login. A removed or
    /// disabled account, or a changed password, ends its sessions at their next request.
    pub(super) fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        let Some(directory) = &self.shared.directory else {
            return Ok(Arc::new(record.identity.clone()));
        };
        match directory.find(&record.identity.user) {
            None => Err(EndReason::AccountGone),
            Some(account) if account.disabled => Err(EndReason::AccountGone),
            Some(account) if account.credential_digest != record.credential => {
                Err(EndReason::CredentialChanged)
            }
            Some(account) => Ok(Arc::clone(&account.identity)),
        }
    }
}
