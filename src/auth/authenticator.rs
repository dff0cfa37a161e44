//! Entry points of the authentication.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::connections::{EndSeq, SessionSnapshot};
use crate::message::{CookieLookup, cookies};
use crate::route::Route;
use crate::secret::KeyRing;
use crate::session::{Identity, Provider, Refusal, SecondFactorPolicy, SessionKey, Token};
use crate::sessions::verified_store::VerifiedStore;
use crate::sessions::{NewToken, SessionSettings, Sessions, Shared};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::attempt::{Admission, AuthAttempt};
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

/// A request with a valid token whose authentication has to wait.
pub struct Undecided {
    begun: BegunAttempt,
    /// What is left then is to record activity, or to confirm the account.
    admission: Option<Admission>,
}

struct BegunAttempt {
    keys: Arc<KeyRing>,
    token: Arc<Token>,
    end_seq: EndSeq,
    /// A time before the session was looked up.
    verified_at: Instant,
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

    /// Authenticates a request and applies the access rule of its route, if that needs no waiting: for a request
    /// without a valid token, and for one that known state admits without a write.
    #[allow(
        clippy::result_large_err,
        reason = "the decision goes on with it; a box would cost an allocation"
    )]
    pub fn authorize_now(
        &self,
        route: &Arc<Route>,
        request: &AuthRequest<'_>,
    ) -> Result<AuthOutcome, Undecided> {
        let undecided = match self.begin(request) {
            Ok(undecided) => undecided,
            Err(reason) => return Ok(AuthOutcome { permit: Err(reason), token: None }),
        };
        match undecided {
            Undecided { begun, admission: Some(admission) } if admission.is_complete() => {
                let admitted = self.attempt(&begun, request).admit(admission, begun.verified_at);
                Ok(self.apply_access_rule(route, admitted))
            }
            undecided => Err(undecided),
        }
    }

    /// Continues [`Auth::authorize_now`].
    pub async fn authorize_later(
        &self,
        route: &Arc<Route>,
        request: &AuthRequest<'_>,
        undecided: Undecided,
    ) -> AuthOutcome {
        let mut decided = self.complete(request, undecided).await;
        if let Ok(session) = &decided
            && session.record.identity.provider != Provider::Password
            && self.sessions.recheck(&session.key, &session.record).await
        {
            decided = self.authenticate(request).await;
        }
        self.apply_access_rule(route, decided)
    }

    fn apply_access_rule(
        &self,
        route: &Arc<Route>,
        decided: Result<AuthenticatedSession, DenyReason>,
    ) -> AuthOutcome {
        match decided {
            Ok(session) => check_access(route, session, &self.settings().second_factor),
            Err(reason) => AuthOutcome { permit: Err(reason), token: None },
        }
    }

    /// Authenticates a request, without an access rule.
    pub async fn authenticate(
        &self,
        request: &AuthRequest<'_>,
    ) -> Result<AuthenticatedSession, DenyReason> {
        self.complete(request, self.begin(request)?).await
    }

    /// Verifies the token, and decides on known state if that suffices.
    fn begin(&self, request: &AuthRequest<'_>) -> Result<Undecided, DenyReason> {
        let keys = self.shared().keys.load_full();
        let token = self.parse_token(&keys, request)?;
        // Taken before the store command, so that a later end closes the connection.
        let end_seq = self.shared().connections.end_seq();
        let begun = BegunAttempt { keys, token, end_seq, verified_at: Instant::now() };
        let admission = self.attempt(&begun, request).try_now(begun.verified_at);
        Ok(Undecided { begun, admission })
    }

    async fn complete(
        &self,
        request: &AuthRequest<'_>,
        Undecided { begun, admission }: Undecided,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let (attempt, verified_at) = (self.attempt(&begun, request), begun.verified_at);
        if let Some(admission) = admission {
            attempt.record_activity(&admission).await;
            return attempt.admit(admission, verified_at);
        }
        match self.store().with_deadline(pin!(self.decide_with_retry(&attempt, verified_at))).await
        {
            Err(DenyReason::Unavailable(error)) => attempt.serve_stale(error),
            decided => decided,
        }
    }

    fn attempt<'a>(
        &'a self,
        begun: &'a BegunAttempt,
        request: &'a AuthRequest<'a>,
    ) -> AuthAttempt<'a> {
        AuthAttempt {
            store: self.store(),
            histories: &self.sessions.histories,
            keys: &begun.keys,
            token: &begun.token,
            request,
            end_seq: begun.end_seq,
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
fn check_access(
    route: &Arc<Route>,
    session: AuthenticatedSession,
    second_factor: &SecondFactorPolicy,
) -> AuthOutcome {
    let AuthenticatedSession { identity, record, key, facts, token, end_seq, verified_at, stale } =
        session;
    let permit = if !route.accepts_login(&identity.provider) {
        Err(DenyReason::Refused(Refusal::Reauthenticate))
    } else if !route.admits(&identity) {
        Err(DenyReason::Forbidden { user: identity.user.clone() })
    } else if second_factor.is_missing(&record, &identity, route.requires_second_factor()) {
        Err(denied_without_second_factor(&identity, second_factor))
    } else {
        let touched = facts.touched;
        let snapshot = SessionSnapshot { key, record, touched, end_seq, verified_at, stale };
        Ok(Permit::for_user(Arc::clone(route), identity, snapshot))
    };
    AuthOutcome { permit, token }
}

/// A user who cannot have a second factor here is not sent to the page that sets one up.
fn denied_without_second_factor(identity: &Identity, policy: &SecondFactorPolicy) -> DenyReason {
    match policy.is_offered(identity) {
        true => DenyReason::SecondFactor,
        false => DenyReason::Forbidden { user: identity.user.clone() },
    }
}
