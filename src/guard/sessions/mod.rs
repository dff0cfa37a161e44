//! Creates, lists and ends sessions.

mod revocation;

use std::cmp::Reverse;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::identity::Account;
use crate::message::CookieLookup;
use crate::risk::GeoInfo;
use crate::secret::{constant_time_eq, random_bytes};
use crate::session::notice::{NoticeId, NoticeKind, SecurityNotice};
use crate::session::{
    ClientContext, EndReason, Identity, Record, RevocationCutoff, SessionFacts, SessionId,
    SessionKey, Token, TokenError, UserHistory, UserTag,
};
use crate::store::{Loaded, SessionListing, Slot, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::{EventContext, RiskContext};

use super::rollback::VerifiedSession;
use super::session_cache::{CacheEntry, CachedRecord};
use super::user_history::UserRef;
use super::{DenyReason, Guard, authenticate::AuthenticatedSession, event_context};

/// Maximum time a cutoff may lie in the future. Clocks can be wrong by an hour.
const MAX_CUTOFF_AHEAD: Duration = Duration::from_hours(2);

/// Records opened before the task yields.
const OPEN_BATCH: usize = 100;

/// A live session in a list.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub last_active: UnixMillis,
}

/// A new session.
pub struct NewSession {
    pub token: Zeroizing<String>,
    /// Whether the user has unread security notices.
    pub has_notices: bool,
}

/// A live session whose token is refused.
pub struct RecoverableSession {
    pub info: SessionInfo,
    /// Whether the record contains the hash of the token.
    has_secret: bool,
}

/// Time until a session expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub idle: Duration,
    pub absolute: Duration,
}

impl RecoverableSession {
    /// Returns the user name if the token is in the record. A valid MAC alone does not reveal it,
    /// because keys can leak.
    pub fn user(&self) -> &str {
        if self.has_secret { &self.info.record.identity.user } else { "" }
    }

    /// Returns the session, to end it.
    pub fn into_info(found: Option<RecoverableSession>) -> Option<SessionInfo> {
        found.map(|found| found.info)
    }
}

impl Guard {
    /// Creates a session for an authenticated user. Each login gets a new session ID and token, and
    /// ends the session of the browser's old cookie (session fixation).
    pub async fn create_session(
        &self,
        account: &Account,
        cookie: &CookieLookup,
        from: ClientContext,
    ) -> Result<NewSession, Unavailable> {
        self.with_deadline(pin!(self.create(account, cookie, from))).await
    }

