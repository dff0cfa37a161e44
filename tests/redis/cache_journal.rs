//! A rollback of the store: a restart from an old snapshot, a flush, a deleted key. Revoked
//! sessions stay revoked: at once at the gateway that revoked them, and soon at the others.
//!
//! Each test names the code in `src/store` without which it fails.

use std::time::{Duration, Instant};

use crate::gateway_store::{GatewayStore, random_key, wait_until};
use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, RevocationCutoff, SessionId, SessionKey};
use doorward::store::{Slot, Store};
use test_support::redis_server::{RedisOptions, RedisServer};

const TIMEOUT: Duration = Duration::from_secs(20);
const LATER: UnixMillis = UnixMillis(u64::MAX);

/// A gateway that revokes, and a store without invalidation that reads the plain state of Redis.
struct Two {
    server: RedisServer,
    gateway: GatewayStore,
    other_store: Store,
    now: UnixMillis,
}

impl Two {
    async fn start() -> Two {
        let server = RedisServer::start(RedisOptions::default());
        let gateway = GatewayStore::connect(&server.settings()).await;
        let other_store = Store::redis(&server.settings()).expect("good settings");
        Two { server, gateway, other_store, now: Clock::System.now() }
    }

    async fn session(&self, of: SessionKey, created: UnixMillis) -> SessionKey {
        self.gateway.store.create(&of, b"sealed", created, LATER).await.expect("available");
        of
    }

    /// Returns the state in Redis.
    async fn slot(&self, key: &SessionKey) -> Option<Slot> {
        self.other_store.load(key).await.ok().map(|loaded| loaded.slot)
    }

    async fn cutoff(&self, key: &SessionKey) -> Option<RevocationCutoff> {
        self.other_store.load(key).await.ok().map(|loaded| loaded.user_cutoff)
    }

    async fn wait_until_ended(&self, key: &SessionKey) -> Duration {
        let started = Instant::now();
        while !matches!(self.slot(key).await, Some(Slot::Ended { .. })) {
            assert!(started.elapsed() < TIMEOUT, "the tombstone is not restored");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    }

    /// Saves a snapshot, from which a restart loads.
    fn snapshot(&self) {
        assert_eq!(self.server.command(&["SAVE"]), "+OK");
    }
}

/// Relies on: `RevocationLog::apply` in `RedisStore::load`, and
/// `InvalidationListener::check_server_identity` for other gateways.
#[tokio::test]
async fn a_revoked_session_stays_revoked_after_an_old_snapshot() {
    let mut two = Two::start().await;
    let key = two.session(random_key(), two.now).await;
    let other = two.session(crate::gateway_store::random_key(), two.now).await;
    two.snapshot();
    two.gateway.store.end(&key, EndReason::Revoked, two.now, LATER).await.expect("available");
    two.server.restart();
    assert!(matches!(two.slot(&key).await, Some(Slot::Live { .. })), "the snapshot is older");
    let gateway = two.gateway.load(&key).await.slot;
    assert_eq!(gateway, Slot::Ended { reason: EndReason::Revoked, at: two.now });
    println!("restored {:?} after the restart", two.wait_until_ended(&key).await);
    assert!(matches!(two.slot(&other).await, Some(Slot::Live { .. })), "other sessions stay live");
}

/// Relies on: the script that restores a cutoff revokes the same sessions as before and no newer ones.
#[tokio::test]
async fn a_lost_cutoff_is_restored_without_revoking_newer_logins() {
    let mut two = Two::start().await;
    let old = two.session(random_key(), two.now).await;
    let kept = two.session(SessionKey { id: SessionId([7; 16]), ..old }, two.now).await;
    let cutoff = two.gateway.store.revoke_user(&old.tag, two.now, Some(kept.id)).await;
    let cutoff = cutoff.expect("available").cutoff;
    let since = two.now.plus(Duration::from_secs(60));
    let new = two.session(SessionKey { id: SessionId([8; 16]), ..old }, since).await;
    let name = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&old.tag.0));
    assert_eq!(two.server.command(&["DEL", &name]), ":1");
    two.snapshot();
    two.server.restart();
    assert_eq!(two.gateway.load(&old).await.user_cutoff, cutoff, "applied to each load");
    let deadline = Instant::now() + TIMEOUT;
    while two.cutoff(&old).await != Some(cutoff) {
        assert!(Instant::now() < deadline, "the cutoff is not restored");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(cutoff.revokes(old.id, two.now) && !cutoff.revokes(kept.id, two.now));
    assert!(!cutoff.revokes(new.id, since), "a newer login is not revoked");
}

/// Relies on: a push without keys counts as a rollback, and so does a missing heartbeat. Either is
/// enough; the push is faster.
#[tokio::test]
async fn tombstones_are_restored_after_a_flush() {
    let two = Two::start().await;
    let key = two.session(random_key(), two.now).await;
    two.gateway.store.end(&key, EndReason::Theft, two.now, LATER).await.expect("available");
    let cutoff = two.gateway.store.revoke_all_users(two.now).await.expect("available").cutoff;
    assert_eq!(two.server.command(&["FLUSHALL"]), "+OK");
    two.wait_until_ended(&key).await;
    assert_eq!(two.other_store.global_cutoff().await, Ok(cutoff), "the global cutoff too");
}

