//! The store on every supported Redis topology, while servers fail and slots move. The tests start
//! real redis-server processes on free ports and stop them at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::gateway_store::load_and_cache;
use crate::tls_redis::{TlsCluster, TlsSentinelGroup};
use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, SessionId, SessionKey, UserTag};
use doorward::store::{
    Advice, CommitOutcome, DualInstant, Durability, RedisSettings, Slot, Store, Unavailable,
};
use test_support::redis_fleet::{Cluster, SentinelGroup, eventually, query};
use test_support::redis_server::{RedisOptions, RedisServer};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_hours(1);

fn key() -> SessionKey {
    SessionKey { tag: UserTag(random_bytes()), id: SessionId(random_bytes()) }
}

fn now() -> UnixMillis {
    Clock::System.now()
}

async fn create(store: &Store, key: &SessionKey) -> Result<Durability, Unavailable> {
    // The record contains its own key.
    let sealed = [key.tag.0.as_slice(), &key.id.0].concat();
    store.create(key, &sealed, now(), now().plus(HOUR)).await
}

async fn end(store: &Store, key: &SessionKey) -> Result<Durability, Unavailable> {
    let ended = store.end(key, EndReason::Logout, now(), now().plus(HOUR)).await?;
    Ok(ended.durability)
}

/// Loads a session and checks that the record belongs to the key.
async fn load(store: &Store, key: &SessionKey) -> Result<Slot, Unavailable> {
    let slot = store.load(key).await?.slot;
    if let Slot::Live { sealed, .. } = &slot {
        let own = [key.tag.0.as_slice(), &key.id.0].concat();
        assert!(sealed.starts_with(&own), "the reply of another load");
    }
    Ok(slot)
}

fn is_live(slot: &Slot) -> bool {
    matches!(slot, Slot::Live { .. })
}