    async fn create(
        &self,
        account: &Account,
        cookie: &CookieLookup,
        from: ClientContext,
    ) -> Result<NewSession, Unavailable> {
        let keys = self.shared.keys.load_full();
        let user = &account.identity.user;
        let key = SessionKey { tag: UserTag(keys.user_tag(user)), id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let cutoff = self.count_errors(self.store.user_cutoff(&key.tag).await)?;
        // Read again: a session created before the cutoff would end at once.
        self.count_errors(self.refresh_global_cutoff().await)?;
        let global_cutoff = self.shared.global_cutoff.get();
        let created =
            self.now().max(first_instant_after(cutoff)).max(first_instant_after(global_cutoff));
        self.check_cutoff_plausible(user, created)?;
        let end = created.plus(self.shared.policy.absolute());
        let mut record =
            Record::new(Identity::clone(&account.identity), &token, created, end, from.clone());
        record.credential = account.credential_digest;
        let user = UserRef { tag: key.tag, user };
        let history = self.load_history(user).await;
        if let Some(history) = &history {
            let known = history.known_networks_for(account.credential_digest);
            record.seed_networks(known);
        }
        let replaced_session = self.find_replaced(cookie).await?;
        if let Some(before) = &replaced_session {
            record.inherit_clients(&before.record);
        }
        self.enforce_max_per_user(&key.tag, replaced_session.as_ref().map(|session| session.key))
            .await?;
        let sealed = record.seal(&keys, &key);
        self.count_errors(self.store.create(&key, &sealed, created, end).await)?;
        if let Some(session) = replaced_session {
            self.end_session(&session, EndReason::Replaced).await?;
        }
        self.shared.emit(SessionEvent::Login, event_context(&account.identity.user, key.id, &from));
        let has_notices = match &history {
            Some(history) => self.record_login(user, &key, account, history, &from).await,
            None => false,
        };
        let token = token.encode(&keys);
        let token = token.ok_or_else(|| Unavailable("the signing key was removed".to_owned()))?;
        Ok(NewSession { token, has_notices })
    }

    /// Records the location of a login, with a notice if it is new. Returns whether the user has
    /// older unread notices.
    async fn record_login(
        &self,
        user: UserRef<'_>,
        key: &SessionKey,
        account: &Account,
        history: &UserHistory,
        from: &ClientContext,
    ) -> bool {
        let now = self.now();
        let news = self.shared.risk.assess_login(&self.shared.geoip.load(), history, from);
        if let Some(report) = &news {
            let mut context = event_context(user.user, key.id, from);
            let (here, other) = (self.shared.geoip.load().lookup(from.address), GeoInfo::default());
            context.risk = Some(RiskContext {
                report,
                enforced: false,
                location: here,
                other_location: other,
            });
            self.shared.emit(SessionEvent::LoginNewLocation, context);
        }
        let notice =
            news.map(|_| SecurityNotice::new(NoticeKind::NewLocation, key.id, from, None, now));
        let update = self.update_history_best_effort(user, |history| {
            history.record_login(from, account.credential_digest, now);
            notice.iter().for_each(|notice| history.add_notice(notice.clone()));
        });
        update.await;
        history.notices().next().is_some()
    }

    /// Returns the user's notices, newest first; none during a store outage.
    pub async fn list_notices(&self, key: &SessionKey, user: &str) -> Vec<SecurityNotice> {
        let history = self.load_history(UserRef { tag: key.tag, user }).await;
        history.map(|history| history.notices().cloned().collect()).unwrap_or_default()
    }

    /// Dismisses a notice, but not from the session that it concerns: that may be an attacker's.
    pub async fn dismiss_notice(
        &self,
        key: &SessionKey,
        user: &str,
        id: NoticeId,
    ) -> Result<(), Unavailable> {
        let user = UserRef { tag: key.tag, user };
        self.count_errors(
            self.update_history(user, |history| history.dismiss_notice(id, key.id)).await,
        )
    }

    /// Deletes a user's history. Live sessions keep their known locations until they end.
    pub async fn delete_user_history(&self, user: &str) -> Result<(), Unavailable> {
        let tag = UserTag(self.shared.keys.load().user_tag(user));
        self.count_errors(self.delete_history(UserRef { tag, user }).await)?;
        self.shared
            .emit(SessionEvent::HistoryDeleted, EventContext { user, ..EventContext::default() });
        Ok(())
    }

    /// Returns a user's live sessions, most recently used first.
    pub async fn list_user_sessions(&self, user: &str) -> Result<Vec<SessionInfo>, Unavailable> {
        let tag = UserTag(self.shared.keys.load().user_tag(user));
        let (cutoff, listed) = self.with_deadline(pin!(self.load_list(&tag))).await?;
        Ok(self.open_listed(listed, cutoff))
    }

    async fn load_list(
        &self,
        tag: &UserTag,
    ) -> Result<(RevocationCutoff, Vec<SessionListing>), Unavailable> {
        let cutoff = self.count_errors(self.store.user_cutoff(tag).await)?;
        let listed = self.count_errors(self.store.list_user(tag).await)?;
        self.count_errors(self.global_cutoff().await)?;
        Ok((cutoff, listed))
    }

    /// Returns up to `limit` live sessions of all users.
    pub async fn list_all_sessions(&self, limit: usize) -> Result<Vec<SessionInfo>, Unavailable> {
        self.count_errors(self.global_cutoff().await)?;
        let mut listed = self.count_errors(self.store.list_all(limit).await)?.into_iter();
        let mut out = Vec::new();
        loop {
            let some: Vec<SessionListing> = listed.by_ref().take(OPEN_BATCH).collect();
            if some.is_empty() {
                break;
            }
            out.extend(self.open_listed(some, RevocationCutoff::default()));
            // Lets other tasks run, because decrypting thousands of records takes long.
            tokio::task::yield_now().await;
        }
        out.sort_by_key(|session| Reverse(session.last_active));
        Ok(out)
    }

    /// Returns the live session with this handle.
    pub async fn find_session(&self, handle: &str) -> Result<Option<SessionInfo>, Unavailable> {
        self.count_errors(self.global_cutoff().await)?;
        let found = self.store.find_session(|id| id.handle() == handle).await;
        let Some(key) = self.count_errors(found)? else { return Ok(None) };
        let loaded = self.count_errors(self.load_latest(&key).await)?;
        let Loaded { slot: Slot::Live { revision, sealed }, touched, user_cutoff } = loaded else {
            return Ok(None);
        };
        let listed = SessionListing { key, revision, sealed, touched };
        Ok(self.open_listed(vec![listed], user_cutoff).pop())
    }

    /// Returns the time left to an admitted session.
    pub fn time_left(&self, admitted: &AuthenticatedSession) -> Remaining {
        let record = &admitted.record;
        let active = record.last_active.max(admitted.facts.touched);
        let now = self.now().max(active);
        let idle = self.shared.policy.idle().saturating_sub(now.since(active));
        let absolute = record.absolute_end.since(now);
        Remaining { idle: idle.min(absolute), absolute }
    }

    /// Opens listed records and omits expired sessions.
    fn open_listed(
        &self,
        listed: Vec<SessionListing>,
        cutoff: RevocationCutoff,
    ) -> Vec<SessionInfo> {
        let keys = self.shared.keys.load_full();
        let mut out: Vec<SessionInfo> = listed
            .into_iter()
            .filter_map(|entry| {
                let record = Arc::new(Record::open(&keys, &entry.key, &entry.sealed).ok()?);
                let last_active = record.last_active.max(entry.touched);
                Some(SessionInfo { key: entry.key, record, last_active })
            })
            .filter(|session| !self.is_expired(session, cutoff))
            .collect();
        out.sort_by_key(|session| Reverse(session.last_active));
        out
    }

    fn is_expired(&self, session: &SessionInfo, cutoff: RevocationCutoff) -> bool {
        let facts = SessionFacts {
            touched: session.last_active,
            user_cutoff: cutoff,
            ..SessionFacts::default()
        };
        self.is_record_expired(&session.key, &session.record, &facts, self.now())
    }

    /// Returns whether the session is revoked or expired at `now`.
    pub(super) fn is_record_expired(
        &self,
        key: &SessionKey,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
    ) -> bool {
        let created = record.created;
        let active = record.last_active.max(facts.touched);
        facts.user_cutoff.revokes(key.id, created)
            || self.shared.global_cutoff.get().revokes(key.id, created)
            || now >= record.absolute_end.min(created.plus(self.shared.policy.absolute()))
            || now.since(active) >= self.shared.policy.idle()
            || self.current_identity(record).is_err()
    }

    /// Ends the least recently used sessions beyond the limit per user. `replaced` ends anyway and
    /// does not count.
    async fn enforce_max_per_user(
        &self,
        tag: &UserTag,
        replaced: Option<SessionKey>,
    ) -> Result<(), Unavailable> {
        let limit = self.shared.max_per_user;
        if limit == 0 {
            return Ok(());
        }
        let cutoff = self.count_errors(self.store.user_cutoff(tag).await)?;
        let listed = self.count_errors(self.store.list_user(tag).await)?;
        let live = self.open_listed(listed, cutoff);
        let staying = live.iter().filter(|session| Some(session.key) != replaced);
        for session in staying.skip(limit.saturating_sub(1)) {
            self.end_session(session, EndReason::Replaced).await?;
        }
        Ok(())
    }

    /// Returns the session of the browser's cookie at login; the login ends it, even if it belongs to
    /// another user. The token must match the record, so a session ID alone cannot end a session.
    async fn find_replaced(
        &self,
        cookie: &CookieLookup,
    ) -> Result<Option<SessionInfo>, Unavailable> {
        let CookieLookup::One(value) = cookie else { return Ok(None) };
        let keys = self.shared.keys.load_full();
        let Ok(token) = Token::parse(&keys, value) else { return Ok(None) };
        let requested_at = Instant::now();
        let loaded = self.count_errors(self.load_latest(&token.key).await)?;
        let Ok(verified) = self.verify(&keys, &token.key, loaded, requested_at) else {
            return Ok(None);
        };
        let session =
            SessionInfo { key: token.key, record: verified.record, last_active: verified.touched };
        Ok(matches_token(&session.record, &token).then_some(session))
    }

    /// Rejects a cutoff in the far future. Sessions are created after it and would also expire that
    /// much later. Cutoffs are not sealed, so an attacker may have written it.
    fn check_cutoff_plausible(&self, user: &str, begins: UnixMillis) -> Result<(), Unavailable> {
        if begins <= self.now().plus(MAX_CUTOFF_AHEAD) {
            return Ok(());
        }
        self.shared
            .emit(SessionEvent::Undecryptable, EventContext { user, ..EventContext::default() });
        let text = "a revocation cutoff in the store lies hours in the future, because of a wrong clock or a foreign write; delete it there";
        Err(Unavailable(text.to_owned()))
    }

    /// Returns the live session of a refused token: one that requires reauthentication, was rolled
    /// back, or has a token from before a crash. The MAC suffices to end it, as a replay would.
    pub async fn find_recoverable(
        &self,
        cookie: &CookieLookup,
    ) -> Result<Option<RecoverableSession>, Unavailable> {
        let CookieLookup::One(value) = cookie else { return Ok(None) };
        let keys = self.shared.keys.load_full();
        let token = match Token::parse(&keys, value) {
            Ok(token) => token,
            Err(TokenError::UnknownKey) => {
                let text = "the token is signed with a key that this gateway's keys file lacks";
                return Err(Unavailable(text.to_owned()));
            }
            Err(TokenError::Malformed | TokenError::InvalidMac) => return Ok(None),
        };
        let (requested_at, now) = (Instant::now(), self.now());
        let loaded = self.with_deadline(pin!(self.load_latest(&token.key))).await;
        let loaded = self.count_errors(loaded)?;
        let verified = match self.verify(&keys, &token.key, loaded, requested_at) {
            Ok(verified) => verified,
            Err(DenyReason::Unavailable(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let VerifiedSession { record, touched, user_cutoff, .. } = verified;
        let facts = SessionFacts { touched, user_cutoff, ..SessionFacts::default() };
        if self.is_record_expired(&token.key, &record, &facts, now) {
            return Ok(None);
        }
        let has_secret = matches_token(&record, &token);
        let info = SessionInfo { key: token.key, record, last_active: touched };
        Ok(Some(RecoverableSession { info, has_secret }))
    }

    /// Returns the cached session of a token, to end it during an outage. If the end fails, the
    /// session is at least not served stale.
    pub fn cached_session(&self, cookie: &CookieLookup) -> Option<SessionInfo> {
        let CookieLookup::One(value) = cookie else { return None };
        let token = Token::parse(&self.shared.keys.load_full(), value).ok()?;
        match self.shared.cache.get(&token.key)? {
            CacheEntry::Live(cached) => Some(cached.to_info(token.key)),
            CacheEntry::Ended { .. } => None,
        }
    }

    /// Returns the cached session with this handle.
    pub fn cached_session_by_handle(&self, handle: &str) -> Option<SessionInfo> {
        let (key, cached) = self.shared.cache.find(|key| key.id.handle() == handle)?;
        Some(cached.to_info(key))
    }

    pub(super) fn count_errors<T>(&self, result: Result<T, Unavailable>) -> Result<T, Unavailable> {
        result.inspect_err(|error| {
            self.mark_store_unavailable(error);
            self.shared.metrics.store_error();
        })
    }
}

impl CachedRecord {
    fn to_info(&self, key: SessionKey) -> SessionInfo {
        SessionInfo { key, record: Arc::clone(&self.record), last_active: self.touched() }
    }
}

/// Returns the first time after a cutoff, so that a login after "log out everywhere" is not revoked
/// by it.
fn first_instant_after(cutoff: RevocationCutoff) -> UnixMillis {
    if cutoff.at.0 == 0 { UnixMillis(0) } else { cutoff.at.plus(Duration::from_millis(1)) }
}

/// Returns whether the record contains the hash of the token.
fn matches_token(record: &Record, token: &Token) -> bool {
    let hash = token.hash();
    let offered = record.offer.as_ref().map(|offer| &offer.hash);
    let previous = record.previous.as_ref().map(|previous| &previous.hash);
    let known = [Some(&record.current_hash), offered, previous];
    known.into_iter().flatten().any(|known| constant_time_eq(known, &hash))
}
