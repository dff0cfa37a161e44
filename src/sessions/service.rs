//! Creates, lists and finds sessions.

use std::cmp::Reverse;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::identity::{ExternalFacts, VerifiedLogin};
use crate::message::CookieLookup;
use crate::risk::GeoInfo;
use crate::secret::{constant_time_eq, random_bytes};
use crate::session::notice::{NoticeKind, SecurityNotice};
use crate::session::{
    ClientContext, EndReason, Record, Remaining, RevocationCutoff, SessionDeadlines, SessionFacts,
    SessionId, SessionKey, Token, TokenError, UserHistory, UserTag,
};
use crate::store::{Loaded, SessionListing, Slot, Store, Unavailable, VerifiedSession};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::{EventContext, RiskContext};

use super::accounts::Accounts;
use super::end_cause::{EndCause, SessionInfo};
use super::events::event_context;
use super::login_throttle::LoginThrottle;
use super::personal_tokens::PersonalTokens;
use super::provider_tokens::{ProviderTokenStore, ProviderTokens};
use super::revocation::Revoker;
use super::second_factors::SecondFactorStore;
use super::settings::SessionSettings;
use super::shared::Shared;
use super::token_throttle::TokenThrottle;
use super::updater::SessionUpdater;
use super::user_history::UserHistories;
use super::user_ref::UserRef;
use super::verified_store::{LoadError, VerifiedStore};
use super::{expiry_watch, global_revocation};

/// Maximum time a cutoff may lie in the future. Clocks can be wrong by an hour.
const MAX_CUTOFF_AHEAD: Duration = Duration::from_hours(2);

/// How often the end of a replaced session checks the session that replaced it, which may end elsewhere.
const OPEN_CHECK: Duration = Duration::from_secs(1);

/// Records opened before the task yields.
const OPEN_BATCH: usize = 100;

/// A new session.
pub struct NewSession {
    pub token: Zeroizing<String>,
    /// Time to the absolute end.
    pub left: Duration,
    /// Whether the user has unread security notices.
    pub has_notices: bool,
}

/// A live session whose token is refused.
pub struct RecoverableSession {
    pub info: SessionInfo,
    /// Whether the record contains the hash of the token.
    has_secret: bool,
}

impl RecoverableSession {
    /// Returns the user name if the token is in the record. A valid MAC alone does not reveal it,
    /// because keys can leak.
    pub fn user(&self) -> &str {
        if self.has_secret { &self.info.record.identity.user } else { "" }
    }

    /// Returns the sessions, to end them.
    pub fn into_infos(found: Vec<RecoverableSession>) -> Vec<SessionInfo> {
        found.into_iter().map(|found| found.info).collect()
    }
}

/// Sessions of one worker.
#[derive(Clone)]
pub struct Sessions {
    store: VerifiedStore,
    pub revoker: Revoker,
    pub updater: SessionUpdater,
    pub histories: UserHistories,
    pub throttle: LoginThrottle,
    pub accounts: Accounts,
    pub tokens: ProviderTokenStore,
    pub personal_tokens: PersonalTokens,
    pub token_throttle: TokenThrottle,
    pub second_factors: SecondFactorStore,
}

impl Sessions {
    /// Creates the services of one worker under one configuration.
    pub fn new(store: Store, shared: Arc<Shared>, settings: Arc<SessionSettings>) -> Sessions {
        let store = VerifiedStore { raw: store, shared, settings };
        Sessions {
            revoker: Revoker::new(store.clone()),
            updater: SessionUpdater::new(store.clone()),
            histories: UserHistories::new(store.clone()),
            throttle: LoginThrottle::new(store.clone()),
            accounts: Accounts::new(store.clone()),
            tokens: ProviderTokenStore::new(store.clone()),
            personal_tokens: PersonalTokens::new(store.clone()),
            token_throttle: TokenThrottle::new(store.clone()),
            second_factors: SecondFactorStore::new(store.clone()),
            store,
        }
    }

    /// Returns the state that all workers share.
    pub fn shared(&self) -> &Shared {
        &self.store.shared
    }

    /// Returns the settings of the configuration.
    pub fn settings(&self) -> &SessionSettings {
        &self.store.settings
    }

    /// Returns the store, for readiness checks and maintenance.
    pub fn store(&self) -> &Store {
        &self.store.raw
    }

    /// Returns the store with verification.
    pub(crate) fn verified_store(&self) -> &VerifiedStore {
        &self.store
    }

    /// Reads the global cutoff; called every second.
    pub async fn refresh_global_cutoff(&self) -> Result<(), Unavailable> {
        global_revocation::refresh(&self.store).await
    }

