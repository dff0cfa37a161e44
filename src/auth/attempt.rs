//! One attempt to authenticate a request, and the fallback during a store outage.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::UnixMillis;
use crate::connections::{CloseReason, EndSeq};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    Change, DecisionInput, EndReason, Identity, Outcome, Provider, Record, Refusal,
    RevocationCutoff, RiskRequirement, RotationTiming, SessionFacts, Token, Verdict, decide,
};
use crate::sessions::events::event_context;
use crate::sessions::verified_store::VerifiedStore;
use crate::sessions::{NewToken, UserHistories, global_revocation};
use crate::store::{DualInstant, Loaded, PendingLoad, Unavailable, VerifiedSession};
use crate::telemetry::SessionEvent;

use super::audited_write::{AuditedWrite, cutoff_reason};
use super::deny_reason::DenyReason;
use super::end_session::{DecidedEnd, is_theft_event};
use super::request::{AuthRequest, AuthenticatedSession};
use super::risk_assessment::RiskAssessment;

/// One attempt: load, decide, write.
pub(super) struct AuthAttempt<'a> {
    pub(super) store: &'a VerifiedStore,
    pub(super) histories: &'a UserHistories,
    pub(super) keys: &'a Arc<KeyRing>,
    pub(super) token: &'a Token,
    pub(super) request: &'a AuthRequest<'a>,
    pub(super) end_seq: EndSeq,
}

/// An admission that needs no write, apart from its activity.
pub(super) struct Admission {
    record: Arc<Record>,
    identity: Arc<Identity>,
    facts: SessionFacts,
    verdict: Verdict,
    /// Time of the decision.
    now: UnixMillis,
}

impl Admission {
    /// Whether nothing is left to do: no activity to record, and no account of a provider to confirm.
    pub(super) fn is_complete(&self) -> bool {
        !self.verdict.touch && self.record.identity.provider == Provider::Password
    }
}

