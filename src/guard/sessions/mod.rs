//! Sessions as a whole: begun at login, listed, ended.

mod ending;

use std::cmp::Reverse;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::identity::Account;
use crate::message::Presented;
use crate::risk::Locality;
use crate::secret::{equal_in_constant_time, random_bytes};
use crate::session::notice::{Id, Kind, Notice};
use crate::session::{
    ClientContext, EndReason, Identity, Memo, NotBefore, Record, SessionId, SessionKey, Standing,
    Token, TokenError, UserTag,
};
use crate::store::{Listed, Loaded, Slot, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::{About, Moved};

use super::held::Held;
use super::known::{Sealed, Seen};
use super::recall::Whose;
use super::{Denial, Guard, about, admit::Admitted};

/// How far ahead a line may lie. Clocks have been wrong by an hour.
const LINE_AHEAD: Duration = Duration::from_hours(2);

/// Records of a long list that are opened before others have their turn.
const OPENED_AT_ONCE: usize = 100;

/// A live session as lists show it.
#[derive(Clone, Debug)]
pub struct Opened {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub last_active: UnixMillis,
}

/// A new session's token.
pub struct Begun {
    pub token: Zeroizing<String>,
    /// Whether its user has to be told something that happened before.
    pub told: bool,
}

/// A session that lives, though the token that names it is refused.
pub struct LivesOn {
    pub opened: Opened,
    /// Whether the token is one that the record has the hash of.
    proven: bool,
}

/// Time left to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub idle: Duration,
    pub absolute: Duration,
}

impl LivesOn {
    /// Whose it is, for those who may know: keys that leaked make a MAC, and must not tell names.
    pub fn user(&self) -> &str {
        if self.proven { &self.opened.record.identity.user } else { "" }
    }

    /// To end it.
    pub fn session(found: Option<LivesOn>) -> Option<Opened> {
        found.map(|found| found.opened)
    }
}

impl Guard {
    /// Begins a session for a user who proved who he is: a new id and a new token at every login
    /// (fixation), and the session that this browser showed before ends.
    pub async fn begin(
        &self,
        account: &Account,
        shown: &Presented,
        from: ClientContext,
    ) -> Result<Begun, Unavailable> {
        self.in_time(pin!(self.begun(account, shown, from))).await
    }

    async fn begun(
        &self,
        account: &Account,
        shown: &Presented,
        from: ClientContext,
    ) -> Result<Begun, Unavailable> {
        let keys = self.shared.keys.load_full();
        let user = &account.identity.user;
        let key = SessionKey { tag: UserTag(keys.tag_of(user)), id: SessionId(random_bytes()) };
        let token = Token::new(keys.newest().0, key, 0, random_bytes());
        let line = self.counted(self.store.not_before(&key.tag).await)?;
        // Not the one of three seconds ago: a session that begins before a line is dead at once.
        self.counted(self.refresh_everyone().await)?;
        let everyone = self.shared.everyone.line();
        let at = self.now().max(after(line)).max(after(everyone));
        self.believable_line(user, at)?;
        let end = at.plus(self.shared.policy.absolute());
        let mut record =
            Record::begin(Identity::clone(&account.identity), &token, at, end, from.clone());
        record.credential = account.credential;
        let whose = Whose { tag: key.tag, user };
        let memo = self.recall(whose).await;
        if let Some(memo) = &memo {
            let known = memo.known_with(account.credential);
            record.seed(known);
        }
        let shown = self.shown(shown).await?;
        if let Some(before) = &shown {
            record.inherit(&before.record);
        }
        self.make_room(&key.tag, shown.as_ref().map(|session| session.key)).await?;
        let sealed = record.seal(&keys, &key);
        self.counted(self.store.create(&key, &sealed, at, end).await)?;
        if let Some(session) = shown {
            self.end_session(&session, EndReason::Replaced).await?;
        }
        self.shared.event(SessionEvent::Login, about(user, key.id, &from));
        let told = match &memo {
            Some(memo) => self.remember_login(whose, &key, account, memo, &from).await,
            None => false,
        };
        let token = token.text(&keys);
        let token = token.ok_or_else(|| Unavailable("the newest key vanished".to_owned()))?;
        Ok(Begun { token, told })
    }

