//! The commands of the revocation cutoffs.

use super::commands::{RedisStore, to_lua_number};
use super::keys::{
    GLOBAL_CUTOFF, LATEST_FUTURE_CREATED, UserKeys, encode_id, global_target, parse_id, user_target,
};
use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionId, UserTag};
use crate::store::entry::CUTOFF_RETENTION;
use crate::store::revocation_log::Revocation;
use crate::store::types::{Revoked, StoreChange, Unavailable};

impl RedisStore {
    pub(in crate::store) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<Revoked<RevocationCutoff>, Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::UserCutoff(*tag));
        let keys = UserKeys::new(tag);
        let mut call = self.scripts.revoke_user.call();
        call.key(keys.cutoff())
            .key(keys.index())
            .arg(to_lua_number(now))
            .arg(except.map(encode_id).unwrap_or_default())
            .arg(u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX));
        let (reply, durability) = self.run_replicated(user_target(tag), &call).await?;
        let reply: Vec<Vec<u8>> = reply;
        let cutoff = self.parse_cutoff(reply.first().cloned())?;
        self.record(Revocation::UserCutoff { tag: *tag, cutoff });
        let ended = reply.iter().skip(1).filter_map(|id| parse_id(id)).collect();
        Ok(Revoked { cutoff, durability, ended })
    }

    /// Restores a user's cutoff. It revokes the same sessions as before and no newer ones.
    pub(in crate::store) async fn restore_user_cutoff(
        &self,
        tag: &UserTag,
        cutoff: RevocationCutoff,
    ) -> Result<(), Unavailable> {
        let mut call = self.scripts.restore_cutoff.call();
        call.key(UserKeys::new(tag).cutoff())
            .arg(to_lua_number(cutoff.at))
            .arg(cutoff.except.map(encode_id).unwrap_or_default())
            .arg(u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX));
        self.run::<i64>(user_target(tag), &call).await.map(|_| ())
    }

    pub(in crate::store) async fn user_cutoff(
        &self,
        tag: &UserTag,
    ) -> Result<RevocationCutoff, Unavailable> {
        let cutoff = self.read(user_target(tag), &UserKeys::new(tag).cutoff()).await?;
        Ok(self.shared().revocation_log.user_cutoff(tag, self.parse_cutoff(cutoff)?))
    }

    pub(in crate::store) async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<Revoked<UnixMillis>, Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::GlobalCutoff);
        let mut call = self.scripts.revoke_all_users.call();
        call.key(GLOBAL_CUTOFF.to_owned())
            .key(LATEST_FUTURE_CREATED.to_owned())
            .arg(to_lua_number(now));
        let (cutoff, durability) = self.run_replicated(global_target(), &call).await?;
        let cutoff = self.parse_millis(Some(cutoff))?;
        self.record(Revocation::GlobalCutoff { cutoff });
        Ok(Revoked { cutoff, durability, ended: Vec::new() })
    }

    /// Advances the global cutoff to at least `cutoff`.
    pub(in crate::store) async fn restore_global_cutoff(
        &self,
        cutoff: UnixMillis,
    ) -> Result<(), Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::GlobalCutoff);
        let mut call = self.scripts.advance_time.call();
        call.key(GLOBAL_CUTOFF.to_owned()).arg(to_lua_number(cutoff));
        self.run::<String>(global_target(), &call).await.map(|_| ())
    }

    pub(in crate::store) async fn global_cutoff(&self) -> Result<UnixMillis, Unavailable> {
        let cutoff = self.read(global_target(), GLOBAL_CUTOFF).await?;
        Ok(self.shared().revocation_log.global_cutoff(self.parse_millis(cutoff)?))
    }
}