    /// Ends and reports the sessions whose timeout passed without a request. Called every second.
    pub async fn end_expired(&self) -> Result<(), Unavailable> {
        expiry_watch::run(&self.store).await
    }

    /// Creates a session for an authenticated user. Each login gets a new session ID and token, and
    /// ends the session of the browser's old cookie (session fixation).
    pub async fn create_session(
        &self,
        login: &VerifiedLogin,
        cookie: &CookieLookup,
        from: ClientContext,
    ) -> Result<NewSession, Unavailable> {
        self.store.with_deadline(pin!(self.create(login, cookie, from))).await
    }

    async fn create(
        &self,
        login: &VerifiedLogin,
        cookie: &CookieLookup,
        from: ClientContext,
    ) -> Result<NewSession, Unavailable> {
        let keys = self.store.shared.keys.load_full();
        if keys.is_provisional() {
            return Err(Unavailable::missing_keys());
        }
        let user = &login.identity.user;
        let tag = UserTag(keys.user_tag(login.identity.account()));
        let key = SessionKey { tag, id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let cutoff = self.store.track_errors(self.store.raw.user_cutoff(&key.tag).await)?;
        // Read again: a session created before the cutoff would end at once.
        self.store.track_errors(global_revocation::refresh(&self.store).await)?;
        let global_cutoff = self.store.shared.cache.global_cutoff();
        let created = self
            .store
            .now()
            .max(first_instant_after(cutoff))
            .max(first_instant_after(global_cutoff));
        self.check_cutoff_plausible(user, created)?;
        let end = created.plus(self.store.settings.policy.absolute());
        let mut record =
            Record::new(Arc::clone(&login.identity), &token, created, end, from.clone());
        record.credential = login.credential_digest;
        record.second_factor = login.second_factor.then_some(created);
        if let Some(external) = &login.external {
            // A provider may log a user in without asking for a password.
            record.authenticated = external.authenticated.min(created);
        }
        let user = UserRef { tag: key.tag, user };
        let history = self.histories.load(user).await;
        if let Some(history) = &history {
            let known = history.known_networks_for(login.credential_digest);
            record.seed_networks(known);
        }
        let replaced = self.find_replaced(cookie).await?;
        for before in &replaced {
            record.inherit_clients(&before.record);
        }
        let cause = EndCause::user(EndReason::SessionLimit, key.id, from.clone());
        self.enforce_max_per_user(&key.tag, &replaced, cause).await?;
        if let Some(external) = &login.external {
            Box::pin(self.save_external(login, external, key, end)).await?;
            Box::pin(self.personal_tokens.confirm(&login.identity)).await?;
        }
        let sealed = record.seal(&keys, &key);
        self.store.track_errors(self.store.raw.create(&key, &sealed, created, end).await)?;
        let policy = &self.store.settings.policy;
        self.store.shared.expiry_watch.watch(&key, &record, created, policy);
        for session in &replaced {
            let cause = EndCause::user(EndReason::Replaced, key.id, from.clone());
            self.end_replaced(session, key, cause).await?;
        }
        self.store
            .shared
            .emit(SessionEvent::Login, event_context(&login.identity.user, key.id, &from));
        let has_notices = match &history {
            Some(history) => self.record_login(user, &key, login, history, &from).await,
            None => false,
        };
        let token = token.encode(&keys);
        let token = token.ok_or_else(|| Unavailable("the signing key was removed".to_owned()))?;
        Ok(NewSession { token, has_notices, left: end.since(self.store.now()) })
    }

    /// Stores what belongs to a session of an external provider, before the session exists: a logout at the
    /// provider must find it.
    async fn save_external(
        &self,
        login: &VerifiedLogin,
        external: &ExternalFacts,
        key: SessionKey,
        end: UnixMillis,
    ) -> Result<(), Unavailable> {
        self.accounts.add(login, key, end).await?;
        let (id_token, refresh) = (external.id_token.clone(), external.refresh_token.clone());
        self.tokens.save(&key, &ProviderTokens::new(id_token, refresh), end).await
    }

    /// Ends the session that a login replaces. If the same user has a download or a WebSocket open in
    /// another tab, the old session ends with the last of them, or with the new session.
    async fn end_replaced(
        &self,
        old: &SessionInfo,
        new: SessionKey,
        cause: EndCause,
    ) -> Result<(), Unavailable> {
        let is_tracked = self.store.shared.connections.is_tracked(&old.key);
        if old.key.tag != new.tag || !is_tracked {
            return self.revoker.end_session(old, cause).await.map(|_| ());
        }
        let (sessions, old) = (self.clone(), old.clone());
        tokio::spawn(async move {
            let released = sessions.store.shared.connections.released(&old.key);
            tokio::select! {
                () = released => {}
                () = sessions.wait_for_end(&new) => {}
            }
            // After a failure the session ends at its timeouts.
            let ended = sessions.revoker.end_session(&old, cause).await;
            ended.map(|_| ()).unwrap_or_default();
        });
        Ok(())
    }

    /// Waits until a session has ended, at this gateway or elsewhere.
    async fn wait_for_end(&self, key: &SessionKey) {
        while !matches!(self.store.load_live(key).await, Ok(None)) {
            tokio::time::sleep(OPEN_CHECK).await;
        }
    }

    /// Records the location of a login, with a notice if it is new. Returns whether the user has
    /// older unread notices.
    async fn record_login(
        &self,
        user: UserRef<'_>,
        key: &SessionKey,
        login: &VerifiedLogin,
        history: &UserHistory,
        from: &ClientContext,
    ) -> bool {
        let now = self.store.now();
        let news =
            self.store.settings.risk.assess_login(&self.store.shared.geoip.load(), history, from);
        if let Some(report) = &news {
            let mut context = event_context(user.user, key.id, from);
            let (here, other) =
                (self.store.shared.geoip.load().lookup(from.address), GeoInfo::default());
            context.risk = Some(RiskContext {
                report,
                enforced: false,
                location: here,
                other_location: other,
            });
            self.store.shared.emit(SessionEvent::LoginNewLocation, context);
        }
        let notice =
            news.map(|_| SecurityNotice::new(NoticeKind::NewLocation, key.id, from, None, now));
        let update = self.histories.update_best_effort(user, |history| {
            history.record_login(from, login.credential_digest, now);
            notice.iter().for_each(|notice| history.add_notice(notice.clone()));
        });
        update.await;
        history.notices().next().is_some()
    }

    /// Returns a user's live sessions, most recently used first.
    pub async fn list_user_sessions(&self, tag: &UserTag) -> Result<Vec<SessionInfo>, Unavailable> {
        let (cutoff, listed) = self.store.with_deadline(pin!(self.load_list(tag))).await?;
        Ok(self.open_listed(listed, cutoff))
    }

    async fn load_list(
        &self,
        tag: &UserTag,
    ) -> Result<(RevocationCutoff, Vec<SessionListing>), Unavailable> {
        let cutoff = self.store.track_errors(self.store.raw.user_cutoff(tag).await)?;
        let listed = self.store.track_errors(self.store.raw.list_user(tag).await)?;
        self.store
            .track_errors(global_revocation::read_fresh(&self.store, self.store.instant()).await)?;
        Ok((cutoff, listed))
    }

    /// Returns up to `limit` live sessions of all users.
    pub async fn list_all_sessions(&self, limit: usize) -> Result<Vec<SessionInfo>, Unavailable> {
        self.store
            .track_errors(global_revocation::read_fresh(&self.store, self.store.instant()).await)?;
        let mut listed = self.store.track_errors(self.store.raw.list_all(limit).await)?.into_iter();
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
        self.store
            .track_errors(global_revocation::read_fresh(&self.store, self.store.instant()).await)?;
        let found = self.store.raw.find_session(|key| key.id.handle() == handle).await;
        let Some(key) = self.store.track_errors(found)? else { return Ok(None) };
        let (_, loaded) = self.store.track_errors(self.store.load_latest(&key).await)?;
        let Loaded { slot: Slot::Live { revision, sealed }, touched, user_cutoff } = loaded else {
            return Ok(None);
        };
        let listed = SessionListing { key, revision, sealed, touched };
        Ok(self.open_listed(vec![listed], user_cutoff).pop())
    }

    /// Returns the time left to an admitted session.
    pub fn time_left(&self, key: &SessionKey, record: &Record, facts: &SessionFacts) -> Remaining {
        let policy = &self.store.settings.policy;
        SessionDeadlines::new(key.id, record, facts, policy).remaining(self.store.now())
    }

    /// Opens listed records and omits expired sessions.
    fn open_listed(
        &self,
        listed: Vec<SessionListing>,
        cutoff: RevocationCutoff,
    ) -> Vec<SessionInfo> {
        let keys = self.store.shared.keys.load_full();
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
        self.store.is_record_expired(&session.key, &session.record, &facts, self.store.now())
    }

    /// Ends the least recently used sessions beyond the limit per user. `replaced` ends anyway and
    /// does not count.
    async fn enforce_max_per_user(
        &self,
        tag: &UserTag,
        replaced: &[SessionInfo],
        cause: EndCause,
    ) -> Result<(), Unavailable> {
        let limit = self.store.settings.max_per_user;
        if limit == 0 {
            return Ok(());
        }
        let cutoff = self.store.track_errors(self.store.raw.user_cutoff(tag).await)?;
        let listed = self.store.track_errors(self.store.raw.list_user(tag).await)?;
        let live = self.open_listed(listed, cutoff);
        let is_replaced = |session: &SessionInfo| replaced.iter().any(|old| old.key == session.key);
        let staying = live.iter().filter(|session| !is_replaced(session));
        for session in staying.skip(limit.saturating_sub(1)) {
            self.revoker.end_session(session, cause.clone()).await?;
        }
        Ok(())
    }

    /// Returns the sessions of the browser's cookies at login; the login ends them, even if they belong to
    /// another user. A token must match its record, so a session ID alone cannot end a session.
    async fn find_replaced(&self, cookie: &CookieLookup) -> Result<Vec<SessionInfo>, Unavailable> {
        let keys = self.store.shared.keys.load_full();
        let mut found = Vec::new();
        for value in cookie.values() {
            let Ok(token) = Token::parse(&keys, value) else { continue };
            let (load, loaded) =
                self.store.track_errors(self.store.load_latest(&token.key).await)?;
            let Ok(verified) = self.store.verify(&keys, &token.key, &load, loaded) else {
                continue;
            };
            if matches_token(&verified.record, &token) {
                let (key, last_active) = (token.key, verified.touched);
                found.push(SessionInfo { key, record: verified.record, last_active });
            }
        }
        Ok(found)
    }

    /// Rejects a cutoff in the far future. Sessions are created after it and would also expire that
    /// much later. Cutoffs are not sealed, so an attacker may have written it.
    fn check_cutoff_plausible(&self, user: &str, begins: UnixMillis) -> Result<(), Unavailable> {
        if begins <= self.store.now().plus(MAX_CUTOFF_AHEAD) {
            return Ok(());
        }
        self.store
            .shared
            .emit(SessionEvent::Undecryptable, EventContext { user, ..EventContext::default() });
        let text = "a revocation cutoff in the store lies hours in the future, because of a wrong clock or a foreign write; delete it there";
        Err(Unavailable(text.to_owned()))
    }

    /// Returns the live sessions of refused tokens: one that requires reauthentication, was rolled
    /// back, or has a token from before a crash, or several. The MAC suffices to end one, as a replay would.
    pub async fn find_recoverable(
        &self,
        cookie: &CookieLookup,
    ) -> Result<Vec<RecoverableSession>, Unavailable> {
        let mut found = Vec::new();
        for value in cookie.values() {
            found.extend(self.find_recoverable_token(value).await?);
        }
        Ok(found)
    }

    async fn find_recoverable_token(
        &self,
        value: &[u8],
    ) -> Result<Option<RecoverableSession>, Unavailable> {
        let keys = self.store.shared.keys.load_full();
        let token = match Token::parse(&keys, value) {
            Ok(token) => token,
            Err(TokenError::UnknownKey) => {
                let text = "the token is signed with a key that this gateway's keys file lacks";
                return Err(Unavailable(text.to_owned()));
            }
            Err(TokenError::Malformed | TokenError::InvalidMac) => return Ok(None),
        };
        let now = self.store.now();
        let loaded = self.store.with_deadline(pin!(self.store.load_latest(&token.key))).await;
        let (load, loaded) = self.store.track_errors(loaded)?;
        let verified = match self.store.verify(&keys, &token.key, &load, loaded) {
            Ok(verified) => verified,
            Err(LoadError::Unavailable(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let VerifiedSession { record, touched, user_cutoff, .. } = verified;
        let facts = SessionFacts { touched, user_cutoff, ..SessionFacts::default() };
        if self.store.is_record_expired(&token.key, &record, &facts, now) {
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
        let token = Token::parse(&self.store.shared.keys.load_full(), value).ok()?;
        let VerifiedSession { record, touched, .. } = self.store.shared.cache.live(&token.key)?;
        Some(SessionInfo { key: token.key, record, last_active: touched })
    }

    /// Returns the cached session with this handle.
    pub fn cached_session_by_handle(&self, handle: &str) -> Option<SessionInfo> {
        let (key, record, last_active) =
            self.store.shared.cache.find(|key| key.id.handle() == handle)?;
        Some(SessionInfo { key, record, last_active })
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
