//! Fixtures for the unit tests of sessions and authentication.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};
use crate::connections::{SessionSnapshot, TrackingLimits, TrackingSettings};
use crate::identity::{Account, Cost, Credential};
use crate::message::CookieLookup;
use crate::secret::KeyRing;
use crate::session::{
    ClientContext, Identity, OnReuse, Record, SessionId, SessionKey, SessionPolicy, Token, UserTag,
};
use crate::store::Store;

use super::end_cause::SessionInfo;
use super::service::{RecoverableSession, Sessions};
use super::settings::SessionSettings;
use super::shared::{Shared, SharedParts};

pub(crate) fn sessions(store: &Store, clock: &Clock) -> Sessions {
    let [day, minute] = [Duration::from_hours(24), Duration::from_mins(1)];
    let policy = SessionPolicy::new(day, day, minute * 10, minute, OnReuse::Revoke);
    let policy = policy.expect("a policy");
    let limits = TrackingLimits { total: 1, per_session: 1, unchecked_for: minute };
    let tracking = TrackingSettings { limits, policy: policy.clone(), routes: Arc::default() };
    let keys = KeyRing::generate("now");
    let shared = Shared::new(SharedParts::new(store, keys, clock.clone(), tracking));
    Sessions::new(store.clone(), Arc::new(shared), Arc::new(SessionSettings::new(policy)))
}

pub(crate) fn client() -> ClientContext {
    ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test")
}

pub(crate) async fn log_in(sessions: &Sessions) -> CookieLookup {
    let identity = Identity { user: "alice".to_owned(), ..Identity::default() };
    let cost = Cost::Argon2id { m: 256, t: 1, p: 1 };
    let password = Credential::hash("correct horse battery staple", cost).expect("a hash");
    let account = Account::new(identity, password, false);
    let created =
        sessions.create_session(&(&account).into(), &CookieLookup::Missing, client()).await;
    CookieLookup::One(created.expect("created").token.as_bytes().to_vec())
}

pub(crate) async fn live_session(sessions: &Sessions) -> SessionInfo {
    let cookie = log_in(sessions).await;
    let found = sessions.find_recoverable(&cookie).await.expect("available");
    RecoverableSession::into_infos(found).pop().expect("a live session")
}

/// Returns a snapshot of a session that the store does not contain.
pub(crate) fn snapshot(sessions: &Sessions) -> SessionSnapshot {
    let key = SessionKey { tag: UserTag([1; 8]), id: SessionId([7; 16]) };
    let token = Token::new(1, key, 0, [7; 32]);
    let (created, end) = (UnixMillis(1_000), UnixMillis(1_000).plus(Duration::from_hours(2)));
    let record = Record::new(Identity::default(), &token, created, end, client());
    SessionSnapshot {
        key,
        record: Arc::new(record),
        touched: created,
        end_seq: sessions.shared().connections.end_seq(),
        verified_at: Instant::now(),
        stale: false,
    }
}
