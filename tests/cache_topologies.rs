//! The changes of a cluster and of a master that sentinels name: followed on every primary, through slots
//! that move and servers that fail.

#[path = "support/following.rs"]
#[allow(dead_code, reason = "the suite of races uses the rest of it")]
mod following;
#[path = "support/redis_fleet.rs"]
#[allow(dead_code, reason = "the suite of topologies uses the rest of it")]
mod redis_fleet;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of topologies uses the rest of it")]
mod redis_server;

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, SessionKey};
use doorward::store::{Change, Slot, Store};
use following::{Gateway, key};
use redis_fleet::{Cluster, Watched, ask, eventually, say};

const PATIENCE: Duration = Duration::from_secs(60);
const LATER: UnixMillis = UnixMillis(u64::MAX);

async fn create(store: &Store) -> SessionKey {
    let key = key();
    let deadline = Instant::now() + PATIENCE;
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

/// Waits until a session is known: while servers change, loads may fail.
async fn knows(gateway: &Gateway, key: &SessionKey) {
    let deadline = Instant::now() + PATIENCE;
    while gateway.known(key).is_none() {
        let loaded = gateway.store.load(key).await;
        assert!(Instant::now() < deadline, "it never stays known; last it was {loaded:?}");
        if loaded.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Something known at the gateway is ended elsewhere: the gateway hears of it.
async fn an_end_elsewhere_is_heard(gateway: &mut Gateway, elsewhere: &Store, key: &SessionKey) {
    knows(gateway, key).await;
    gateway.listens();
    end(elsewhere, key).await;
    gateway.hears(Change::Session(*key)).await;
    assert_eq!(gateway.known(key), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_every_primary_is_followed_while_slots_move_and_one_fails() {
    let mut cluster = Cluster::start();
    let mut gateway = Gateway::on(&cluster.settings()).await;
    let elsewhere = Store::redis(&cluster.settings()).expect("good settings");
    let slot_of = |cluster: &Cluster, key: &SessionKey| cluster.slot(&record(key));

    // By chance all of twenty would be on two of three primaries once in a thousand runs or so.
    for _ in 0..20 {
        let key = create(&elsewhere).await;
        an_end_elsewhere_is_heard(&mut gateway, &elsewhere, &key).await;
    }

    let moved = create(&elsewhere).await;
    knows(&gateway, &moved).await;
    let slot = slot_of(&cluster, &moved);
    let (from, to) = (cluster.owner(slot), cluster.another(slot));
    cluster.begin_migration(slot, from, to);
    while cluster.move_keys(slot, from, to, 100) > 0 {}
    cluster.end_migration(slot, from, to);
    an_end_elsewhere_is_heard(&mut gateway, &elsewhere, &moved).await;

    let key = create(&elsewhere).await;
    knows(&gateway, &key).await;
    let lost = slot_of(&cluster, &key);
    cluster.lose_primary(lost);
    assert_eq!(gateway.known(&key), None, "its connection broke");
    an_end_elsewhere_is_heard(&mut gateway, &elsewhere, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_failover_loses_is_written_to_the_new_master() {
    let mut watched = Watched::start();
    let mut gateway = Gateway::on(&watched.settings()).await;
    let elsewhere = Store::redis(&watched.settings()).expect("good settings");
    let (key, other) = (create(&elsewhere).await, create(&elsewhere).await);
    knows(&gateway, &other).await;

    // The replicas do not hear of it, and then the master is gone.
    let master = watched.master();
    let replicas: Vec<usize> =
        (0..watched.servers.len()).filter(|at| watched.servers[*at].port() != master).collect();
    let name = record(&other);
    eventually("the replicas have both sessions", || {
        let has = |at: &usize| ask(watched.servers[*at].port(), &["EXISTS", &name]) == Some(true);
        replicas.iter().all(has)
    });
    let before = watched.servers[replicas[0]].command(&["GET", &record(&key)]);
    replicas.iter().for_each(|at| watched.servers[*at].pause());
    // What the master sends from here on is not even on its way.
    say(master, &["CLIENT", "KILL", "TYPE", "replica"]);
    end(&gateway.store, &key).await;
    let gone = watched.servers.iter().position(|server| server.port() == master).expect("ours");
    watched.servers[gone].kill();
    replicas.iter().for_each(|at| watched.servers[*at].resume());
    // A failover takes longer than this look: nobody can have written it again.
    let still = |at: &usize| watched.servers[*at].command(&["GET", &record(&key)]) == before;
    assert!(replicas.iter().all(still), "the failover would lose nothing: this tries nothing");
    eventually("a failover", || watched.master() != master);

    let began = Instant::now();
    loop {
        let slot = elsewhere.load(&key).await.map(|loaded| loaded.slot);
        match slot {
            Ok(Slot::Ended { .. }) => break,
            Ok(Slot::Live { .. }) | Err(_) => {}
            Ok(Slot::Absent) => panic!("the replicas had the session"),
        }
        assert!(began.elapsed() < PATIENCE, "it is not written again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("written again {:?} after the new master was chosen", began.elapsed());
    an_end_elsewhere_is_heard(&mut gateway, &elsewhere, &other).await;
}