impl AuthAttempt<'_> {
    /// Decides at once, on cached state that is proven current or on a local store. It can only admit: refusals,
    /// ends and writes need a load that may wait, because another gateway may have seen activity. `verified_at` is
    /// a time before the lookup, so a stalled process does not overestimate its freshness.
    pub(super) fn try_now(&self, verified_at: Instant) -> Option<Admission> {
        let (store, now) = (self.store, self.store.now());
        let at = DualInstant::new(verified_at, now);
        let session = store.verified_now(&self.token.key, at)?;
        let VerifiedSession { record, touched, user_cutoff, .. } = session;
        let global_cutoff = store.shared.cache.fresh_global_cutoff(at)?;
        let identity = store.shared.current_identity(&record).ok()?;
        let facts = SessionFacts { touched, user_cutoff, global_cutoff };
        if self.assess_risk(&record, &facts, now).is_some() {
            return None;
        }
        let verdict = self.decide(&record, &facts, now, self.request.timing, None);
        only_admits(&verdict).then_some(Admission { record, identity, facts, verdict, now })
    }

    /// Turns an admission whose activity is recorded into a result.
    pub(super) fn admit(
        &self,
        admission: Admission,
        verified_at: Instant,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let Admission { record, identity, facts, verdict, .. } = admission;
        self.finish(record, identity, facts, verdict, verified_at)
    }

    /// Records the activity of an admission.
    pub(super) async fn record_activity(&self, admission: &Admission) {
        if admission.verdict.touch {
            self.touch(&admission.record, admission.now).await;
        }
    }

    /// Runs one attempt; `None` if another request wrote first.
    pub(super) async fn run(
        &self,
        verified_at: Instant,
    ) -> Result<Option<AuthenticatedSession>, DenyReason> {
        let key = &self.token.key;
        let at = DualInstant::new(verified_at, self.store.now());
        let global_cutoff = self.global_cutoff(at).await?;
        let (loaded, verified, now) = self.load_verified(at).await?;
        let VerifiedSession { revision, record, touched, user_cutoff, needs_restore } = verified;
        let identity = match self.store.shared.current_identity(&record) {
            Ok(identity) => identity,
            // Refuses only this request: the users file of this gateway may be outdated.
            Err(reason) => {
                self.store.shared.connections.close_session(key, CloseReason::SessionEnded);
                self.emit(SessionEvent::Refused(reason.as_str()), &record);
                return Err(DenyReason::Ended(reason));
            }
        };
        let facts = SessionFacts { touched, user_cutoff, global_cutoff };
        let risk = self.assess_risk(&record, &facts, now);
        let timing = self.request.timing;
        let mut verdict = self.decide(&record, &facts, now, timing, risk.as_ref());
        if refuses_superseded(&verdict) && self.received_while_stalled(&record) {
            let again = "the request was received while the gateway was stalled; retry it";
            return Err(DenyReason::Unavailable(Unavailable(again.to_owned())));
        }
        if let Some(reason) =
            cutoff_reason(self.histories, &self.token.key, &record, &facts, &verdict).await
        {
            verdict.change = Change::End(reason);
        }
        if needs_restore && verdict.change == Change::Keep {
            verdict.change = Change::Write(Box::new(Record::clone(&record)));
        }
        // After a stall the load may be outdated while other gateways saw activity. A timeout ends
        // the session only if a second load returns the same.
        if ends_by_timeout(&verdict) && self.load_latest().await?.1 != loaded {
            return Ok(None);
        }
        let can_put_off = can_put_off(&verdict, risk.as_ref());
        match self.store_change(revision, &record, touched, &verdict, now, risk).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(DenyReason::Unavailable(_)) if can_put_off => verdict = without_rotation(),
            Err(reason) => return Err(reason),
        }
        self.finish(record, identity, facts, verdict, verified_at).map(Some)
    }

    /// Returns whether the token was valid when this process stalled. Requests received during the
    /// stall are handled after it, when another gateway may have rotated the token. They get a 503
    /// instead of a theft verdict.
    fn received_while_stalled(&self, record: &Record) -> bool {
        let since = self.store.shared.connections.stalled_since(Instant::now());
        since.is_some_and(|since| record.was_in_grace_at(self.token, since))
    }

    async fn global_cutoff(&self, at: DualInstant) -> Result<RevocationCutoff, DenyReason> {
        let store = self.store;
        match store.shared.cache.fresh_global_cutoff(at) {
            Some(cutoff) => Ok(cutoff),
            None => Box::pin(global_revocation::read_fresh(store, at))
                .await
                .map_err(|error| self.store_failed(error)),
        }
    }

    /// Loads and verifies the session. Returns the time after the load as well.
    async fn load_verified(
        &self,
        at: DualInstant,
    ) -> Result<(Loaded, VerifiedSession, UnixMillis), DenyReason> {
        let (store, key) = (self.store, &self.token.key);
        let loaded = store.load_at(key, at).await;
        let (load, loaded) = loaded.map_err(|error| self.store_failed(error))?;
        if let Some(verified) = store.shared.cache.confirm_unchanged(key, &load, &loaded) {
            return Ok((loaded, verified, store.now()));
        }
        let newest = Box::pin(store.reload_if_outdated(key, load, loaded)).await;
        let (load, loaded) = newest.map_err(|error| self.store_failed(error))?;
        let verified = store.verify(self.keys, key, &load, loaded.clone())?;
        Ok((loaded, verified, store.now()))
    }

    async fn load_latest(&self) -> Result<(PendingLoad, Loaded), DenyReason> {
        let loaded = Box::pin(self.store.load_latest(&self.token.key)).await;
        loaded.map_err(|error| self.store_failed(error))
    }

    fn decide(
        &self,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
        timing: RotationTiming,
        risk: Option<&RiskAssessment>,
    ) -> Verdict {
        decide(&DecisionInput {
            record,
            facts,
            token: self.token,
            keys: self.keys,
            now,
            random_salt: &random_bytes,
            client: self.request.context,
            policy: &self.store.settings.policy,
            route: self.request.policy,
            timing,
            activity: self.request.is_activity,
            risk: risk.map(RiskAssessment::action),
        })
    }

    /// Stores the change before the response; false if the swap was lost.
    async fn store_change(
        &self,
        revision: u64,
        record: &Arc<Record>,
        touched: UnixMillis,
        verdict: &Verdict,
        now: UnixMillis,
        risk: Option<RiskAssessment>,
    ) -> Result<bool, DenyReason> {
        match &verdict.change {
            Change::Keep => {
                if verdict.touch {
                    self.touch(record, now).await;
                }
                if let Some(risk) = &risk {
                    let (key, from) = (&self.token.key, self.request.context);
                    risk.emit(&self.store.shared, key, from, record, verdict);
                }
            }
            Change::Write(new) if AuditedWrite::needs_audit(verdict, risk.as_ref()) => {
                let written = self.write_audited(revision, record, new, verdict, risk);
                return Box::pin(written).await;
            }
            Change::Write(new) => {
                let swap = self.store.write_record(self.keys, &self.token.key, revision, new);
                return Box::pin(swap).await.map_err(|error| self.store_failed(error));
            }
            Change::End(reason) => {
                Box::pin(self.end_session(record, touched, *reason, verdict, risk)).await?;
            }
            Change::EndAllOfUser(reason) => {
                Box::pin(self.end_session(record, touched, *reason, verdict, risk)).await?;
            }
        }
        Ok(true)
    }

    async fn write_audited(
        &self,
        revision: u64,
        record: &Arc<Record>,
        after: &Record,
        verdict: &Verdict,
        risk: Option<RiskAssessment>,
    ) -> Result<bool, DenyReason> {
        let write = AuditedWrite {
            store: self.store.clone(),
            histories: self.histories.clone(),
            keys: Arc::clone(self.keys),
            key: self.token.key,
            revision,
            before: Arc::clone(record),
            after: Box::new(after.clone()),
            verdict: verdict.clone(),
            risk,
            client: self.request.context.clone(),
        };
        self.run_detached(write.run()).await
    }

    /// Runs to completion even if the client disconnects.
    async fn run_detached<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, DenyReason> {
        let changed = tokio::spawn(change).await;
        let changed = changed.unwrap_or_else(|error| Err(Unavailable(error.to_string())));
        changed.map_err(|error| self.store_failed(error))
    }

    /// Records activity. A failure shortens the idle timeout and does not affect the decision.
    async fn touch(&self, record: &Record, now: UnixMillis) {
        let store = &self.store.raw;
        if store.touch(&self.token.key, now, record.absolute_end).await.is_err() {
            self.store.shared.metrics.store_error();
        }
    }

    /// Ends the session in a task of its own. Otherwise an attacker could disconnect and cancel the
    /// revocation and its events.
    async fn end_session(
        &self,
        record: &Arc<Record>,
        touched: UnixMillis,
        reason: EndReason,
        verdict: &Verdict,
        risk: Option<RiskAssessment>,
    ) -> Result<(), DenyReason> {
        let ending = DecidedEnd {
            store: self.store.clone(),
            histories: self.histories.clone(),
            key: self.token.key,
            reason,
            all_of_user: matches!(verdict.change, Change::EndAllOfUser(_)),
            verdict: verdict.clone(),
            risk,
            record: Arc::clone(record),
            touched,
            client: self.request.context.clone(),
        };
        self.run_detached(ending.run()).await
    }

    /// Serves a stale session during an outage if the route allows it.
    pub(super) fn serve_stale(
        &self,
        error: Unavailable,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let stale = self.stale_session();
        if stale.is_none() {
            self.store.shared.outage.count_refused();
        }
        stale.ok_or(DenyReason::Unavailable(error))
    }

    /// Decides on the cached session. Only an admission counts: a refusal may be wrong.
    fn stale_session(&self) -> Option<AuthenticatedSession> {
        let (store, key) = (self.store, self.token.key);
        let (cache, now) = (&store.shared.cache, store.now());
        let at = DualInstant::new(Instant::now(), now);
        let (session, verified_at) = cache.stale(&key, self.request.serve_stale_for?, at)?;
        let VerifiedSession { record, touched, user_cutoff, .. } = session;
        let identity = store.shared.current_identity(&record).ok()?;
        let facts = SessionFacts { touched, user_cutoff, global_cutoff: cache.global_cutoff() };
        let risk = self.assess_risk(&record, &facts, now);
        match self.decide(&record, &facts, now, RotationTiming::Never, risk.as_ref()).outcome {
            Outcome::Refuse(_) => None,
            Outcome::Admit(_) => {
                store.shared.outage.count_served_stale();
                let (end_seq, verified_at) = (self.end_seq, verified_at.instant());
                Some(AuthenticatedSession {
                    key,
                    identity,
                    record,
                    facts,
                    token: None,
                    end_seq,
                    verified_at,
                    stale: true,
                })
            }
        }
    }

    /// Turns the stored decision into a result.
    fn finish(
        &self,
        record: Arc<Record>,
        identity: Arc<Identity>,
        facts: SessionFacts,
        verdict: Verdict,
        verified_at: Instant,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let before = record.generation;
        let theft_reported = is_theft_reported(&verdict);
        let ended_elsewhere = verdict.change == Change::End(EndReason::TheftElsewhere);
        let record = match verdict.change {
            Change::Write(new) => Arc::new(*new),
            Change::Keep | Change::End(_) | Change::EndAllOfUser(_) => record,
        };
        if record.generation > before {
            self.emit(SessionEvent::TokenRotated, &record);
        }
        match verdict.outcome {
            Outcome::Admit(next) => {
                let (key, end_seq) = (self.token.key, self.end_seq);
                let token = next.and_then(|next| {
                    let (now, end) = (self.store.now(), record.absolute_end);
                    NewToken::issue(self.keys, key, &next, now, end)
                });
                Ok(AuthenticatedSession {
                    key,
                    identity,
                    record,
                    facts,
                    token,
                    end_seq,
                    verified_at,
                    stale: false,
                })
            }
            Outcome::Refuse(_) if ended_elsewhere => {
                let reason = EndReason::TheftElsewhere;
                self.emit(SessionEvent::Refused(reason.as_str()), &record);
                Err(DenyReason::Ended(reason))
            }
            Outcome::Refuse(refusal) => {
                if !theft_reported {
                    self.emit(refusal_event(refusal), &record);
                }
                Err(DenyReason::Refused(refusal))
            }
        }
    }

    /// Assesses the risk of the request; `None` if there is nothing to assess.
    fn assess_risk(
        &self,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
    ) -> Option<RiskAssessment> {
        RiskAssessment::new(self.store, self.request, record, facts, now)
    }

    fn emit(&self, event: SessionEvent, record: &Record) {
        let mut context =
            event_context(&record.identity.user, self.token.key.id, self.request.context);
        context.other_client = is_theft_event(event).then_some(&record.rotated_from);
        self.store.shared.emit(event, context);
    }

    fn store_failed(&self, error: Unavailable) -> DenyReason {
        self.store.shared.outage.record_failure(&error);
        DenyReason::Unavailable(error)
    }
}

