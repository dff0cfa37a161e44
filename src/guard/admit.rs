//! One request's way to a permit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::http::Presented;
use crate::route::Requirement;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    Case, Change, ClientContext, EndReason, Identity, Outcome, Record, Refusal, RoutePolicy,
    SessionKey, Standing, Successor, Timing, Token, Verdict, decide,
};
use crate::store::{Commit, Loaded, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use super::held::Held;
use super::known::Seen;
use super::live::Mark;
use super::{Cut, Denial, Guard, NewToken, Permit, Sight, about};

/// Lost swaps before the store is called unavailable. Each loss means that another request won.
const ATTEMPTS: usize = 32;

/// What a request brings to the door.
pub struct Visit<'a> {
    pub presented: &'a Presented,
    pub context: &'a ClientContext,
    pub policy: &'a RoutePolicy,
    pub requirement: &'a Requirement,
    pub timing: Timing,
    /// Whether it keeps the session from idling out.
    pub activity: bool,
    /// For how long a session that was seen alive may read while the store is away.
    pub serve_known_for: Option<Duration>,
}

/// What the guard says, and the token that the answer carries in either case.
pub struct Entry {
    pub verdict: Result<Permit, Denial>,
    pub token: Option<NewToken>,
}

/// A session as the store and the decision left it.
pub struct Admitted {
    /// Who the user is now.
    pub identity: Arc<Identity>,
    pub record: Arc<Record>,
    pub key: SessionKey,
    pub standing: Standing,
    pub token: Option<NewToken>,
    mark: Mark,
    checked: Instant,
    /// Served by what is known, while the store is away.
    unasked: bool,
}

impl Guard {
    /// Decides one request.
    pub async fn enter(&self, visit: &Visit<'_>) -> Entry {
        match self.admit(visit).await {
            Ok(admitted) => self.require(visit, admitted),
            Err(denial) => Entry { verdict: Err(denial), token: None },
        }
    }

    /// Decides whether the session lives, without asking what it is for.
    pub async fn admit(&self, visit: &Visit<'_>) -> Result<Admitted, Denial> {
        let keys = self.shared.keys.load_full();
        let token = self.token(&keys, visit)?;
        // Before the store is asked: an end that comes later than this is heard of.
        let mark = self.shared.live.mark();
        let attempt = Attempt { guard: self, keys: &keys, token: &token, visit, mark };
        if let Some(admitted) = attempt.known().await {
            return Ok(admitted);
        }
        for _ in 0..ATTEMPTS {
            match attempt.run().await {
                Ok(Some(admitted)) => return Ok(admitted),
                Ok(None) => tokio::task::yield_now().await,
                Err(Denial::Unavailable(error)) => return attempt.serve_known(error),
                Err(denial) => return Err(denial),
            }
        }
        let busy = "every write lost against another one; does a script or a clock loop?";
        Err(self.unavailable(Unavailable(busy.to_owned())))
    }

    /// Whether a token that was to go with a slow answer is still the one to send: a late cookie must
    /// never overwrite a newer one in the browser.
    pub async fn offer_stands(&self, token: &NewToken) -> bool {
        let keys = self.shared.keys.load_full();
        let Ok(loaded) = self.load(&token.key).await else { return false };
        let Ok(held) = self.hold(&keys, &token.key, loaded) else { return false };
        let record = held.record;
        let offered = record.offer.as_ref().is_some_and(|offer| offer.hash == token.hash);
        offered || record.current == token.hash
    }

    fn require(&self, visit: &Visit<'_>, admitted: Admitted) -> Entry {
        let Admitted { identity, record, key, standing, token, mark, checked, unasked } = admitted;
        let verdict = if visit.requirement.allows(&identity) {
            let touched = standing.touched;
            let sight = Sight { key, record, touched, mark, checked, unasked };
            Ok(Permit::user(identity, sight))
        } else {
            Err(Denial::Forbidden { user: identity.user.clone() })
        };
        Entry { verdict, token }
    }

    /// Whether a cookie is one that we made, live or not; without a look-up or an event.
    pub fn recognises(&self, presented: &Presented) -> bool {
        match presented {
            Presented::Nothing | Presented::Several => false,
            Presented::One(value) => Token::parse(&self.shared.keys.load(), value).is_ok(),
        }
    }

