//! Invalidation with a cluster and with sentinels: on every primary, while slots move and servers
//! fail.

use std::time::{Duration, Instant};

use crate::gateway_store::{GatewayStore, load_and_cache, random_key};
use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, SessionKey};
use doorward::store::{Slot, Store, StoreChange};
use test_support::redis_fleet::{Cluster, SentinelGroup, eventually, execute, query};

const TIMEOUT: Duration = Duration::from_secs(60);
const LATER: UnixMillis = UnixMillis(u64::MAX);

async fn create(store: &Store) -> SessionKey {
    let key = random_key();
    let deadline = Instant::now() + TIMEOUT;
    while store.create(&key, b"sealed", Clock::System.now(), LATER).await.is_err() {
        assert!(Instant::now() < deadline, "nothing can be written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    key
}

fn record(key: &SessionKey) -> String {
    format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0))
}

async fn end(store: &Store, key: &SessionKey) {
    let (reason, now) = (EndReason::Revoked, Clock::System.now());
    store.end(key, reason, now, LATER).await.expect("available");
}

/// Waits until a session is cached. Loads may fail while servers change.
async fn wait_until_cached(gateway: &GatewayStore, key: &SessionKey) {
    let deadline = Instant::now() + TIMEOUT;
    while gateway.cached(key).is_none() {
        let loaded = load_and_cache(&gateway.store, key).await;
        assert!(Instant::now() < deadline, "never cached; last load: {loaded:?}");
        if loaded.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Ends a cached session at another gateway and waits for its invalidation.
async fn end_and_wait_for_invalidation(
    gateway: &mut GatewayStore,
    other_store: &Store,
    key: &SessionKey,
) {
    wait_until_cached(gateway, key).await;
    gateway.discard_changes();
    end(other_store, key).await;
    gateway.wait_for_change(StoreChange::Session(*key)).await;
    assert!(gateway.cached(key).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_primary_of_a_cluster_is_followed_through_changes() {
    let mut cluster = Cluster::start();
    let mut gateway = GatewayStore::connect(&cluster.settings()).await;
    let other_store = Store::redis(&cluster.settings()).expect("good settings");
    let slot_of = |cluster: &Cluster, key: &SessionKey| cluster.slot(&record(key));

    // All twenty on only two of three primaries: about once in a thousand runs.
    for _ in 0..20 {
        let key = create(&other_store).await;
        end_and_wait_for_invalidation(&mut gateway, &other_store, &key).await;
    }

    let moved = create(&other_store).await;
    wait_until_cached(&gateway, &moved).await;
    let slot = slot_of(&cluster, &moved);
    let (from, to) = (cluster.owner(slot), cluster.other_primary(slot));
    cluster.begin_migration(slot, from, to);
    while cluster.move_keys(slot, from, to, 100) > 0 {}
    cluster.end_migration(slot, from, to);
    end_and_wait_for_invalidation(&mut gateway, &other_store, &moved).await;

    let key = create(&other_store).await;
    wait_until_cached(&gateway, &key).await;
    let lost = slot_of(&cluster, &key);
    cluster.kill_primary(lost);
    assert!(gateway.cached(&key).is_none(), "the connection broke");
    end_and_wait_for_invalidation(&mut gateway, &other_store, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_lost_in_a_failover_is_restored() {
    let mut watched = SentinelGroup::start();
    let mut gateway = GatewayStore::connect(&watched.settings()).await;
    let other_store = Store::redis(&watched.settings()).expect("good settings");
    let (key, other) = (create(&other_store).await, create(&other_store).await);
    wait_until_cached(&gateway, &other).await;

    // The replicas miss the revocation before the master fails.
    let master = watched.master();
    let replicas: Vec<usize> =
        (0..watched.servers.len()).filter(|at| watched.servers[*at].port() != master).collect();
    let name = record(&other);
    eventually("the replicas have both sessions", || {
        let has = |at: &usize| query(watched.servers[*at].port(), &["EXISTS", &name]) == Some(true);
        replicas.iter().all(has)
    });
    let before = watched.servers[replicas[0]].command(&["GET", &record(&key)]);
    replicas.iter().for_each(|at| watched.servers[*at].pause());
    // Drops data that the master has already sent.
    execute(master, &["CLIENT", "KILL", "TYPE", "replica"]);
    end(&gateway.store, &key).await;
    let gone = watched.servers.iter().position(|server| server.port() == master).expect("ours");
    watched.servers[gone].kill();
    replicas.iter().for_each(|at| watched.servers[*at].resume());
    // A failover takes longer than this check, so no restore can have happened yet.
    let still = |at: &usize| watched.servers[*at].command(&["GET", &record(&key)]) == before;
    assert!(replicas.iter().all(still), "the failover would lose nothing, so this tests nothing");
    eventually("a failover", || watched.master() != master);

    let started = Instant::now();
    loop {
        let slot = other_store.load(&key).await.map(|loaded| loaded.slot);
        match slot {
            Ok(Slot::Ended { .. }) => break,
            Ok(Slot::Live { .. }) | Err(_) => {}
            Ok(Slot::Absent) => panic!("the replicas had the session"),
        }
        assert!(started.elapsed() < TIMEOUT, "the revocation is not restored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("restored {:?} after the failover", started.elapsed());
    end_and_wait_for_invalidation(&mut gateway, &other_store, &other).await;
}