/// Loads until a load succeeds, and returns the time it took.
async fn wait_until_available(store: &Store, key: &SessionKey, limit: Duration) -> Duration {
    let started = Instant::now();
    loop {
        match load(store, key).await {
            Ok(_) => return started.elapsed(),
            Err(error) => assert!(started.elapsed() < limit, "after {limit:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A load generator: for one user after another it creates a session, rotates it three times, and
/// ends every second one. It records every acknowledgement.
struct Worker {
    store: Store,
    stop: Arc<AtomicBool>,
    book: Book,
    failed: usize,
    /// Whether a write counts as acknowledged only if replicas have it.
    durably: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acknowledged {
    Live {
        revision: u64,
    },
    Ended,
    /// The last write may have been applied.
    Unknown,
}

type Book = BTreeMap<SessionKey, Acknowledged>;

impl Worker {
    fn start(store: &Store, users: &[UserTag], durably: bool) -> RunningWorker {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, ended) = (store.for_worker(), Arc::clone(&stop));
        let worker = Worker { store, stop: ended, book: Book::new(), failed: 0, durably };
        RunningWorker { stop, task: tokio::spawn(worker.work(users.to_vec())) }
    }

    async fn work(mut self, users: Vec<UserTag>) -> (Book, usize) {
        let mut number = 0_usize;
        while !self.stop.load(Ordering::Relaxed) {
            let tag = users[number % users.len()];
            let key = SessionKey { tag, id: SessionId(random_bytes()) };
            let state = match self.live(&key, number.is_multiple_of(2)).await {
                Ok(state) => state,
                Err(_) => {
                    self.failed += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Acknowledged::Unknown
                }
            };
            self.book.insert(key, state);
            number += 1;
        }
        (self.book, self.failed)
    }

    /// Runs the life of one session.
    async fn live(&self, key: &SessionKey, ends: bool) -> Result<Acknowledged, Unavailable> {
        if !self.is_confirmed(create(&self.store, key).await?) {
            return Ok(Acknowledged::Unknown);
        }
        for revision in 1..4 {
            let sealed = [key.tag.0.as_slice(), &key.id.0, &[1]].concat();
            match self.store.commit(key, revision, &sealed, now().plus(HOUR)).await? {
                CommitOutcome::Swapped => {}
                // No other writer exists, so this was a retry of a lost reply.
                CommitOutcome::Conflict => return Ok(Acknowledged::Unknown),
            }
            assert!(is_live(&load(&self.store, key).await?), "a written session is missing");
        }
        if !ends {
            return Ok(Acknowledged::Live { revision: 4 });
        }
        if !self.is_confirmed(end(&self.store, key).await?) {
            return Ok(Acknowledged::Unknown);
        }
        Ok(Acknowledged::Ended)
    }

    fn is_confirmed(&self, durability: Durability) -> bool {
        !self.durably || durability.is_durable() == Some(true)
    }
}

/// A running load generator.
struct RunningWorker {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Book, usize)>,
}

impl RunningWorker {
    async fn stop(self) -> (Book, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic")
    }
}

/// Compares the store with the acknowledgements, and returns the number compared.
async fn assert_nothing_lost(store: &Store, book: &Book) -> usize {
    let mut compared = 0;
    for (key, acknowledged) in book {
        let slot = load(store, key).await.expect("available");
        match (acknowledged, &slot) {
            (Acknowledged::Unknown, _) => continue,
            (Acknowledged::Ended, Slot::Ended { .. }) => {}
            (Acknowledged::Live { revision: known }, Slot::Live { revision, .. })
                if revision == known => {}
            (_, _) => panic!("{key:?}: {acknowledged:?} was acknowledged, {slot:?} is there"),
        }
        compared += 1;
    }
    compared
}

#[tokio::test]
async fn a_unix_socket_is_a_valid_address() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    settings.url = format!("redis+unix://{}/redis.sock?db=3", server.directory().display());
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    assert!(is_live(&load(&store, &key).await.expect("available")));
    let used: String = query(server.port(), &["INFO", "keyspace"]).expect("a response");
    assert!(used.contains("db3:"), "{used}");
}

#[tokio::test]
async fn a_write_with_too_few_replicas_is_kept_and_reported() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    let unasked = Store::redis(&settings).expect("good settings");
    let session = key();
    assert_eq!(create(&unasked, &session).await, Ok(Durability::NotRequested));
    (settings.wait_replicas, settings.wait_timeout) = (1, Duration::from_millis(50));
    let store = Store::redis(&settings).expect("good settings");
    let alone = Durability::Replicated { requested: 1, acknowledged: 0 };
    assert_eq!(create(&store, &key()).await, Ok(alone));
    assert_eq!(end(&store, &session).await, Ok(alone));
    assert!(matches!(load(&store, &session).await, Ok(Slot::Ended { .. })));
    let port = server.port().to_string();
    let follow = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
    let _replica = RedisServer::start(RedisOptions::with_args(&follow));
    let both = Durability::Replicated { requested: 1, acknowledged: 1 };
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.revoke_user(&session.tag, now(), None).await.expect("available").durability != both
    {
        assert!(Instant::now() < deadline, "never replicated");
    }
    assert_eq!(store.revoke_all_users(now()).await.expect("available").durability, both);
}

/// Each such write blocks its connection while it waits for replicas.
#[tokio::test]
async fn logins_succeed_and_block_no_loads_while_replicas_are_missing() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    (settings.wait_replicas, settings.wait_timeout) = (1, Duration::from_millis(200));
    let store = Store::redis(&settings).expect("good settings");
    let probe = key();
    create(&store, &probe).await.expect("available");
    let (started, mut logins) = (Instant::now(), JoinSet::new());
    for _ in 0..300 {
        let store = store.clone();
        logins.spawn(async move { create(&store, &key()).await });
    }
    let alone = Ok(Durability::Replicated { requested: 1, acknowledged: 0 });
    while !logins.is_empty() {
        assert!(is_live(&load(&store, &probe).await.expect("loads are not blocked")));
        while let Some(login) = logins.try_join_next() {
            assert_eq!(login.expect("no panic"), alone);
        }
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_evicting_redis_is_reported() {
    let server =
        RedisServer::start(RedisOptions::with_args(&["--maxmemory-policy", "allkeys-lru"]));
    is_advised(&server.settings(), Advice::Eviction).await;
}

#[tokio::test]
async fn a_master_without_min_replicas_is_reported() {
    let watched = SentinelGroup::start();
    is_advised(&watched.settings(), Advice::MinReplicas).await;
}

async fn is_advised(settings: &RedisSettings, advice: Advice) {
    let store = Store::redis(settings).expect("good settings");
    let advised = || {
        let figures = store.stats().expect("a shared store");
        let all = Advice::ALL.into_iter().zip(figures.advice);
        all.filter(|(_, is_so)| *is_so).map(|(advice, _)| advice).collect::<Vec<_>>()
    };
    let following = store.for_worker();
    let task = tokio::spawn(async move { following.run_invalidation().await });
    let deadline = Instant::now() + Duration::from_secs(20);
    while advised() != [advice] {
        assert!(Instant::now() < deadline, "{:?}", advised());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
}

#[tokio::test]
async fn a_hung_server_opens_the_circuit_and_recovers_within_2_s() {
    let server = RedisServer::start(RedisOptions::default());
    let store = Store::redis(&server.settings()).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    let before = loads_and_connections(&server);
    server.pause();
    for _ in 0..5 {
        load(&store, &key).await.expect_err("Redis is paused");
    }
    let sent = store.round_trips();
    let started = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..1_000 {
        let store = store.clone();
        all.spawn(async move { load(&store, &key).await });
    }
    let (mut at_once, refused) = (0, tokio::time::Instant::now() + Duration::from_millis(400));
    while let Ok(Some(response)) = tokio::time::timeout_at(refused, all.join_next()).await {
        let error = response.expect("no panic").expect_err("Redis is paused");
        at_once += usize::from(error.0.contains("circuit open"));
    }
    assert!(at_once >= 998, "{at_once} of 1,000 failed at once");
    println!("1,000 responses in {:?}", started.elapsed());
    assert!(store.round_trips() - sent <= 2, "rejected commands are not sent");
    server.resume();
    let away = wait_until_available(&store, &key, Duration::from_secs(2)).await;
    println!("available again after {away:?}");
    while all.join_next().await.is_some() {}
    // The load after the recovery: five commands, the probes, and the loads here.
    let (loads, connections) = loads_and_connections(&server);
    assert!(loads - before.0 <= 20, "{} loads", loads - before.0);
    assert!(connections - before.1 <= 10, "{} connections", connections - before.1);
}

/// Returns the loads and connections since the start of the server.
fn loads_and_connections(server: &RedisServer) -> (u64, u64) {
    let count = |section: &str, name: &str| {
        let text: String = query(server.port(), &["INFO", section]).expect("a response");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split(',').next());
        value.map_or(0, |value| value.parse().expect("a number"))
    };
    let loads = count("commandstats", "cmdstat_mget:calls=");
    (loads, count("stats", "total_connections_received:"))
}

#[tokio::test]
async fn commands_beyond_the_in_flight_limit_fail_at_once() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    server.pause();
    let mut all = JoinSet::new();
    for _ in 0..1_500 {
        let store = store.clone();
        all.spawn(async move { load(&store, &key).await });
    }
    for _ in 0..1_500 - 1_024 {
        let response = all.join_next().await.expect("one more").expect("no panic");
        let error = response.expect_err("beyond the limit");
        assert!(error.0.contains("1024 commands"), "{error}");
    }
    server.resume();
    while let Some(response) = all.join_next().await {
        assert!(is_live(&response.expect("no panic").expect("within the limit")));
    }
    assert_eq!(store.stats().expect("a shared store").rejected, 476);
}

/// CVE-2023-28858.
#[tokio::test]
async fn thousands_of_cancelled_loads_never_mix_up_replies() {
    let server = RedisServer::start(RedisOptions::default());
    let store = Store::redis(&server.settings()).expect("good settings");
    let keys: Vec<SessionKey> = (0..50).map(|_| key()).collect();
    for key in &keys {
        create(&store, key).await.expect("available");
    }
    let mut kept = 0;
    for round in 0..100_usize {
        let mut sent = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let (store, key) = (store.clone(), *key);
            let task = tokio::spawn(async move { load(&store, &key).await });
            sent.push((task, (number * 7 + round) % 3 > 0));
        }
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        for (task, leaves) in &sent {
            if *leaves {
                task.abort();
            }
        }
        for (task, leaves) in sent {
            match task.await {
                Ok(slot) => {
                    assert!(is_live(&slot.expect("available")));
                    kept += 1;
                }
                Err(error) => assert!(leaves && error.is_cancelled(), "{error}"),
            }
        }
    }
    println!("{} of 5,000 were dropped", 5_000 - kept);
    assert!((500..4_500).contains(&kept), "{kept}");
}