    /// A forged or damaged cookie ends here, without a look-up.
    pub(super) fn token(&self, keys: &KeyRing, visit: &Visit<'_>) -> Result<Token, Denial> {
        let value = match visit.presented {
            Presented::Nothing => return Err(Denial::NoSession),
            Presented::Several => return Err(Denial::SeveralCookies),
            Presented::One(value) => value,
        };
        Token::parse(keys, value).map_err(|_| {
            let (client, agent) = (Some(visit.context.address), visit.context.agent.as_str());
            let nobody = About { client, agent, ..About::default() };
            self.shared.event(SessionEvent::Forged, nobody);
            Denial::Forged
        })
    }

    /// Who the user is *now*: groups and address as the users file says today, not at login. A removed
    /// or disabled account, or a changed password, ends its sessions at their next request.
    pub(super) fn account(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        let Some(directory) = &self.shared.directory else {
            return Ok(Arc::new(record.identity.clone()));
        };
        match directory.find(&record.identity.user) {
            None => Err(EndReason::AccountGone),
            Some(account) if account.disabled => Err(EndReason::AccountGone),
            Some(account) if account.credential != record.credential => {
                Err(EndReason::CredentialChanged)
            }
            Some(account) => Ok(Arc::clone(&account.identity)),
        }
    }
}

/// One load, one decision, one write.
struct Attempt<'a> {
    guard: &'a Guard,
    keys: &'a KeyRing,
    token: &'a Token,
    visit: &'a Visit<'a>,
    mark: Mark,
}