/// Returns whether the write already reported the theft.
fn is_theft_reported(verdict: &Verdict) -> bool {
    match &verdict.change {
        Change::End(reason) | Change::EndAllOfUser(reason) => *reason == EndReason::Theft,
        Change::Write(_) => verdict.outcome == Outcome::Refuse(Refusal::Theft),
        Change::Keep => false,
    }
}

fn only_admits(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Admit(_)) && verdict.change == Change::Keep
}

/// Returns whether an admitted request may continue without its change, because the store answers reads
/// only. A rotation, or the confirmation of one, happens later. A rotation that the risk assessment
/// requires must not wait.
fn can_put_off(verdict: &Verdict, risk: Option<&RiskAssessment>) -> bool {
    let required = risk.is_some_and(|risk| risk.action() == RiskRequirement::Rotate);
    matches!((&verdict.outcome, &verdict.change), (Outcome::Admit(_), Change::Write(_)))
        && !required
}

/// Returns the verdict that admits a request whose rotation is put off.
fn without_rotation() -> Verdict {
    let (outcome, change) = (Outcome::Admit(None), Change::Keep);
    Verdict { outcome, change, touch: false, refused_by_risk: false }
}

/// Returns whether a token was refused because it is superseded.
fn refuses_superseded(verdict: &Verdict) -> bool {
    let Outcome::Refuse(refusal) = verdict.outcome else { return false };
    match refusal {
        Refusal::Theft | Refusal::RestoredAfterCrash | Refusal::Superseded => {
            !verdict.refused_by_risk
        }
        Refusal::Revoked
        | Refusal::Idle
        | Refusal::Absolute
        | Refusal::RotationIgnored
        | Refusal::UnknownGeneration
        | Refusal::SecretMismatch
        | Refusal::Reauthenticate => false,
    }
}

fn ends_by_timeout(verdict: &Verdict) -> bool {
    match verdict.change {
        Change::End(EndReason::Idle | EndReason::RotationIgnored) => true,
        Change::Keep | Change::Write(_) | Change::End(_) | Change::EndAllOfUser(_) => false,
    }
}

fn refusal_event(refusal: Refusal) -> SessionEvent {
    match refusal {
        Refusal::Theft => SessionEvent::Theft,
        Refusal::UnknownGeneration => SessionEvent::GenerationAhead,
        Refusal::Revoked
        | Refusal::Superseded
        | Refusal::Idle
        | Refusal::Absolute
        | Refusal::RestoredAfterCrash
        | Refusal::RotationIgnored
        | Refusal::SecretMismatch
        | Refusal::Reauthenticate => SessionEvent::Refused(refusal.as_str()),
    }
}
