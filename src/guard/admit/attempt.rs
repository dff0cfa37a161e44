//! One load, one decision, one write; and what becomes of it while the store is away.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::UnixMillis;
use crate::guard::held::Held;
use crate::guard::known::Seen;
use crate::guard::live::Mark;
use crate::guard::{Cut, Denial, Guard, NewToken, about};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    Case, Change, Demand, EndReason, Identity, NotBefore, Outcome, Record, Refusal, Standing,
    Successor, Timing, Token, Verdict, decide,
};
use crate::signals::Report;
use crate::store::{Commit, Loaded, Unavailable};
use crate::telemetry::SessionEvent;

use super::ending::{Ending, is_theft_event};
use super::{Admitted, Visit};

/// One load, one decision, one write.
pub(super) struct Attempt<'a> {
    pub(super) guard: &'a Guard,
    pub(super) keys: &'a KeyRing,
    pub(super) token: &'a Token,
    pub(super) visit: &'a Visit<'a>,
    pub(super) mark: Mark,
}

impl Attempt<'_> {
    /// Decides on what is known without asking the store, which may only admit. A refusal, an end and a
    /// write are decided on a load: activity at another gateway, for one, is not known here, and would
    /// let this one end a session that is in use. `checked` is a time before what is known was read: a
    /// process that is stopped in between must not take it for newer than it is.
    pub(super) async fn known(&self, checked: Instant) -> Option<Admitted> {
        let (guard, key) = (self.guard, &self.token.key);
        let loaded = guard.store.known(key)?;
        let now = guard.now();
        let everyone = guard.everyone_if_fresh(checked, now)?;
        let held = guard.hold_unchanged(key, &loaded, checked, now)?;
        let Held { record, touched, not_before, .. } = held;
        let identity = guard.account(&record).ok()?;
        let standing = Standing { touched, not_before, everyone };
        if self.moved(&record, &standing, now).is_some() {
            return None;
        }
        let verdict = self.decide(&record, &standing, now, self.visit.timing, None);
        if !only_admits(&verdict) {
            return None;
        }
        if verdict.touch {
            self.touch(&record, now).await;
        }
        self.settle(record, identity, standing, verdict, checked).ok()
    }

    /// `None` when another request's write came first: load and decide again.
    pub(super) async fn run(&self, checked: Instant) -> Result<Option<Admitted>, Denial> {
        let key = &self.token.key;
        let everyone = self.everyone(checked).await?;
        let (loaded, held, now) = self.hold(checked).await?;
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
        let moved = self.moved(&record, &standing, now);
        let mut verdict = self.decide(&record, &standing, now, self.visit.timing, moved.as_ref());
        if let Some(reason) = self.reason_of_line(&record, &standing, &verdict).await {
            verdict.change = Change::End(reason);
        }
        if restore && verdict.change == Change::Keep {
            verdict.change = Change::Write(Box::new(Record::clone(&record)));
        }
        // A gateway that was stopped for a while after its load would end a session that others kept
        // alive meanwhile: what only time ends, ends on a load that is still true.
        if ends_by_time(&verdict) && self.load().await? != loaded {
            return Ok(None);
        }
        if !self.write(revision, &record, &verdict, now, moved.as_ref()).await? {
            return Ok(None);
        }
        self.remember(moved.as_ref(), &record, &verdict).await;
        if let Some(report) = &moved {
            self.tell_of_move(report, &record, &verdict);
        }
        self.settle(record, identity, standing, verdict, checked).map(Some)
    }

    async fn everyone(&self, at: Instant) -> Result<NotBefore, Denial> {
        let guard = self.guard;
        match guard.everyone_if_fresh(at, guard.now()) {
            Some(line) => Ok(line),
            None => Box::pin(guard.everyone()).await.map_err(|error| self.away(error)),
        }
    }

    /// What the store has, what holds of it, and when: a load may have taken its time.
    async fn hold(&self, asked: Instant) -> Result<(Loaded, Held, UnixMillis), Denial> {
        let (guard, key) = (self.guard, &self.token.key);
        let loaded = guard.store.load(key).await.map_err(|error| self.away(error))?;
        let now = guard.now();
        if let Some(held) = guard.hold_unchanged(key, &loaded, asked, now) {
            return Ok((loaded, held, now));
        }
        let newest = Box::pin(guard.newest(key, loaded)).await;
        let loaded = newest.map_err(|error| self.away(error))?;
        let held = guard.hold(self.keys, key, loaded.clone(), asked)?;
        Ok((loaded, held, guard.now()))
    }

    async fn load(&self) -> Result<Loaded, Denial> {
        let loaded = Box::pin(self.guard.load(&self.token.key)).await;
        loaded.map_err(|error| self.away(error))
    }

    fn decide(
        &self,
        record: &Record,
        standing: &Standing,
        now: UnixMillis,
        timing: Timing,
        moved: Option<&Report>,
    ) -> Verdict {
        decide(&Case {
            record,
            standing,
            presented: self.token,
            keys: self.keys,
            now,
            salt: &random_bytes,
            context: self.visit.context,
            session: &self.guard.shared.policy,
            route: self.visit.policy,
            timing,
            activity: self.visit.activity,
            demand: moved.map(|report| self.demand(report)),
        })
    }

    /// Stores what the decision changes, before any answer; false when the swap was lost.
    async fn write(
        &self,
        revision: u64,
        record: &Record,
        verdict: &Verdict,
        now: UnixMillis,
        moved: Option<&Report>,
    ) -> Result<bool, Denial> {
        match &verdict.change {
            Change::Keep if verdict.touch => self.touch(record, now).await,
            Change::Keep => {}
            Change::Write(new) => return self.swap(revision, new).await,
            Change::End(reason) => self.end(record, *reason, false, moved).await?,
            Change::EndAllOfUser(reason) => self.end(record, *reason, true, moved).await?,
        }
        Ok(true)
    }

    async fn swap(&self, revision: u64, new: &Record) -> Result<bool, Denial> {
        let sealed = new.seal(self.keys, &self.token.key);
        let (store, asked) = (&self.guard.store, Instant::now());
        let commit = store.commit(&self.token.key, revision, &sealed, new.absolute_end).await;
        let swapped = commit.map_err(|error| self.away(error))? == Commit::Swapped;
        if swapped {
            let (known, key) = (&self.guard.shared.known, &self.token.key);
            let record = Arc::new(new.clone());
            let seen = known.keep(key, revision.saturating_add(1), sealed.into(), record);
            known.vouch(&seen, asked, self.guard.now(), seen.touched());
        }
        Ok(swapped)
    }

    /// A touch that fails costs the user at most some idle time; the request was already decided.
    async fn touch(&self, record: &Record, now: UnixMillis) {
        let store = &self.guard.store;
        if store.touch(&self.token.key, now, record.absolute_end).await.is_err() {
            self.guard.shared.metrics.store_error();
        }
    }

    /// In a task of its own: a client that hangs up takes its request along, and a thief who does so at
    /// once would escape half of the end and the alarm.
    async fn end(
        &self,
        record: &Record,
        reason: EndReason,
        all: bool,
        moved: Option<&Report>,
    ) -> Result<(), Denial> {
        let demanded = moved.is_some_and(|report| self.demand(report) == Demand::End);
        let ending = Ending {
            guard: self.guard.clone(),
            key: self.token.key,
            reason,
            all,
            demanded,
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
    pub(super) fn serve_known(&self, error: Unavailable) -> Result<Admitted, Denial> {
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
        let now = guard.now();
        let checked = known.vouched_within(&seen, self.visit.serve_known_for?, now)?;
        let identity = guard.account(&seen.record).ok()?;
        let (touched, not_before) = (seen.touched(), known.line(&key.tag));
        let standing = Standing { touched, not_before, everyone: guard.shared.everyone.line() };
        let moved = self.moved(&seen.record, &standing, now);
        match self.decide(&seen.record, &standing, now, Timing::Never, moved.as_ref()).outcome {
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
        let ended_elsewhere = verdict.change == Change::End(EndReason::TheftElsewhere);
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
            Outcome::Refuse(_) if ended_elsewhere => {
                let reason = EndReason::TheftElsewhere;
                self.event(SessionEvent::Refused(reason.word()), &record);
                Err(Denial::Ended(reason))
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
        | Refusal::Superseded
        | Refusal::Idle
        | Refusal::Absolute
        | Refusal::AfterCrash
        | Refusal::NotRenewing
        | Refusal::Mismatch
        | Refusal::Reauthenticate => SessionEvent::Refused(refusal.word()),
    }
}