/// The key of a record in Redis.
fn record(key: &SessionKey) -> String {
    format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0))
}

/// Peak memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn an_oversized_value_fails_before_it_is_read() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    // A timeout must not be the reason of the failure.
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    let (foreign, others) = (key(), [(); 20].map(|()| key()));
    for key in others.iter().chain([&foreign]) {
        create(&store, key).await.expect("available");
    }
    server.command(&["SETRANGE", &record(&foreign), "200000000", "x"]);
    let before = peak();
    for _ in 0..3 {
        let mut around = JoinSet::new();
        for key in others {
            let store = store.clone();
            around.spawn(async move { load(&store, &key).await });
        }
        let loaded = load(&store, &foreign).await.map(|slot| is_live(&slot));
        let error = loaded.expect_err("200 MB");
        assert!(error.0.contains("doorward never wrote"), "{error}");
        while let Some(response) = around.join_next().await {
            let slot = response.expect("no panic").expect("retried on another connection");
            assert!(is_live(&slot), "another session");
        }
    }
    let grown = peak() - before;
    assert!(grown < 50_000, "{grown} KiB");
}

#[tokio::test]
async fn an_oversized_index_fails_before_it_is_read() {
    let server = RedisServer::start(RedisOptions::default());
    let mut settings = server.settings();
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    let index = format!("dw:u:{{{}}}", HEXLOWER.encode(&key.tag.0));
    let fill = "for i = 1, 1000000 do redis.call('HSET', KEYS[1], i, i) end return 1";
    assert_eq!(query::<i64>(server.port(), &["EVAL", fill, "1", &index]), Some(1));
    let before = peak();
    let listed = store.list_user(&key.tag).await.map(|listed| listed.len());
    let error = listed.expect_err("a million");
    assert!(error.0.contains("doorward never wrote"), "{error}");
    let grown = peak() - before;
    assert!(grown < 50_000, "{grown} KiB");
    assert!(is_live(&load(&store, &key).await.expect("sessions are still served")));
}