    /// Notes where the user logged in, and tells him where that is news. Whether there is something for
    /// him to read that he does not know yet.
    async fn remember_login(
        &self,
        whose: Whose<'_>,
        key: &SessionKey,
        account: &Account,
        memo: &Memo,
        from: &ClientContext,
    ) -> bool {
        let now = self.now();
        let news = self.shared.signals.newcomer(&self.shared.atlas.load(), memo, from);
        if let Some(report) = &news {
            let mut about = about(whose.user, key.id, from);
            let (here, other) = (self.shared.atlas.load().look(from.address), Locality::default());
            about.moved = Some(Moved { report, enforced: false, here, other });
            self.shared.event(SessionEvent::LoginNewPlace, about);
        }
        let notice = news.map(|_| Notice::new(Kind::NewPlace, key.id, from, None, now));
        let noted = self.remember(whose, |memo| {
            memo.logged_in(from, account.credential, now);
            notice.iter().for_each(|notice| memo.tell(notice.clone()));
        });
        noted.await;
        memo.notices().next().is_some()
    }

    /// What a user has to be told, the newest first; nothing where the store does not say.
    pub async fn notices_of(&self, key: &SessionKey, user: &str) -> Vec<Notice> {
        let memo = self.recall(Whose { tag: key.tag, user }).await;
        memo.map(|memo| memo.notices().cloned().collect()).unwrap_or_default()
    }

    /// The user has read a notice. Not by the session that it is about: it may be a thief's.
    pub async fn dismiss(&self, key: &SessionKey, user: &str, id: Id) -> Result<(), Unavailable> {
        let whose = Whose { tag: key.tag, user };
        self.counted(self.changed(whose, |memo| memo.dismiss(id, key.id)).await)
    }

    /// Forgets where a user was, with what, and what he has to be told, at an operator's word. Sessions
    /// that live keep what they know until they end.
    pub async fn forget_user(&self, user: &str) -> Result<(), Unavailable> {
        let tag = UserTag(self.shared.keys.load().tag_of(user));
        self.counted(self.forgotten(Whose { tag, user }).await)?;
        self.shared.event(SessionEvent::Forgotten, About { user, ..About::default() });
        Ok(())
    }

    /// A user's live sessions, the most recently used first.
    pub async fn sessions_of(&self, user: &str) -> Result<Vec<Opened>, Unavailable> {
        let tag = UserTag(self.shared.keys.load().tag_of(user));
        let (line, listed) = self.in_time(pin!(self.listed(&tag))).await?;
        Ok(self.live(listed, line))
    }

    async fn listed(&self, tag: &UserTag) -> Result<(NotBefore, Vec<Listed>), Unavailable> {
        let line = self.counted(self.store.not_before(tag).await)?;
        let listed = self.counted(self.store.sessions_of(tag).await)?;
        self.counted(self.everyone().await)?;
        Ok((line, listed))
    }