impl Attempt<'_> {
    /// Decides on what is known without asking the store, which may only admit. A refusal, an end and a
    /// write are decided on a load: activity at another gateway, for one, is not known here, and would
    /// let this one end a session that is in use.
    async fn known(&self) -> Option<Admitted> {
        let checked = Instant::now();
        let (guard, key) = (self.guard, &self.token.key);
        let everyone = guard.everyone_if_fresh()?;
        let loaded = guard.store.known(key)?;
        let Held { record, touched, not_before, .. } = guard.hold_unchanged(key, loaded)?;
        let identity = guard.account(&record).ok()?;
        let standing = Standing { touched, not_before, everyone };
        let verdict = self.decide(&record, &standing, self.visit.timing);
        if !only_admits(&verdict) {
            return None;
        }
        if verdict.touch {
            self.touch(&record).await;
        }
        self.settle(record, identity, standing, verdict, checked).ok()
    }

    /// `None` when another request's write came first: load and decide again.
    async fn run(&self) -> Result<Option<Admitted>, Denial> {
        let key = &self.token.key;
        let checked = Instant::now();
        let everyone = self.guard.everyone().await.map_err(|error| self.away(error))?;
        let loaded = self.load().await?;
        let held = self.guard.hold(self.keys, key, loaded.clone())?;
        let Held { revision, record, touched, not_before, restore } = held;
        let identity = match self.guard.account(&record) {
            Ok(identity) => identity,
            // Refused here and now, and no more: this gateway's users file may be the older one of two.
            Err(reason) => {
                self.guard.shared.live.cut(key, Cut::SessionEnded);
                self.event(SessionEvent::Refused(reason.word()), &record);
                return Err(Denial::Ended(reason));
            }
        };
        let standing = Standing { touched, not_before, everyone };
        let mut verdict = self.decide(&record, &standing, self.visit.timing);
        if restore && verdict.change == Change::Keep {
            verdict.change = Change::Write(Box::new(Record::clone(&record)));
        }
        // A gateway that was stopped for a while after its load would end a session that others kept
        // alive meanwhile: what only time ends, ends on a load that is still true.
        if ends_by_time(&verdict) && self.load().await? != loaded {
            return Ok(None);
        }
        if !self.write(revision, &record, &verdict).await? {
            return Ok(None);
        }
        self.settle(record, identity, standing, verdict, checked).map(Some)
    }

    async fn load(&self) -> Result<Loaded, Denial> {
        let loaded = self.guard.load(&self.token.key).await;
        loaded.map_err(|error| self.away(error))
    }

    fn decide(&self, record: &Record, standing: &Standing, timing: Timing) -> Verdict {
        decide(&Case {
            record,
            standing,
            presented: self.token,
            keys: self.keys,
            now: self.guard.now(),
            salt: &random_bytes,
            context: self.visit.context,
            session: &self.guard.shared.policy,
            route: self.visit.policy,
            timing,
            activity: self.visit.activity,
        })
    }

    /// Stores what the decision changes, before any answer; false when the swap was lost.
    async fn write(
        &self,
        revision: u64,
        record: &Record,
        verdict: &Verdict,
    ) -> Result<bool, Denial> {
        match &verdict.change {
            Change::Keep if verdict.touch => self.touch(record).await,
            Change::Keep => {}
            Change::Write(new) => return self.swap(revision, new).await,
            Change::End(reason) => self.end(record, *reason, false).await?,
            Change::EndAllOfUser(reason) => self.end(record, *reason, true).await?,
        }
        Ok(true)
    }

    async fn swap(&self, revision: u64, new: &Record) -> Result<bool, Denial> {
        let sealed = new.seal(self.keys, &self.token.key);
        let store = &self.guard.store;
        let commit = store.commit(&self.token.key, revision, &sealed, new.absolute_end).await;
        let swapped = commit.map_err(|error| self.away(error))? == Commit::Swapped;
        if swapped {
            let (known, key) = (&self.guard.shared.known, &self.token.key);
            let record = Arc::new(new.clone());
            let seen = known.keep(key, revision.saturating_add(1), sealed.into(), record);
            known.vouch(&seen, self.guard.now(), seen.touched());
        }
        Ok(swapped)
    }

    /// A touch that fails costs the user at most some idle time; the request was already decided.
    async fn touch(&self, record: &Record) {
        let store = &self.guard.store;
        if store.touch(&self.token.key, self.guard.now(), record.absolute_end).await.is_err() {
            self.guard.shared.metrics.store_error();
        }
    }

    /// In a task of its own: a client that hangs up takes its request along, and a thief who does so at
    /// once would escape half of the end and the alarm.
    async fn end(&self, record: &Record, reason: EndReason, all: bool) -> Result<(), Denial> {
        let ending = Ending {
            guard: self.guard.clone(),
            key: self.token.key,
            reason,
            all,
            forget_at: record.absolute_end,
            user: record.identity.user.clone(),
            from: self.visit.context.clone(),
            owner: record.renewed_from.clone(),
        };
        let ended = tokio::spawn(ending.run()).await;
        let ended = ended.unwrap_or_else(|error| Err(Unavailable(error.to_string())));
        ended.map_err(|error| self.away(error))
    }

    /// The store is away. Where the route says so, who was seen alive a while ago may read.
    fn serve_known(&self, error: Unavailable) -> Result<Admitted, Denial> {
        let known = self.known_reader();
        if known.is_none() {
            self.guard.refused_for_it();
        }
        known.ok_or(Denial::Unavailable(error))
    }

    /// Decided as ever, but by what is known, and nothing follows from it but the answer: a refusal here
    /// may be wrong, and is none.
    fn known_reader(&self) -> Option<Admitted> {
        let (guard, key) = (self.guard, self.token.key);
        let known = &guard.shared.known;
        let Seen::Live(seen) = known.get(&key)? else { return None };
        let checked = known.vouched_within(&seen, self.visit.serve_known_for?, guard.now())?;
        let identity = guard.account(&seen.record).ok()?;
        let (touched, not_before) = (seen.touched(), known.line(&key.tag));
        let standing = Standing { touched, not_before, everyone: guard.shared.everyone.line() };
        match self.decide(&seen.record, &standing, Timing::Never).outcome {
            Outcome::Refuse(_) => None,
            Outcome::Admit(_) => {
                guard.served_known();
                let (record, mark) = (Arc::clone(&seen.record), self.mark);
                let unasked = true;
                Some(Admitted {
                    key,
                    identity,
                    record,
                    standing,
                    token: None,
                    mark,
                    checked,
                    unasked,
                })
            }
        }
    }

    /// What the store now holds becomes the answer.
    fn settle(
        &self,
        record: Arc<Record>,
        identity: Arc<Identity>,
        standing: Standing,
        verdict: Verdict,
        checked: Instant,
    ) -> Result<Admitted, Denial> {
        let before = record.generation;
        let ended_for_theft = is_theft(&verdict.change);
        let record = match verdict.change {
            Change::Write(new) => Arc::new(*new),
            Change::Keep | Change::End(_) | Change::EndAllOfUser(_) => record,
        };
        if record.generation > before {
            self.event(SessionEvent::Renewed, &record);
        }
        match verdict.outcome {
            Outcome::Admit(next) => {
                let token = next.and_then(|next| self.mint(&next));
                let (key, mark) = (self.token.key, self.mark);
                let unasked = false;
                Ok(Admitted { key, identity, record, standing, token, mark, checked, unasked })
            }
            Outcome::Refuse(refusal) => {
                if !ended_for_theft {
                    self.event(refusal_event(refusal), &record);
                }
                Err(Denial::Refused(refusal))
            }
        }
    }

    /// The successor's text, under the newest key.
    fn mint(&self, next: &Successor) -> Option<NewToken> {
        let key = self.token.key;
        let token = Token::new(self.keys.newest().0, key, next.generation, next.secret);
        let text = token.text(self.keys)?;
        let made = self.guard.now();
        Some(NewToken { text, key, generation: next.generation, hash: token.hash(), made })
    }

    fn event(&self, event: SessionEvent, record: &Record) {
        let mut about = about(&record.identity.user, self.token.key.id, self.visit.context);
        about.other = is_theft_event(event).then_some(&record.renewed_from);
        self.guard.shared.event(event, about);
    }

    fn away(&self, error: Unavailable) -> Denial {
        self.guard.store_is_away(&error);
        self.guard.unavailable(error)
    }
}

