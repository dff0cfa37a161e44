//! Races of the session cache, each produced step by step: a change during a load, several keys in
//! one push, late or missing pushes, stopped servers.
//!
//! Each test names the code in `src/store` without which it fails.

use std::time::{Duration, Instant};

use crate::gateway_store::{
    GatewayStore, MAX_STALENESS, cached_revision, live_revision, load_and_cache, random_key,
    wait_until,
};
use crate::scripted_redis::ScriptedRedis;
use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, RevocationCutoff, SessionKey, UserTag};
use doorward::store::{DualInstant, Loaded, Slot, Store, StoreChange};
use test_support::redis_server::{RedisOptions, RedisServer};
use tokio::task::JoinSet;

fn record(key: &SessionKey) -> String {
    format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0))
}

fn cutoff_key(tag: &UserTag) -> String {
    format!("dw:nb:{{{}}}", HEXLOWER.encode(&tag.0))
}

/// A record as stored in Redis.
fn packed(revision: u64) -> Vec<u8> {
    [&[1], revision.to_be_bytes().as_slice(), b"sealed"].concat()
}

async fn scripted() -> (ScriptedRedis, GatewayStore, SessionKey) {
    let server = ScriptedRedis::start().await;
    let gateway = GatewayStore::connect(&server.settings()).await;
    let key = random_key();
    server.put(&record(&key), &packed(1));
    (server, gateway, key)
}

/// Starts a load whose reply the server delays. The task returns the reply after its release.
async fn start_delayed_load(
    server: &ScriptedRedis,
    gateway: &GatewayStore,
    key: SessionKey,
) -> JoinSet<Loaded> {
    let store = gateway.store.for_worker();
    // The first command of a worker connects, so it must not be delayed.
    store.ping().await.expect("available");
    server.hold_replies();
    let mut load = JoinSet::new();
    load.spawn(async move { load_and_cache(&store, &key).await.expect("in time") });
    server.wait_for_held(1).await;
    load
}

async fn finish_load(mut load: JoinSet<Loaded>) -> Loaded {
    load.join_next().await.expect("one").expect("no panic")
}

/// Relies on: the load ID in `Proof::complete`.
#[tokio::test]
async fn a_change_during_a_load_keeps_its_reply_out_of_the_cache() {
    let (server, mut gateway, key) = scripted().await;
    let load = start_delayed_load(&server, &gateway, key).await;
    server.put(&record(&key), &packed(2));
    server.push_invalidation(&[&record(&key)]);
    gateway.wait_for_change(StoreChange::Session(key)).await;
    server.release_replies();
    assert_eq!(live_revision(finish_load(load).await), Some(1), "the reply was already sent");
    assert!(gateway.cached(&key).is_none(), "it is not cached");
    gateway.load(&key).await;
    assert_eq!(cached_revision(gateway.cached(&key)), Some(2));
}

/// Relies on: the load ID in `Proof::complete`.
#[tokio::test]
async fn a_cutoff_during_a_load_keeps_its_reply_out_of_the_cache() {
    let (server, mut gateway, key) = scripted().await;
    let load = start_delayed_load(&server, &gateway, key).await;
    server.put(&cutoff_key(&key.tag), b"77");
    server.push_invalidation(&[&cutoff_key(&key.tag)]);
    gateway.wait_for_change(StoreChange::UserCutoff(key.tag)).await;
    server.release_replies();
    assert_eq!(finish_load(load).await.user_cutoff, RevocationCutoff::default());
    assert!(gateway.cached(&key).is_none());
    gateway.load(&key).await;
    assert_eq!(gateway.cached(&key).expect("known").user_cutoff.at, UnixMillis(77));
}

/// Relies on: `PushHandler::on_push` handles all keys.
#[tokio::test]
async fn every_key_of_a_push_is_invalidated() {
    let (server, mut gateway, first) = scripted().await;
    let keys = [first, random_key(), random_key()];
    for key in &keys {
        server.put(&record(key), &packed(1));
        gateway.load_until_cached(key).await;
    }
    let stays = random_key();
    server.put(&record(&stays), &packed(1));
    gateway.load_until_cached(&stays).await;
    server.push_invalidation(&[
        &record(&keys[0]),
        "dw:s:not-ours",
        &record(&keys[1]),
        &cutoff_key(&keys[2].tag),
    ]);
    gateway.wait_for_change(StoreChange::UserCutoff(keys[2].tag)).await;
    for key in &keys {
        assert!(gateway.cached(key).is_none());
    }
    assert!(gateway.cached(&stays).is_some(), "an unchanged session stays cached");
}