    /// Live sessions of everybody, at most `limit`.
    pub async fn all_sessions(&self, limit: usize) -> Result<Vec<Opened>, Unavailable> {
        self.counted(self.everyone().await)?;
        let mut listed = self.counted(self.store.all(limit).await)?.into_iter();
        let mut out = Vec::new();
        loop {
            let some: Vec<Listed> = listed.by_ref().take(OPENED_AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            out.extend(self.live(some, NotBefore::default()));
            // Thousands of seals: who looks after live connections has his turn between.
            tokio::task::yield_now().await;
        }
        out.sort_by_key(|session| Reverse(session.last_active));
        Ok(out)
    }

    /// The live session of this handle, whosever it is. Of all others nothing but their names is read.
    pub async fn session_of(&self, handle: &str) -> Result<Option<Opened>, Unavailable> {
        self.counted(self.everyone().await)?;
        let found = self.store.find(|id| id.handle() == handle).await;
        let Some(key) = self.counted(found)? else { return Ok(None) };
        let loaded = self.counted(self.load(&key).await)?;
        let Loaded { slot: Slot::Live { revision, sealed }, touched, not_before } = loaded else {
            return Ok(None);
        };
        let listed = Listed { key, revision, sealed, touched };
        Ok(self.live(vec![listed], not_before).pop())
    }

    /// Time left to an admitted session.
    pub fn remaining(&self, admitted: &Admitted) -> Remaining {
        let record = &admitted.record;
        let active = record.active.max(admitted.standing.touched);
        let now = self.now().max(active);
        let idle = self.shared.policy.idle().saturating_sub(now.since(active));
        let absolute = record.absolute_end.since(now);
        Remaining { idle: idle.min(absolute), absolute }
    }

    /// Opens what a store listed and leaves out what is over.
    fn live(&self, listed: Vec<Listed>, line: NotBefore) -> Vec<Opened> {
        let keys = self.shared.keys.load_full();
        let mut out: Vec<Opened> = listed
            .into_iter()
            .filter_map(|entry| {
                let record = Arc::new(Record::open(&keys, &entry.key, &entry.sealed).ok()?);
                let last_active = record.active.max(entry.touched);
                Some(Opened { key: entry.key, record, last_active })
            })
            .filter(|session| !self.is_over(session, line))
            .collect();
        out.sort_by_key(|session| Reverse(session.last_active));
        out
    }

    fn is_over(&self, session: &Opened, line: NotBefore) -> bool {
        let standing =
            Standing { touched: session.last_active, not_before: line, ..Standing::default() };
        self.record_is_over(&session.key, &session.record, &standing, self.now())
    }

    /// Whether no token could be admitted any more at `now`.
    pub(super) fn record_is_over(
        &self,
        key: &SessionKey,
        record: &Record,
        standing: &Standing,
        now: UnixMillis,
    ) -> bool {
        let created = record.created;
        let active = record.active.max(standing.touched);
        standing.not_before.ends(key.id, created)
            || self.shared.everyone.line().ends(key.id, created)
            || now >= record.absolute_end.min(created.plus(self.shared.policy.absolute()))
            || now.since(active) >= self.shared.policy.idle()
            || self.account(record).is_err()
    }

    /// With a limit per user, the longest unused session makes room for the new one.
    /// `going` ends anyway, and takes nobody else's place.
    async fn make_room(&self, tag: &UserTag, going: Option<SessionKey>) -> Result<(), Unavailable> {
        let limit = self.shared.max_per_user;
        if limit == 0 {
            return Ok(());
        }
        let line = self.counted(self.store.not_before(tag).await)?;
        let listed = self.counted(self.store.sessions_of(tag).await)?;
        let live = self.live(listed, line);
        let staying = live.iter().filter(|session| Some(session.key) != going);
        for session in staying.skip(limit.saturating_sub(1)) {
            self.end_session(session, EndReason::Replaced).await?;
        }
        Ok(())
    }

    /// The session that the browser showed at login, which is over then, whoever's it was: no token
    /// from before a login lives on. The token must prove it, or a thief of ids could end sessions; the
    /// offered and the superseded one prove it as well as the current one.
    async fn shown(&self, shown: &Presented) -> Result<Option<Opened>, Unavailable> {
        let Presented::One(value) = shown else { return Ok(None) };
        let keys = self.shared.keys.load_full();
        let Ok(token) = Token::parse(&keys, value) else { return Ok(None) };
        let asked = Instant::now();
        let loaded = self.counted(self.load(&token.key).await)?;
        let Ok(held) = self.hold(&keys, &token.key, loaded, asked) else { return Ok(None) };
        let session = Opened { key: token.key, record: held.record, last_active: held.touched };
        Ok(knows(&session.record, &token).then_some(session))
    }

    /// A session begins behind the lines, whatever the clocks say; but one that would begin hours from now
    /// would also end that much later. Lines stand in the store unsealed: somebody may have moved one.
    fn believable_line(&self, user: &str, begins: UnixMillis) -> Result<(), Unavailable> {
        if begins <= self.now().plus(LINE_AHEAD) {
            return Ok(());
        }
        self.shared.event(SessionEvent::Poisoned, About { user, ..About::default() });
        let text = "a line of the store lies hours ahead: a clock was wrong, or somebody wrote to the store; remove it there";
        Err(Unavailable(text.to_owned()))
    }

    /// The session that a refused token names, if it lives: frozen, rolled back, or with a token from
    /// before a crash. The token's MAC is proof enough to end it; a replay ends it by no more.
    pub async fn lives_on(&self, shown: &Presented) -> Result<Option<LivesOn>, Unavailable> {
        let Presented::One(value) = shown else { return Ok(None) };
        let keys = self.shared.keys.load_full();
        let token = match Token::parse(&keys, value) {
            Ok(token) => token,
            Err(TokenError::UnknownKey) => {
                let text = "the token is signed with a key that this gateway's keys file lacks";
                return Err(Unavailable(text.to_owned()));
            }
            Err(TokenError::Shape | TokenError::Mac) => return Ok(None),
        };
        let (asked, now) = (Instant::now(), self.now());
        let loaded = self.in_time(pin!(self.load(&token.key))).await;
        let loaded = self.counted(loaded)?;
        let held = match self.hold(&keys, &token.key, loaded, asked) {
            Ok(held) => held,
            Err(Denial::Unavailable(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        let Held { record, touched, not_before, .. } = held;
        let standing = Standing { touched, not_before, ..Standing::default() };
        if self.record_is_over(&token.key, &record, &standing, now) {
            return Ok(None);
        }
        let proven = knows(&record, &token);
        let opened = Opened { key: token.key, record, last_active: touched };
        Ok(Some(LivesOn { opened, proven }))
    }

    /// The session that a token names, as it was last seen here: to end it where the store cannot be
    /// asked. An end that fails at least keeps it from being served unasked.
    pub fn seen_by(&self, shown: &Presented) -> Option<Opened> {
        let Presented::One(value) = shown else { return None };
        let token = Token::parse(&self.shared.keys.load_full(), value).ok()?;
        match self.shared.known.get(&token.key)? {
            Seen::Live(seen) => Some(seen.opened(token.key)),
            Seen::Ended { .. } => None,
        }
    }

    /// The same by its handle.
    pub fn seen_as(&self, handle: &str) -> Option<Opened> {
        let (key, seen) = self.shared.known.find(|key| key.id.handle() == handle)?;
        Some(seen.opened(key))
    }

    pub(super) fn counted<T>(&self, result: Result<T, Unavailable>) -> Result<T, Unavailable> {
        result.inspect_err(|error| {
            self.store_is_away(error);
            self.shared.metrics.store_error();
        })
    }
}

impl Sealed {
    fn opened(&self, key: SessionKey) -> Opened {
        Opened { key, record: Arc::clone(&self.record), last_active: self.touched() }
    }
}

/// A login after a "log out everywhere" begins after its line, whatever the clocks say.
fn after(line: NotBefore) -> UnixMillis {
    if line.at.0 == 0 { UnixMillis(0) } else { line.at.plus(Duration::from_millis(1)) }
}

/// Whether the token is one that the record has the hash of.
fn knows(record: &Record, token: &Token) -> bool {
    let hash = token.hash();
    let offered = record.offer.as_ref().map(|offer| &offer.hash);
    let previous = record.previous.as_ref().map(|previous| &previous.hash);
    let known = [Some(&record.current), offered, previous];
    known.into_iter().flatten().any(|known| equal_in_constant_time(known, &hash))
}
