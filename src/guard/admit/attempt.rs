//! One load, one decision, one write; and what becomes of it while the store is away.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::UnixMillis;
use crate::guard::held::Held;
use crate::guard::known::Seen;
use crate::guard::live::Mark;
use crate::guard::{Cut, Denial, Guard, about};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    Case, Change, EndReason, Identity, NotBefore, Outcome, Record, Refusal, Standing, Timing,
    Token, Verdict, decide,
};
use crate::store::{Loaded, Unavailable};
use crate::telemetry::SessionEvent;

use super::ending::{Ending, is_theft_event};
use super::moved::Suspicion;
use super::tidings::Tidings;
use super::{Admitted, Visit};

/// One load, one decision, one write.
pub(super) struct Attempt<'a> {
    pub(super) guard: &'a Guard,
    pub(super) keys: &'a Arc<KeyRing>,
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
        let suspicion = self.moved(&record, &standing, now);
        let timing = self.visit.timing;
        let mut verdict = self.decide(&record, &standing, now, timing, suspicion.as_ref());
        if refuses_as_old(&verdict) && self.lay_unread(&record) {
            let again =
                "this gateway stood still, and the request is from before; it may come again";
            return Err(Denial::Unavailable(Unavailable(again.to_owned())));
        }
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
        if !self.write(revision, &record, &verdict, now, suspicion).await? {
            return Ok(None);
        }
        self.settle(record, identity, standing, verdict, checked).map(Some)
    }

    /// Whether the token was answered when this process stopped: what was sent while it stood still is
    /// read when it goes on, and others may have renewed meanwhile. An honest browser would be told that
    /// it is logged out, or be taken for a thief.
    fn lay_unread(&self, record: &Record) -> bool {
        let since = self.guard.shared.live.unread_since(Instant::now());
        since.is_some_and(|since| record.answered_at(self.token, since))
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
        suspicion: Option<&Suspicion>,
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
            demand: suspicion.map(Suspicion::demand),
        })
    }

    /// Stores what the decision changes, before any answer; false when the swap was lost.
    async fn write(
        &self,
        revision: u64,
        record: &Arc<Record>,
        verdict: &Verdict,
        now: UnixMillis,
        suspicion: Option<Suspicion>,
    ) -> Result<bool, Denial> {
        match &verdict.change {
            Change::Keep => {
                if verdict.touch {
                    self.touch(record, now).await;
                }
                if let Some(suspicion) = &suspicion {
                    let (key, from) = (&self.token.key, self.visit.context);
                    suspicion.tell(self.guard, key, from, record, verdict);
                }
            }
            Change::Write(new) if Tidings::has_any(verdict, suspicion.as_ref()) => {
                let told = self.write_and_tell(revision, record, new, verdict, suspicion);
                return Box::pin(told).await;
            }
            Change::Write(new) => {
                let swap = self.guard.write_record(self.keys, &self.token.key, revision, new);
                return Box::pin(swap).await.map_err(|error| self.away(error));
            }
            Change::End(reason) => {
                Box::pin(self.end(record, *reason, false, verdict, suspicion)).await?;
            }
            Change::EndAllOfUser(reason) => {
                Box::pin(self.end(record, *reason, true, verdict, suspicion)).await?;
            }
        }
        Ok(true)
    }

    async fn write_and_tell(
        &self,
        revision: u64,
        record: &Arc<Record>,
        written: &Record,
        verdict: &Verdict,
        suspicion: Option<Suspicion>,
    ) -> Result<bool, Denial> {
        let tidings = Tidings {
            guard: self.guard.clone(),
            keys: Arc::clone(self.keys),
            key: self.token.key,
            revision,
            before: Arc::clone(record),
            written: Box::new(written.clone()),
            verdict: verdict.clone(),
            suspicion,
            from: self.visit.context.clone(),
        };
        self.to_its_end(tidings.run()).await
    }

    /// Goes on when the client has gone.
    async fn to_its_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Denial> {
        let changed = tokio::spawn(change).await;
        let changed = changed.unwrap_or_else(|error| Err(Unavailable(error.to_string())));
        changed.map_err(|error| self.away(error))
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
        record: &Arc<Record>,
        reason: EndReason,
        all: bool,
        verdict: &Verdict,
        suspicion: Option<Suspicion>,
    ) -> Result<(), Denial> {
        let ending = Ending {
            guard: self.guard.clone(),
            key: self.token.key,
            reason,
            all,
            verdict: verdict.clone(),
            suspicion,
            record: Arc::clone(record),
            from: self.visit.context.clone(),
        };
        self.to_its_end(ending.run()).await
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
        let theft_is_told = tells_of_theft(&verdict);
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
                let (key, mark) = (self.token.key, self.mark);
                let token = next.and_then(|next| self.guard.mint(self.keys, key, &next));
                let unasked = false;
                Ok(Admitted { key, identity, record, standing, token, mark, checked, unasked })
            }
            Outcome::Refuse(_) if ended_elsewhere => {
                let reason = EndReason::TheftElsewhere;
                self.event(SessionEvent::Refused(reason.word()), &record);
                Err(Denial::Ended(reason))
            }
            Outcome::Refuse(refusal) => {
                if !theft_is_told {
                    self.event(refusal_event(refusal), &record);
                }
                Err(Denial::Refused(refusal))
            }
        }
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