/// Relies on: `parse_keys` treats nil as a flush.
#[tokio::test]
async fn a_flush_push_clears_the_cache_and_pending_loads() {
    let (server, mut gateway, first) = scripted().await;
    gateway.load_until_cached(&first).await;
    let second = random_key();
    server.put(&record(&second), &packed(1));
    let load = start_delayed_load(&server, &gateway, second).await;
    server.push_flush();
    gateway.wait_for_change(StoreChange::Everything).await;
    server.release_replies();
    finish_load(load).await;
    assert!(gateway.cached(&first).is_none() && gateway.cached(&second).is_none());
}

/// Relies on: `PushHandler::connection_lost` flushes the cache.
#[tokio::test]
async fn a_broken_connection_clears_the_cache_at_once() {
    let (server, gateway, key) = scripted().await;
    gateway.load_until_cached(&key).await;
    let began = Instant::now();
    server.disconnect_subscribers();
    wait_until(|| gateway.cached(&key).is_none()).await;
    // Long before the freshness expires.
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(gateway.staleness(), None, "freshness is unconfirmed");
}

/// Relies on: the heartbeat timeout or the freshness. Either is enough.
#[tokio::test]
async fn a_half_open_connection_is_trusted_for_at_most_3_s() {
    let (server, gateway, key) = scripted().await;
    gateway.load_until_cached(&key).await;
    server.stop_pushing();
    let began = Instant::now();
    server.put(&record(&key), &packed(2));
    while gateway.cached(&key).is_some() {
        assert!(began.elapsed() < MAX_STALENESS, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(live_revision(gateway.load(&key).await), Some(2), "and Redis is start_delayed_load");
    assert!(gateway.cached(&key).is_none(), "not cached while unconfirmed");
}

/// Relies on: the freshness alone, because the task that would replace the connection is stalled too.
#[tokio::test]
async fn a_stalled_gateway_uses_no_cached_session_afterwards() {
    let (server, gateway, key) = scripted().await;
    gateway.load_until_cached(&key).await;
    // What the clocks read after a stall of the process, or a sleep of the machine, before a task continues.
    let (now, wall) = (Instant::now(), Clock::System.now());
    for at in [
        DualInstant::new(now + MAX_STALENESS, wall),
        DualInstant::new(now, wall.plus(MAX_STALENESS)),
    ] {
        assert!(gateway.store.session_cache().lookup(&key, at).is_none());
    }
    server.put(&record(&key), &packed(2));
    assert_eq!(live_revision(gateway.load(&key).await), Some(2));
    gateway.wait_for_heartbeat().await;
}

/// Relies on: `PushHandler::expect_heartbeat` takes the time before the heartbeat is sent.
#[tokio::test]
async fn a_late_push_confirms_only_the_time_of_sending() {
    let (server, gateway, key) = scripted().await;
    let late = Duration::from_millis(1_500);
    server.delay_heartbeats(late);
    // After two pushes, the last confirmation comes from a late push.
    for _ in 0..2 {
        let before = gateway.staleness().expect("confirmed");
        wait_until(|| {
            gateway.staleness().is_some_and(|age| age < before) || gateway.staleness() > Some(late)
        })
        .await;
        wait_until(|| gateway.staleness().is_some_and(|age| age >= late)).await;
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let age = gateway.staleness().expect("late, but within the limit");
        assert!(age >= late, "confirmed {age:?} ago by a push that took {late:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.load_until_cached(&key).await;
}

/// Relies on: a failed load completes nothing.
#[tokio::test]
async fn a_reply_after_its_deadline_is_discarded() {
    let (server, mut gateway, key) = scripted().await;
    let other = crate::gateway_store::random_key();
    server.put(&record(&other), &packed(9));
    let store = gateway.store.for_worker();
    store.ping().await.expect("available");
    server.hold_replies();
    assert!(load_and_cache(&store, &key).await.is_err(), "replies are delayed");
    server.put(&record(&key), &packed(2));
    server.push_invalidation(&[&record(&key)]);
    gateway.wait_for_change(StoreChange::Session(key)).await;
    server.release_replies();
    let loaded = load_and_cache(&store, &other).await.expect("available");
    assert_eq!(live_revision(loaded), Some(9), "the late reply is not used for this load");
    assert!(gateway.cached(&key).is_none());
    assert_eq!(live_revision(gateway.load(&key).await), Some(2));
}

/// Relies on: the fill ID in `Proof::complete`, which is more than a flag.
#[tokio::test]
async fn a_slow_worker_never_overwrites_a_newer_cached_value() {
    let (server, mut gateway, key) = scripted().await;
    let slow = start_delayed_load(&server, &gateway, key).await;
    let late = server.take_held_replies();
    server.put(&record(&key), &packed(2));
    server.push_invalidation(&[&record(&key)]);
    gateway.wait_for_change(StoreChange::Session(key)).await;
    // The faster worker has sent its load, and its mark remains when the slow reply arrives.
    let fast = start_delayed_load(&server, &gateway, key).await;
    late.into_iter().for_each(|release| release());
    assert_eq!(live_revision(finish_load(slow).await), Some(1));
    assert!(gateway.cached(&key).is_none(), "the slow reply is not cached");
    server.release_replies();
    finish_load(fast).await;
    assert_eq!(cached_revision(gateway.cached(&key)), Some(2));
}

/// Relies on: `InvalidateOnDrop` invalidates when dropped.
#[tokio::test]
async fn a_write_with_an_unknown_result_invalidates_the_session() {
    let (server, gateway, key) = scripted().await;
    gateway.load_until_cached(&key).await;
    let store = gateway.store.for_worker();
    store.ping().await.expect("available");
    server.hold_replies();
    let (now, later) = (UnixMillis(1), UnixMillis(u64::MAX));
    assert!(store.end(&key, EndReason::Logout, now, later).await.is_err(), "replies are delayed");
    assert!(gateway.cached(&key).is_none());
}

/// Relies on: `InvalidateOnDrop`, because the push of a gateway's own write arrives after the reply.
#[tokio::test]
async fn a_gateway_reads_its_own_writes() {
    let server = RedisServer::start(RedisOptions::default());
    let gateway = GatewayStore::connect(&server.settings()).await;
    let (now, later) = (Clock::System.now(), UnixMillis(u64::MAX));
    for _ in 0..200 {
        let key = random_key();
        gateway.store.create(&key, b"sealed", now, later).await.expect("available");
        gateway.load(&key).await;
        gateway.store.commit(&key, 1, b"renewed", later).await.expect("available");
        assert_ne!(cached_revision(gateway.cached(&key)), Some(1));
        gateway.load(&key).await;
        gateway.store.end(&key, EndReason::Logout, now, later).await.expect("available");
        assert!(gateway.cached(&key).is_none());
    }
}

/// Relies on: `SessionCache::update_touch`. Without it, an active session would be touched at every
/// request.
#[tokio::test]
async fn a_gateway_caches_its_own_touch() {
    let server = RedisServer::start(RedisOptions::default());
    let gateway = GatewayStore::connect(&server.settings()).await;
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.load_until_cached(&key).await;
    let touched = now.plus(Duration::from_secs(60));
    gateway.store.touch(&key, touched, later).await.expect("available");
    assert_eq!(gateway.cached(&key).expect("still cached").touched, touched);
}

/// Relies on: `TRACKED_PREFIXES`, and the push of a real server after a flush.
#[tokio::test]
async fn changes_of_another_gateway_arrive_from_a_real_redis() {
    let server = RedisServer::start(RedisOptions::default());
    let mut gateway = GatewayStore::connect(&server.settings()).await;
    let other = Store::redis(&server.settings()).expect("good settings");
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    other.create(&key, b"sealed", now, later).await.expect("available");

    gateway.load_until_cached(&key).await;
    gateway.discard_changes();
    other.commit(&key, 1, b"renewed", later).await.expect("available");
    gateway.wait_for_change(StoreChange::Session(key)).await;
    assert!(gateway.cached(&key).is_none());

    gateway.load_until_cached(&key).await;
    gateway.discard_changes();
    other.touch(&key, now, later).await.expect("available");
    other.revoke_user(&key.tag, now, None).await.expect("available");
    gateway.wait_for_change(StoreChange::UserCutoff(key.tag)).await;
    assert!(gateway.cached(&key).is_none());

    gateway.load_until_cached(&key).await;
    gateway.discard_changes();
    other.revoke_all_users(now).await.expect("available");
    gateway.wait_for_change(StoreChange::GlobalCutoff).await;
    assert!(gateway.cached(&key).is_none());

    gateway.load_until_cached(&key).await;
    gateway.discard_changes();
    other.end(&key, EndReason::Revoked, now, later).await.expect("available");
    gateway.wait_for_change(StoreChange::Session(key)).await;
    assert!(gateway.cached(&key).is_none());

    let second = crate::gateway_store::random_key();
    other.create(&second, b"sealed", now, later).await.expect("available");
    gateway.load_until_cached(&second).await;
    gateway.discard_changes();
    assert_eq!(server.command(&["FLUSHALL"]), "+OK");
    gateway.wait_for_change(StoreChange::Everything).await;
    assert!(gateway.cached(&second).is_none());
}

/// Relies on: touches have a prefix of their own.
#[tokio::test]
async fn touches_of_another_gateway_are_not_pushed() {
    let server = RedisServer::start(RedisOptions::default());
    let mut gateway = GatewayStore::connect(&server.settings()).await;
    let other = Store::redis(&server.settings()).expect("good settings");
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    other.create(&key, b"sealed", now, later).await.expect("available");
    gateway.wait_for_change(StoreChange::Session(key)).await;
    gateway.load_until_cached(&key).await;
    other.touch(&key, now, later).await.expect("available");
    let marker = crate::gateway_store::random_key();
    other.create(&marker, b"sealed", now, later).await.expect("available");
    assert_eq!(
        gateway.changes.recv().await,
        Ok(StoreChange::Session(marker)),
        "no change before it"
    );
    assert!(gateway.cached(&key).is_some());
}

/// Relies on: the heartbeat timeout or the freshness, because a stopped server closes no connection.
#[tokio::test]
async fn a_stopped_redis_is_trusted_for_3_s_and_then_followed_again() {
    let server = RedisServer::start(RedisOptions::default());
    let gateway = GatewayStore::connect(&server.settings()).await;
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.load_until_cached(&key).await;
    server.pause();
    let began = Instant::now();
    while gateway.cached(&key).is_some() {
        assert!(began.elapsed() < MAX_STALENESS, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.resume();
    let resumed = Instant::now();
    gateway.wait_for_heartbeat().await;
    assert!(resumed.elapsed() < Duration::from_secs(3), "{:?}", resumed.elapsed());
    gateway.load_until_cached(&key).await;
}

/// Relies on: `PushHandler::connection_lost` and `flush(FlushCause::Connected)`. Either is enough.
#[tokio::test]
async fn changes_during_a_lost_connection_are_not_missed() {
    let mut server = RedisServer::start(RedisOptions::default());
    let gateway = GatewayStore::connect(&server.settings()).await;
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.load_until_cached(&key).await;
    server.restart();
    wait_until(|| gateway.staleness().is_none_or(|age| age > Duration::from_secs(1))).await;
    gateway.wait_for_heartbeat().await;
    assert!(gateway.cached(&key).is_none());
    assert_eq!(gateway.load(&key).await.slot, Slot::Absent);
}

/// Relies on: `InvalidationListener::send_heartbeat` tries another hash tag.
#[tokio::test]
async fn heartbeats_use_a_key_that_the_primary_accepts() {
    let server = ScriptedRedis::start().await;
    server.accept_only("{23}");
    let gateway = GatewayStore::connect(&server.settings()).await;
    // Its slots move away, and others arrive.
    server.accept_only("{31}");
    wait_until(|| gateway.staleness().is_some_and(|age| age > Duration::from_millis(900))).await;
    wait_until(|| gateway.staleness().is_some_and(|age| age < Duration::from_millis(500))).await;
    let key = random_key();
    server.put(&record(&key), &packed(1));
    gateway.load_until_cached(&key).await;
}

/// Relies on: the permissions in the documentation of `src/store/redis/mod.rs`.
#[tokio::test]
async fn the_documented_permissions_suffice_for_invalidation() {
    let server = RedisServer::start(RedisOptions::default());
    let documented = include_str!("../../src/store/redis/mod.rs").lines().take(30);
    let documented: String = documented.collect::<Vec<_>>().join(" ");
    let commands = documented.split([' ', '`', '.']).filter(|word| word.starts_with('+'));
    let user = ["ACL", "SETUSER", "gate", "on", ">pw", "~dw:*"];
    let acl: Vec<&str> = user.into_iter().chain(commands).collect();
    assert_eq!(server.command(&acl), "+OK");
    let mut settings = server.settings();
    settings.username = Some("gate".to_owned());
    settings.password = Some("pw".to_owned().into());
    let gateway = GatewayStore::connect(&settings).await;
    let (key, now, later) = (random_key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("permitted");
    gateway.load_until_cached(&key).await;
}
