//! A session ends by a decision.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::guard::recall::Whose;
use crate::guard::{Guard, about};
use crate::session::notice::{Kind, Notice};
use crate::session::{ClientContext, EndReason, Record, SessionKey, Verdict};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;

use super::moved::Suspicion;

/// The end of one session, or of all of its user.
pub(super) struct Ending {
    pub(super) guard: Guard,
    pub(super) key: SessionKey,
    pub(super) reason: EndReason,
    pub(super) all: bool,
    pub(super) verdict: Verdict,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) record: Arc<Record>,
    /// Who showed the token that ends it.
    pub(super) from: ClientContext,
}

impl Ending {
    pub(super) async fn run(self) -> Result<(), Unavailable> {
        if self.reason == EndReason::Theft {
            self.event(SessionEvent::Theft);
        }
        self.withhold();
        let line = self.written().await.inspect_err(|_| self.withhold())?;
        self.event(SessionEvent::Ended(self.reason));
        if let Some(suspicion) = &self.suspicion {
            suspicion.tell(&self.guard, &self.key, &self.from, &self.record, &self.verdict);
        }
        if self.reason == EndReason::Theft {
            self.tell(line).await;
        }
        Ok(())
    }

    fn withhold(&self) {
        let known = &self.guard.shared.known;
        match self.all {
            true => known.withhold(|key| key.tag == self.key.tag),
            false => known.withhold_one(&self.key),
        }
    }

    /// Answers with the line that was drawn, if any.
    async fn written(&self) -> Result<Option<UnixMillis>, Unavailable> {
        let (store, now) = (&self.guard.store, self.guard.now());
        let known = &self.guard.shared.known;
        let (mut line, forget_at) = (None, self.record.absolute_end);
        // The line first: once this session has its tombstone, nobody comes here again for the others.
        if self.all {
            let drawn = store.revoke_user(&self.key.tag, now, None).await?;
            known.saw_line(&self.key.tag, drawn.line);
            self.guard.shared.live.ended_by_line(Some(self.key.tag), drawn.line);
            line = Some(drawn.line.at);
        }
        store.end(&self.key, self.reason, now, forget_at).await?;
        known.ended(&self.key, self.reason, forget_at);
        self.guard.shared.live.ended(&self.key);
        Ok(line)
    }

    /// Tells the user at his next login, and forgets where only this session was seen.
    async fn tell(&self, line: Option<UnixMillis>) {
        let kind = match (self.verdict.demanded, self.all) {
            (true, true | false) => Kind::MovedEnded,
            (false, true) => Kind::TheftOfAll,
            (false, false) => Kind::Theft,
        };
        let (session, now) = (self.key.id, self.guard.now());
        let notice = Notice::new(kind, session, &self.from, Some(self.owner()), now);
        let whose = Whose { tag: self.key.tag, user: &self.record.identity.user };
        let told = self.guard.remember(whose, |memo| {
            memo.stolen(session);
            memo.tell(notice.clone());
            memo.drew_for_theft(line.unwrap_or_default());
        });
        told.await;
    }

    /// Who showed the current token first.
    fn owner(&self) -> &ClientContext {
        &self.record.renewed_from
    }

    fn event(&self, event: SessionEvent) {
        let mut about = about(&self.record.identity.user, self.key.id, &self.from);
        about.other = is_theft_event(event).then_some(self.owner());
        self.guard.shared.event(event, about);
    }
}

/// A theft has two parties.
pub(super) fn is_theft_event(event: SessionEvent) -> bool {
    event == SessionEvent::Theft
}
