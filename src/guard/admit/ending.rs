//! A session ends by a decision.

use crate::clock::UnixMillis;
use crate::guard::recall::Whose;
use crate::guard::{Guard, about};
use crate::session::notice::{Kind, Notice};
use crate::session::{ClientContext, EndReason, SessionKey};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;

/// The end of one session, or of all of its user.
pub(super) struct Ending {
    pub(super) guard: Guard,
    pub(super) key: SessionKey,
    pub(super) reason: EndReason,
    pub(super) all: bool,
    /// Signals asked for it, not an old token.
    pub(super) demanded: bool,
    pub(super) forget_at: UnixMillis,
    pub(super) user: String,
    /// Who showed the token that ends it.
    pub(super) from: ClientContext,
    /// Who showed the current token first.
    pub(super) owner: ClientContext,
}

impl Ending {
    pub(super) async fn run(self) -> Result<(), Unavailable> {
        if self.reason == EndReason::Theft {
            self.event(SessionEvent::Theft);
        }
        self.withhold();
        let line = self.written().await.inspect_err(|_| self.withhold())?;
        self.event(SessionEvent::Ended(self.reason));
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
        let mut line = None;
        // The line first: once this session has its tombstone, nobody comes here again for the others.
        if self.all {
            let drawn = store.revoke_user(&self.key.tag, now, None).await?;
            known.saw_line(&self.key.tag, drawn.line);
            self.guard.shared.live.ended_by_line(Some(self.key.tag), drawn.line);
            line = Some(drawn.line.at);
        }
        store.end(&self.key, self.reason, now, self.forget_at).await?;
        known.ended(&self.key, self.reason, self.forget_at);
        self.guard.shared.live.ended(&self.key);
        Ok(line)
    }

    /// Tells the user at his next login, and forgets where only this session was seen.
    async fn tell(&self, line: Option<UnixMillis>) {
        let kind = match (self.demanded, self.all) {
            (true, true | false) => Kind::MovedEnded,
            (false, true) => Kind::TheftOfAll,
            (false, false) => Kind::Theft,
        };
        let (session, now) = (self.key.id, self.guard.now());
        let notice = Notice::new(kind, session, &self.from, Some(&self.owner), now);
        let whose = Whose { tag: self.key.tag, user: &self.user };
        let told = self.guard.remember(whose, |memo| {
            memo.stolen(session);
            memo.tell(notice.clone());
            memo.drew_for_theft(line.unwrap_or_default());
        });
        told.await;
    }

    fn event(&self, event: SessionEvent) {
        let mut about = about(&self.user, self.key.id, &self.from);
        about.other = is_theft_event(event).then_some(&self.owner);
        self.guard.shared.event(event, about);
    }
}

/// A theft has two parties.
pub(super) fn is_theft_event(event: SessionEvent) -> bool {
    event == SessionEvent::Theft
}