/// Whether what was written told of the theft already.
fn tells_of_theft(verdict: &Verdict) -> bool {
    match &verdict.change {
        Change::End(reason) | Change::EndAllOfUser(reason) => *reason == EndReason::Theft,
        Change::Write(_) => verdict.outcome == Outcome::Refuse(Refusal::Theft),
        Change::Keep => false,
    }
}

fn only_admits(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Admit(_)) && verdict.change == Change::Keep
}

/// A token of before.
fn refuses_as_old(verdict: &Verdict) -> bool {
    let Outcome::Refuse(refusal) = verdict.outcome else { return false };
    match refusal {
        Refusal::Theft | Refusal::AfterCrash | Refusal::Superseded => !verdict.demanded,
        Refusal::Revoked
        | Refusal::Idle
        | Refusal::Absolute
        | Refusal::NotRenewing
        | Refusal::Future
        | Refusal::Mismatch
        | Refusal::Reauthenticate => false,
    }
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::clock::{Clock, UnixMillis};
    use crate::guard::everyone::tests::{enter, guard, log_in};
    use crate::guard::{Denial, Guard};
    use crate::message::Presented;
    use crate::session::{EndReason, Refusal};
    use crate::store::Store;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A gateway, the token that was renewed at minute ten and used until twelve, and the one before it.
    /// The gateway stopped at `stopped`, if it did, and has just gone on.
    async fn renewed(stopped: Option<Duration>) -> (Guard, Presented, Presented) {
        let begun = UnixMillis(1_000_000);
        let clock = Clock::manual(begun);
        let guard = guard(&Store::memory(clock.clone()), &clock);
        let old = log_in(&guard).await;
        clock.advance(10 * MINUTE);
        let offered = enter(&guard, &old).await.expect("it lives").expect("an offer");
        let new = Presented::One(offered.text.as_bytes().to_vec());
        enter(&guard, &new).await.expect("promoted");
        clock.advance(2 * MINUTE);
        enter(&guard, &new).await.expect("in use");
        if let Some(stopped) = stopped {
            let live = &guard.shared.live;
            live.beat(Instant::now(), begun.plus(stopped));
            live.beat(Instant::now() + 2 * MINUTE, guard.now());
        }
        (guard, old, new)
    }

    #[tokio::test]
    async fn what_lay_unread_while_this_process_stood_still_is_no_replay() {
        let (guard, old, new) = renewed(Some(10 * MINUTE + MINUTE / 2)).await;
        let denied = enter(&guard, &old).await.map(|_| ());
        assert!(matches!(denied, Err(Denial::Unavailable(_))), "{denied:?}");
        enter(&guard, &new).await.expect("it lives on");
    }

    #[tokio::test]
    async fn a_token_that_was_old_when_this_process_stopped_is_a_replay_as_ever() {
        for stopped in [None, Some(11 * MINUTE + MINUTE / 2)] {
            let (guard, old, new) = renewed(stopped).await;
            let denied = enter(&guard, &old).await.map(|_| ());
            assert_eq!(denied, Err(Denial::Refused(Refusal::Theft)), "{stopped:?}");
            let ended = enter(&guard, &new).await.map(|_| ());
            assert_eq!(ended, Err(Denial::Ended(EndReason::Theft)), "{stopped:?}");
        }
    }
}