/// Relies on: a missing heartbeat.
#[tokio::test]
async fn a_missing_heartbeat_counts_as_a_rollback() {
    let two = Two::start().await;
    let key = two.session(random_key(), two.now).await;
    two.gateway.store.end(&key, EndReason::Logout, two.now, LATER).await.expect("available");
    let lose = "for _, key in ipairs(redis.call('KEYS', 'dw:*')) do redis.call('DEL', key) end";
    two.server.command(&["EVAL", lose, "0"]);
    two.wait_until_ended(&key).await;
}

#[tokio::test]
async fn a_corrupted_cutoff_is_replaced_and_blocks_no_other_restore() {
    let two = Two::start().await;
    let spoiled = two.session(random_key(), two.now).await;
    let key = two.session(crate::gateway_store::random_key(), two.now).await;
    let cutoff = two.gateway.store.revoke_user(&spoiled.tag, two.now, None).await;
    let cutoff = cutoff.expect("available").cutoff;
    two.gateway.store.end(&key, EndReason::Revoked, two.now, LATER).await.expect("available");
    let name = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&spoiled.tag.0));
    let lose = "for _, key in ipairs(redis.call('KEYS', 'dw:*')) do redis.call('DEL', key) end";
    let spoil = format!("{lose} redis.call('SET', KEYS[1], 'no cutoff')");
    two.server.command(&["EVAL", &spoil, "1", &name]);
    two.wait_until_ended(&key).await;
    let deadline = Instant::now() + TIMEOUT;
    while two.cutoff(&spoiled).await != Some(cutoff) {
        assert!(Instant::now() < deadline, "the cutoff is not restored");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Redis refuses the writes of cutoffs, and nothing else.
const WITHOUT_CUTOFFS: &str =
    "ACL SETUSER gate resetkeys %R~* ~dw:s:* ~dw:t:* ~dw:u:* ~dw:everyone ~dw:ahead:* ~dw:z:*";

/// Returns how many script calls Redis has refused.
fn refused_scripts(stats: &str) -> u64 {
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    let count = line.and_then(|line| line.split_once("rejected_calls=")).map_or("", |(_, it)| it);
    count.split(',').next().and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// Relies on: `run_restore` continues after a failure and retries it.
#[tokio::test]
async fn a_refused_restore_is_retried_and_blocks_no_other() {
    let two = Two::start().await;
    let command = |text: &str| two.server.command(&text.split(' ').collect::<Vec<_>>());
    assert_eq!(command("ACL SETUSER gate on >pw +@all ~* &*"), "+OK");
    let mut settings = two.server.settings();
    settings.username = Some("gate".to_owned());
    settings.password = Some("pw".to_owned().into());
    let gateway = GatewayStore::connect(&settings).await;
    let revoked = random_key();
    let ended = SessionKey { id: SessionId([7; 16]), ..crate::gateway_store::random_key() };
    for key in [&revoked, &ended] {
        gateway.store.create(key, b"sealed", two.now, LATER).await.expect("available");
    }
    let cutoff = gateway.store.revoke_user(&revoked.tag, two.now, None).await;
    let cutoff = cutoff.expect("available").cutoff;
    gateway.store.end(&ended, EndReason::Revoked, two.now, LATER).await.expect("available");
    assert_eq!(command(WITHOUT_CUTOFFS), "+OK");
    assert_eq!(command("FLUSHALL"), "+OK");
    two.wait_until_ended(&ended).await;
    // More often than a rollback is suspected, which also starts a restore.
    wait_until(|| refused_scripts(&command("INFO commandstats")) >= 8).await;
    assert_ne!(two.cutoff(&revoked).await, Some(cutoff), "Redis refused the write");
    assert_eq!(command("ACL SETUSER gate ~*"), "+OK");
    let deadline = Instant::now() + TIMEOUT;
    while two.cutoff(&revoked).await != Some(cutoff) {
        assert!(Instant::now() < deadline, "the cutoff is not restored");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Relies on: `RevocationLog::record` runs after the reply.
#[tokio::test]
async fn an_unacknowledged_revocation_is_not_recorded() {
    let mut two = Two::start().await;
    let key = two.session(random_key(), two.now).await;
    two.snapshot();
    two.server.pause();
    let ended = two.gateway.store.end(&key, EndReason::Logout, two.now, LATER).await;
    assert!(ended.is_err(), "Redis is paused");
    two.server.kill();
    two.server.restart();
    wait_until(|| two.gateway.store.stats().is_some_and(|figures| figures.staleness.is_some()))
        .await;
    assert!(matches!(two.gateway.load(&key).await.slot, Slot::Live { .. }));
}
