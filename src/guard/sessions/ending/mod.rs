//! Sessions are ended by their user or the operator.
//!
//! Each end is a task of its own: whoever asked for it may hang up, and what then ended would be in no
//! audit log.

use crate::session::{EndReason, SessionId, SessionKey, UserTag};
use crate::store::{Durability, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use super::Opened;
use crate::guard::Guard;

impl Guard {
    /// Ends one session. First the server's state, then the caller may clear a cookie.
    pub async fn end_session(
        &self,
        session: &Opened,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let (guard, session) = (self.clone(), session.clone());
        to_its_end(async move { guard.session_ended(&session, reason).await }).await
    }

    async fn session_ended(
        &self,
        session: &Opened,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let end = session.record.absolute_end;
        let withhold = || self.shared.known.withhold_one(&session.key);
        withhold();
        let ended = self.store.end(&session.key, reason, self.now(), end).await;
        // Again, here and below: what the cache knew may have let him in meanwhile.
        let durability = self.counted(ended).inspect_err(|_| withhold())?;
        self.shared.known.ended(&session.key, reason, end);
        self.shared.live.ended(&session.key);
        let about = About {
            user: &session.record.identity.user,
            session: Some(session.key.id),
            ..About::default()
        };
        self.shared.event(SessionEvent::Ended(reason), about);
        Ok(durability)
    }

    /// Ends all sessions of a user with one atomic write, but for `except`.
    pub async fn end_all(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let (guard, user) = (self.clone(), user.to_owned());
        to_its_end(async move { guard.all_ended(&user, except).await }).await
    }

    async fn all_ended(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let tag = UserTag(self.shared.keys.load().tag_of(user));
        let is_meant = |key: &SessionKey| key.tag == tag && Some(key.id) != except;
        let withhold = || self.shared.known.withhold(is_meant);
        withhold();
        let drawn = self.store.revoke_user(&tag, self.now(), except).await;
        let drawn = self.counted(drawn).inspect_err(|_| withhold())?;
        self.shared.known.saw_line(&tag, drawn.line);
        self.shared.live.ended_by_line(Some(tag), drawn.line);
        let about = About { user, ..About::default() };
        self.shared.event(SessionEvent::Ended(EndReason::Revoked), about);
        Ok(drawn.durability)
    }

    /// Ends every session of everybody; other gateways follow within a second or two.
    pub async fn end_everybody(&self) -> Result<Durability, Unavailable> {
        let guard = self.clone();
        to_its_end(async move { guard.everybody_ended().await }).await
    }

    async fn everybody_ended(&self) -> Result<Durability, Unavailable> {
        let withhold = || self.shared.known.withhold(|_| true);
        withhold();
        let drawn = self.store.revoke_everyone(self.now()).await;
        let drawn = self.counted(drawn).inspect_err(|_| withhold())?;
        self.shared.raise_everyone(drawn.line);
        let everybody = About { user: "*", ..About::default() };
        self.shared.event(SessionEvent::Ended(EndReason::Revoked), everybody);
        Ok(drawn.durability)
    }
}

/// Goes on when nobody waits for it any more.
async fn to_its_end(
    ending: impl Future<Output = Result<Durability, Unavailable>> + Send + 'static,
) -> Result<Durability, Unavailable> {
    let ended = tokio::spawn(ending).await;
    ended.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
}

#[cfg(test)]
mod tests;