/// The end of one session, or of all of its user.
struct Ending {
    guard: Guard,
    key: SessionKey,
    reason: EndReason,
    all: bool,
    forget_at: UnixMillis,
    user: String,
    /// Who showed the token that ends it.
    from: ClientContext,
    /// Who showed the current token first.
    owner: ClientContext,
}

impl Ending {
    async fn run(self) -> Result<(), Unavailable> {
        if self.reason == EndReason::Theft {
            self.event(SessionEvent::Theft);
        }
        let (store, now) = (&self.guard.store, self.guard.now());
        let known = &self.guard.shared.known;
        known.withhold(|key| *key == self.key || (self.all && key.tag == self.key.tag));
        // The line first: once this session has its tombstone, nobody comes here again for the others.
        if self.all {
            let line = store.revoke_user(&self.key.tag, now, None).await?;
            known.saw_line(&self.key.tag, line);
            self.guard.shared.live.ended_by_line(Some(self.key.tag), line);
        }
        store.end(&self.key, self.reason, now, self.forget_at).await?;
        known.ended(&self.key, self.reason, self.forget_at);
        self.guard.shared.live.ended(&self.key);
        self.event(SessionEvent::Ended(self.reason));
        Ok(())
    }

    fn event(&self, event: SessionEvent) {
        let mut about = about(&self.user, self.key.id, &self.from);
        about.other = is_theft_event(event).then_some(&self.owner);
        self.guard.shared.event(event, about);
    }
}

/// A theft has two parties.
fn is_theft_event(event: SessionEvent) -> bool {
    event == SessionEvent::Theft
}

/// Whether the end of the session told of the theft already.
fn is_theft(change: &Change) -> bool {
    match change {
        Change::End(reason) | Change::EndAllOfUser(reason) => *reason == EndReason::Theft,
        Change::Keep | Change::Write(_) => false,
    }
}

fn only_admits(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Admit(_)) && verdict.change == Change::Keep
}

fn ends_by_time(verdict: &Verdict) -> bool {
    match verdict.change {
        Change::End(EndReason::Idle | EndReason::NotRenewing) => true,
        Change::Keep | Change::Write(_) | Change::End(_) | Change::EndAllOfUser(_) => false,
    }
}

fn refusal_event(refusal: Refusal) -> SessionEvent {
    match refusal {
        Refusal::Theft => SessionEvent::Theft,
        Refusal::Future => SessionEvent::StoreWentBack,
        Refusal::Revoked
        | Refusal::Idle
        | Refusal::Absolute
        | Refusal::AfterCrash
        | Refusal::NotRenewing
        | Refusal::Mismatch
        | Refusal::Reauthenticate => SessionEvent::Refused(refusal.word()),
    }
}