#[tokio::test]
async fn a_silent_connection_is_replaced_after_two_timeouts() {
    // Accepts and acknowledges but never replies, like a proxy whose server is gone.
    let server = RedisServer::start(RedisOptions::default());
    let proxy = HalfOpenProxy::start(server.port()).await;
    let mut settings = server.settings();
    settings.url = format!("redis://127.0.0.1:{}", proxy.port);
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    proxy.silence.store(true, Ordering::SeqCst);
    load(&store, &key).await.expect_err("silent");
    // New connections work; the old one stays silent.
    proxy.silence.store(false, Ordering::SeqCst);
    load(&store, &key).await.expect_err("still silent");
    assert!(is_live(&load(&store, &key).await.expect("on a new connection")));
}

/// A proxy. Connections that are open while it is silenced never deliver data again.
struct HalfOpenProxy {
    port: u16,
    silence: Arc<AtomicBool>,
}

impl HalfOpenProxy {
    async fn start(to: u16) -> HalfOpenProxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let silence = Arc::new(AtomicBool::new(false));
        let is_silenced = Arc::clone(&silence);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, to, Arc::clone(&is_silenced)));
            }
        });
        HalfOpenProxy { port, silence }
    }
}

async fn relay(client: tokio::net::TcpStream, to: u16, is_silenced: Arc<AtomicBool>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("the server");
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let forward = async move {
        tokio::io::copy(&mut from_client, &mut to_server).await.unwrap_or_default();
    };
    let back = async move {
        let (mut buffer, mut is_silent) = ([0; 4096], false);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            is_silent |= is_silenced.load(Ordering::SeqCst);
            if !is_silent && to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(forward, back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failovers_by_sentinels_need_no_restart() {
    let mut watched = SentinelGroup::start();
    let mut settings = watched.settings();
    // Both replicas. With one, the failover could choose the other.
    settings.wait_replicas = 2;
    settings.wait_timeout = Duration::from_millis(500);
    let store = Store::redis(&settings).expect("good settings");
    let users: Vec<UserTag> = (0..10).map(|_| UserTag(random_bytes())).collect();
    let working = Worker::start(&store, &users, true);
    let mut untrusted = settings.clone();
    untrusted.sentinel_password = Some("guessed".to_owned().into());
    let refused = Store::redis(&untrusted).expect("good settings").ping().await;
    let text = refused.expect_err("the sentinels require a password").0;
    assert!(text.contains("no sentinel reports") && !text.contains("guessed"), "{text}");
    let _following = InvalidationTask::start(&store);
    let probe = key();
    create(&store, &probe).await.expect("available");

    let chosen = watched.force_failover();
    println!("the master is {chosen}");
    println!(
        "after a change: {:?}",
        wait_until_available(&store, &probe, Duration::from_secs(5)).await
    );
    eventually_writes(&store, chosen).await;
    let chosen = watched.kill_master();
    println!("the master is {chosen}");
    println!(
        "after a loss: {:?}",
        wait_until_available(&store, &probe, Duration::from_secs(2)).await
    );
    eventually_writes(&store, chosen).await;
    // Invalidation works with the new master.
    wait_until_cached(&store, &probe).await;
    let other = Store::redis(&settings).expect("good settings");
    wait_until_invalidated(&store, &other, &probe).await;

    let (book, failed) = working.stop().await;
    let compared = creations_and_ends_survive(&store, &book).await;
    println!("{compared} of {} compared, {failed} failed", book.len());
    assert!(compared > 20 && failed > 0, "{compared} compared, {failed} failed");
}

/// Rotations do not wait for replicas, so a failover may lose some. Creations and ends must
/// survive.
async fn creations_and_ends_survive(store: &Store, book: &Book) -> usize {
    let mut compared = 0;
    for (key, acknowledged) in book {
        let slot = load(store, key).await.expect("available");
        match (acknowledged, &slot) {
            (Acknowledged::Unknown, _) => continue,
            (Acknowledged::Ended, Slot::Ended { .. })
            | (Acknowledged::Live { .. }, Slot::Live { .. }) => {}
            (_, _) => panic!("{key:?}: {acknowledged:?} was acknowledged, {slot:?} is there"),
        }
        compared += 1;
    }
    compared
}

/// Waits until a write reaches the master.
async fn eventually_writes(store: &Store, master: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let key = key();
        let created = create(store, &key).await;
        let name =
            format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0));
        if created.is_ok() && query::<bool>(master, &["EXISTS", &name]) == Some(true) {
            // After its promotion it may close connections; then the query is repeated.
            if let Some(role) = query::<String>(master, &["INFO", "replication"]) {
                assert!(role.contains("role:master"), "{role}");
                return;
            }
        }
        assert!(Instant::now() < deadline, "no write reaches the master: {created:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs invalidation until dropped.
struct InvalidationTask {
    task: tokio::task::JoinHandle<()>,
}

impl InvalidationTask {
    fn start(store: &Store) -> InvalidationTask {
        let store = store.for_worker();
        InvalidationTask { task: tokio::spawn(async move { store.run_invalidation().await }) }
    }
}

impl Drop for InvalidationTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Loads until the session is cached.
async fn wait_until_cached(store: &Store, key: &SessionKey) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.session_cache().lookup(key, DualInstant::now()).is_none() {
        assert!(Instant::now() < deadline, "never cached");
        load_and_cache(store, key).await.ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends a session at another gateway, and waits until this one drops it.
async fn wait_until_invalidated(store: &Store, other: &Store, key: &SessionKey) {
    end(other, key).await.expect("available");
    let started = Instant::now();
    while store.session_cache().lookup(key, DualInstant::now()).is_some() {
        assert!(started.elapsed() < Duration::from_secs(3), "still cached");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("invalidated after {:?}", started.elapsed());
    assert!(matches!(load(store, key).await, Ok(Slot::Ended { .. })));
}

fn slot_of(cluster: &Cluster, tag: &UserTag) -> u16 {
    cluster.slot(&format!("dw:u:{{{}}}", HEXLOWER.encode(&tag.0)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_nothing_while_slots_move_and_a_primary_fails() {
    let mut cluster = Cluster::start();
    let store = Store::redis(&cluster.settings()).expect("good settings");
    let users: Vec<UserTag> = (0..10).map(|_| UserTag(random_bytes())).collect();
    let _following = InvalidationTask::start(&store);
    every_primary_pushes_its_changes(&cluster, &store).await;
    a_login_waits_for_a_migrating_slot(&cluster, &store).await;
    a_slot_moves_under_load(&cluster, &store, &users).await;
    a_primary_fails_under_load(&mut cluster, &store, &users).await;
}

/// Connections with another authority or without a client certificate.
async fn untrusted_peers_fail(settings: &RedisSettings) {
    let other = RedisServer::start(RedisOptions::tls());
    let untrusted_server = RedisSettings { ca: other.settings().ca, ..settings.clone() };
    let no_client_cert = RedisSettings { client_cert: None, client_key: None, ..settings.clone() };
    for (untrusted, why) in
        [(untrusted_server, "invalid peer certificate"), (no_client_cert, "CertificateRequired")]
    {
        let refused = Store::redis(&untrusted).expect("good settings").ping().await;
        let text = refused.expect_err("untrusted").0;
        assert!(text.contains(why), "{text}");
    }
}

/// Each primary stores its own slots and pushes their changes. A moved slot is found.
async fn use_tls_cluster(cluster: &TlsCluster) {
    let store = Store::redis(&cluster.settings()).expect("good settings");
    let other = Store::redis(&cluster.settings()).expect("good settings");
    let _following = InvalidationTask::start(&store);
    let slot = |tag: &UserTag| -> u16 {
        let name = format!("{{{}}}", HEXLOWER.encode(&tag.0));
        let reply = cluster.servers[0].command(&["CLUSTER", "KEYSLOT", &name]);
        reply.trim_start_matches(':').parse().expect("a slot")
    };
    let mut used = std::collections::BTreeSet::new();
    while used.len() < 3 {
        let key = key();
        let (slot, shares) = (slot(&key.tag), [5_461, 10_923, 16_384]);
        let owner = shares.iter().position(|end| slot < *end).expect("of all slots");
        create(&store, &key).await.expect("available");
        wait_until_cached(&store, &key).await;
        wait_until_invalidated(&store, &other, &key).await;
        if used.insert(owner) {
            cluster.servers[owner].command(&["FLUSHALL"]);
            cluster.move_slot(slot, owner);
            let moved = SessionKey { id: SessionId(random_bytes()), ..key };
            create(&store, &moved).await.expect("at its new node");
            assert!(is_live(&load(&store, &moved).await.expect("at its new node")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_only_cluster_works_by_address() {
    let cluster = TlsCluster::start("127.0.0.1");
    use_tls_cluster(&cluster).await;
    untrusted_peers_fail(&cluster.settings()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_cluster_with_host_certificates_works_by_name() {
    use_tls_cluster(&TlsCluster::start("localhost")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_only_sentinels_are_followed() {
    let watched = TlsSentinelGroup::start();
    let store = Store::redis(&watched.settings()).expect("good settings");
    let _following = InvalidationTask::start(&store);
    let key = key();
    create(&store, &key).await.expect("available");
    wait_until_cached(&store, &key).await;
    watched.force_failover();
    wait_until_available(&store, &key, Duration::from_secs(10)).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while end(&store, &key).await.is_err() {
        assert!(Instant::now() < deadline, "the new master rejects writes");
    }
    assert!(matches!(load(&store, &key).await, Ok(Slot::Ended { .. })));
    untrusted_peers_fail(&watched.settings()).await;
}

async fn every_primary_pushes_its_changes(cluster: &Cluster, store: &Store) {
    let other = Store::redis(&cluster.settings()).expect("good settings");
    let mut primaries = std::collections::BTreeSet::new();
    while primaries.len() < 3 {
        let key = key();
        primaries.insert(cluster.owner(slot_of(cluster, &key.tag)));
        create(store, &key).await.expect("available");
        wait_until_cached(store, &key).await;
        wait_until_invalidated(store, &other, &key).await;
    }
}

async fn a_login_waits_for_a_migrating_slot(cluster: &Cluster, store: &Store) {
    let first = key();
    create(store, &first).await.expect("available");
    let second = SessionKey { id: SessionId(random_bytes()), ..first };
    let slot = slot_of(cluster, &first.tag);
    let (from, to) = (cluster.owner(slot), cluster.other_primary(slot));
    cluster.begin_migration(slot, from, to);
    assert_eq!(
        cluster.move_keys(slot, from, to, 1),
        1,
        "a record and an index, of which one moved"
    );
    let started = Instant::now();
    let error = create(store, &second).await.expect_err("the slot is migrating");
    let gave_up = started.elapsed();
    assert!(error.0.contains("is moving these keys"), "{error}");
    // One second to connect and half a second for the reply.
    let deadline = Duration::from_millis(1_500);
    assert!((deadline - deadline / 5..deadline * 2).contains(&gave_up), "{gave_up:?}");
    let server = cluster.servers.iter().find(|one| one.port() == from).expect("one of ours");
    let stopped = async {
        tokio::time::sleep(deadline.mul_f64(0.8)).await;
        server.pause();
    };
    let (created, ()) = tokio::join!(create(store, &second), stopped);
    server.resume();
    let error = created.expect_err("the slot is migrating").0;
    assert!(error.contains("is moving these keys"), "although a command was in flight: {error}");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { create(&store, &second).await }
    });
    let before = store.round_trips();
    while store.round_trips() < before + 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!waiting.is_finished());
    while cluster.move_keys(slot, from, to, 100) > 0 {}
    // The keys of a new session do not exist yet, so the command fails until the slot has moved.
    cluster.end_migration(slot, from, to);
    let whole = Instant::now();
    waiting.await.expect("no panic").expect("the slot has moved");
    println!("gave up after {gave_up:?}; went on {:?} after the slot", whole.elapsed());
    eventually("all nodes have the new owner", || cluster.owner(slot) == to);
    assert!(is_live(&load(store, &second).await.expect("available")));
}

async fn a_slot_moves_under_load(cluster: &Cluster, store: &Store, users: &[UserTag]) {
    let working = Worker::start(store, users, false);
    eventually("all users have sessions", || {
        let sizes =
            cluster.servers.iter().filter_map(|one| query::<usize>(one.port(), &["DBSIZE"]));
        sizes.sum::<usize>() > 400
    });
    for tag in &users[..5] {
        let slot = slot_of(cluster, tag);
        let (from, to) = (cluster.owner(slot), cluster.other_primary(slot));
        cluster.begin_migration(slot, from, to);
        cluster.move_keys(slot, from, to, 5);
        // Some keys of the user have moved, and each can still be read.
        let held: Vec<String> =
            query(from, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"])
                .expect("a response");
        assert!(!held.is_empty());
        let cutoff = store.user_cutoff(tag).await.expect("single keys are readable");
        assert_eq!(cutoff.at, UnixMillis(0));
        load(store, &SessionKey { tag: *tag, id: SessionId(random_bytes()) })
            .await
            .expect("keys are loaded one by one");
        while cluster.move_keys(slot, from, to, 100) > 0 {}
        cluster.end_migration(slot, from, to);
        eventually("all nodes have the new owner", || cluster.owner(slot) == to);
        let key = SessionKey { tag: *tag, id: SessionId(random_bytes()) };
        create(store, &key).await.expect("available");
        wait_until_cached(store, &key).await;
        let other = Store::redis(&cluster.settings()).expect("good settings");
        wait_until_invalidated(store, &other, &key).await;
    }
    let (book, failed) = working.stop().await;
    let compared = assert_nothing_lost(store, &book).await;
    println!("slots moved: {compared} of {} compared, {failed} failed", book.len());
    assert!(compared > 20 && compared + failed >= book.len(), "{compared} of {}", book.len());
    let listed = store.list_all(1_000_000).await.expect("available").len();
    // A listing of one user is limited to 1,000.
    let live = book.values().filter(|state| matches!(state, Acknowledged::Live { .. })).count();
    assert!(listed >= live.min(900 * users.len()), "{listed} of {live}: all primaries are scanned");
}

async fn a_primary_fails_under_load(cluster: &mut Cluster, store: &Store, users: &[UserTag]) {
    let working = Worker::start(store, users, false);
    let probe = key();
    create(store, &probe).await.expect("available");
    let slot = slot_of(cluster, &probe.tag);
    let global_slot = cluster.slot("dw:everyone");
    cluster.kill_primary(slot);
    println!(
        "after a loss: {:?}",
        wait_until_available(store, &probe, Duration::from_secs(2)).await
    );
    assert!(store.revoke_all_users(UnixMillis(7)).await.is_ok(), "slot {global_slot}");
    let (book, failed) = working.stop().await;
    println!("a primary failed: {} sessions, {failed} failed", book.len());
    for key in book.keys() {
        load(store, key).await.expect("every slot has a primary");
    }
}
