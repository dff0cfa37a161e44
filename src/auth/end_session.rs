//! Ends a session because of a decision.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::session::notice::{NoticeKind, SecurityNotice};
use crate::session::{
    ClientContext, EndReason, Record, SessionDeadlines, SessionFacts, SessionId, SessionKey,
    Verdict,
};
use crate::sessions::end_report::{lifetime, report_revoked};
use crate::sessions::events::event_context;
use crate::sessions::verified_store::VerifiedStore;
use crate::sessions::{EndCause, UserHistories, UserRef};
use crate::store::{SessionListing, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::{Actor, SessionLifetime};

use super::risk_assessment::RiskAssessment;

/// The end of one session, or of all sessions of its user.
pub(super) struct DecidedEnd {
    pub(super) store: VerifiedStore,
    pub(super) histories: UserHistories,
    pub(super) key: SessionKey,
    pub(super) reason: EndReason,
    pub(super) all_of_user: bool,
    pub(super) verdict: Verdict,
    pub(super) risk: Option<RiskAssessment>,
    pub(super) record: Arc<Record>,
    /// Last stored activity.
    pub(super) touched: UnixMillis,
    /// Client that sent the token.
    pub(super) client: ClientContext,
}

/// A written end.
struct EndWritten {
    /// The user's cutoff, if one was set.
    cutoff: Option<UnixMillis>,
    /// Whether no other request ended the session before.
    is_first: bool,
}

impl DecidedEnd {
    pub(super) async fn run(self) -> Result<(), Unavailable> {
        if self.reason == EndReason::Theft {
            self.emit(SessionEvent::Theft);
        }
        self.suspend();
        let EndWritten { cutoff, is_first } = self.write().await.inspect_err(|_| self.suspend())?;
        if is_first && !self.is_reported() {
            self.emit_end();
        }
        if let Some(risk) = &self.risk {
            risk.emit(&self.store.shared, &self.key, &self.client, &self.record, &self.verdict);
        }
        if self.reason == EndReason::Theft {
            self.notify_user(cutoff).await;
        }
        Ok(())
    }

    fn suspend(&self) {
        let cache = &self.store.shared.cache;
        match self.all_of_user {
            true => cache.suspend_matching(|key| key.tag == self.key.tag),
            false => cache.suspend(&self.key),
        }
    }

    /// Whether the end was reported with the revocation of which it is a consequence.
    fn is_reported(&self) -> bool {
        matches!(self.reason, EndReason::Revoked | EndReason::TheftElsewhere)
    }

    async fn write(&self) -> Result<EndWritten, Unavailable> {
        let (store, now) = (&self.store.raw, self.store.now());
        let cache = &self.store.shared.cache;
        let (mut cutoff, forget_at) = (None, self.record.absolute_end);
        // The cutoff comes first: after the tombstone, no later request would retry it.
        if self.all_of_user {
            // Only for the report.
            let listed = store.list_user(&self.key.tag).await.unwrap_or_default();
            let revoked = store.revoke_user(&self.key.tag, now, None).await?;
            self.report_others(&listed, revoked.ended);
            cache.insert_cutoff(&self.key.tag, revoked.cutoff);
            self.store.shared.connections.revoked(Some(self.key.tag), revoked.cutoff);
            cutoff = Some(revoked.cutoff.at);
        }
        let ended = store.end(&self.key, self.reason, now, forget_at).await?;
        cache.insert_end(&self.key, self.reason, forget_at);
        self.store.shared.connections.session_ended(&self.key);
        Ok(EndWritten { cutoff, is_first: ended.is_first })
    }

    /// Reports the other sessions of the user, which end because this one was stolen.
    fn report_others(&self, listed: &[SessionListing], mut ended: Vec<SessionId>) {
        ended.retain(|id| *id != self.key.id);
        let cause = EndCause::gateway(EndReason::TheftElsewhere);
        report_revoked(&self.store, &self.key.tag, listed, &ended, &cause);
    }

    /// Records a notice for the user, and removes locations known only from this session.
    async fn notify_user(&self, cutoff: Option<UnixMillis>) {
        let kind = match (self.verdict.refused_by_risk, self.all_of_user) {
            (true, true | false) => NoticeKind::LocationChangeEnded,
            (false, true) => NoticeKind::TheftAllSessions,
            (false, false) => NoticeKind::Theft,
        };
        let (session, now) = (self.key.id, self.store.now());
        let notice = SecurityNotice::new(kind, session, &self.client, Some(self.owner()), now);
        let user = UserRef { tag: self.key.tag, user: &self.record.identity.user };
        let update = self.histories.update_best_effort(user, |history| {
            history.remove_stolen_session(session);
            history.add_notice(notice.clone());
            history.record_theft_cutoff(cutoff.unwrap_or_default());
        });
        update.await;
    }

    /// Returns the first client of the current token.
    fn owner(&self) -> &ClientContext {
        &self.record.rotated_from
    }

    /// Reports the end, with the timeout that caused it.
    fn emit_end(&self) {
        let policy = &self.store.settings.policy;
        let facts = SessionFacts { touched: self.touched, ..SessionFacts::default() };
        let deadlines = SessionDeadlines::new(self.key.id, &self.record, &facts, policy);
        let now = self.store.now();
        let is_timeout = matches!(self.reason, EndReason::Idle | EndReason::Absolute);
        let lifetime = match deadlines.expiry(now).filter(|_| is_timeout) {
            Some(expiry) => lifetime(&self.record, &deadlines, expiry, policy).1,
            None => SessionLifetime {
                created: self.record.created,
                last_active: deadlines.last_active,
                ended: now,
                limit: None,
            },
        };
        let mut context = event_context(&self.record.identity.user, self.key.id, &self.client);
        context.actor = Some(&Actor::Gateway);
        context.lifetime = Some(lifetime);
        self.store.shared.emit(SessionEvent::Ended(self.reason), context);
    }

    fn emit(&self, event: SessionEvent) {
        let mut context = event_context(&self.record.identity.user, self.key.id, &self.client);
        context.other_client = is_theft_event(event).then_some(self.owner());
        self.store.shared.emit(event, context);
    }
}

/// Returns whether the event names a second client.
pub(super) fn is_theft_event(event: SessionEvent) -> bool {
    event == SessionEvent::Theft
}
