//! The store on each kind of Redis that an operator may have, while servers fail and keys move. Real
//! processes of Debian's redis-server, on free ports, ended with their test.

#[path = "support/redis_fleet.rs"]
mod redis_fleet;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis_server;
#[path = "support/redis_tls.rs"]
mod redis_tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, SessionId, SessionKey, UserTag};
use doorward::store::{Advice, Commit, Durability, RedisSettings, Slot, Store, Unavailable};
use redis_fleet::{Cluster, Watched, ask, eventually};
use redis_server::{How, RedisServer};
use redis_tls::{TlsCluster, TlsWatched};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_hours(1);

fn key() -> SessionKey {
    SessionKey { tag: UserTag(random_bytes()), id: SessionId(random_bytes()) }
}

fn now() -> UnixMillis {
    Clock::System.now()
}

async fn create(store: &Store, key: &SessionKey) -> Result<Durability, Unavailable> {
    // Says itself whose it is.
    let sealed = [key.tag.0.as_slice(), &key.id.0].concat();
    store.create(key, &sealed, now(), now().plus(HOUR)).await
}

async fn end(store: &Store, key: &SessionKey) -> Result<Durability, Unavailable> {
    store.end(key, EndReason::Logout, now(), now().plus(HOUR)).await
}

/// What stands there, which must be the key's own.
async fn load(store: &Store, key: &SessionKey) -> Result<Slot, Unavailable> {
    let slot = store.load(key).await?.slot;
    if let Slot::Live { sealed, .. } = &slot {
        let own = [key.tag.0.as_slice(), &key.id.0].concat();
        assert!(sealed.starts_with(&own), "the answer to another question");
    }
    Ok(slot)
}

fn is_live(slot: &Slot) -> bool {
    matches!(slot, Slot::Live { .. })
}

/// Asks until it works; how long that took.
async fn works_again(store: &Store, key: &SessionKey, limit: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        match load(store, key).await {
            Ok(_) => return begun.elapsed(),
            Err(error) => assert!(begun.elapsed() < limit, "after {limit:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody who works all the time, for one user after the other: begins a session, renews it three times,
/// ends every other one and begins the next. Whatever was acknowledged is written down.
struct Worker {
    store: Store,
    stop: Arc<AtomicBool>,
    book: Book,
    failed: usize,
    /// Whether only what replicas have counts as acknowledged.
    durably: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acknowledged {
    Live {
        revision: u64,
    },
    Ended,
    /// The last write may or may not have happened.
    Unknown,
}

type Book = BTreeMap<SessionKey, Acknowledged>;

impl Worker {
    fn start(store: &Store, users: &[UserTag], durably: bool) -> Working {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, ended) = (store.for_worker(), Arc::clone(&stop));
        let worker = Worker { store, stop: ended, book: Book::new(), failed: 0, durably };
        Working { stop, task: tokio::spawn(worker.work(users.to_vec())) }
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

    /// One session's life.
    async fn live(&self, key: &SessionKey, ends: bool) -> Result<Acknowledged, Unavailable> {
        if !self.is_sure(create(&self.store, key).await?) {
            return Ok(Acknowledged::Unknown);
        }
        for revision in 1..4 {
            let sealed = [key.tag.0.as_slice(), &key.id.0, &[1]].concat();
            match self.store.commit(key, revision, &sealed, now().plus(HOUR)).await? {
                Commit::Swapped => {}
                // Nobody else writes here: it was ours, whose answer was lost.
                Commit::Lost => return Ok(Acknowledged::Unknown),
            }
            assert!(is_live(&load(&self.store, key).await?), "written and gone");
        }
        if !ends {
            return Ok(Acknowledged::Live { revision: 4 });
        }
        if !self.is_sure(end(&self.store, key).await?) {
            return Ok(Acknowledged::Unknown);
        }
        Ok(Acknowledged::Ended)
    }

    fn is_sure(&self, durability: Durability) -> bool {
        !self.durably || durability.is_durable() == Some(true)
    }
}

/// A worker at work.
struct Working {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Book, usize)>,
}

impl Working {
    async fn stop(self) -> (Book, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic")
    }
}

/// Compares what is there with what was acknowledged; says how many acknowledgements there were.
async fn nothing_is_lost(store: &Store, book: &Book) -> usize {
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
async fn a_socket_file_is_an_address() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    settings.url = format!("redis+unix://{}/redis.sock?db=3", server.directory().display());
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    assert!(is_live(&load(&store, &key).await.expect("available")));
    let used: String = ask(server.port(), &["INFO", "keyspace"]).expect("an answer");
    assert!(used.contains("db3:"), "{used}");
}

#[tokio::test]
async fn a_write_that_too_few_replicas_have_stands_and_says_so() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    let unasked = Store::redis(&settings).expect("good settings");
    let session = key();
    assert_eq!(create(&unasked, &session).await, Ok(Durability::Unasked));
    (settings.wait_replicas, settings.wait_timeout) = (1, Duration::from_millis(50));
    let store = Store::redis(&settings).expect("good settings");
    let alone = Durability::Replicated { asked: 1, got: 0 };
    assert_eq!(create(&store, &key()).await, Ok(alone));
    assert_eq!(end(&store, &session).await, Ok(alone));
    assert!(matches!(load(&store, &session).await, Ok(Slot::Ended { .. })));
    let port = server.port().to_string();
    let follow = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
    let _replica = RedisServer::start(How::with(&follow));
    let both = Durability::Replicated { asked: 1, got: 1 };
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.revoke_user(&session.tag, now(), None).await.expect("available").durability != both
    {
        assert!(Instant::now() < deadline, "the replica never has it");
    }
    assert_eq!(store.revoke_everyone(now()).await.expect("available").durability, both);
}

/// Each such write holds up its connection for as long as the replicas are waited for.
#[tokio::test]
async fn a_burst_of_logins_whose_replicas_are_missing_succeeds_and_shuts_out_nobody() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    (settings.wait_replicas, settings.wait_timeout) = (1, Duration::from_millis(200));
    let store = Store::redis(&settings).expect("good settings");
    let probe = key();
    create(&store, &probe).await.expect("available");
    let (begun, mut logins) = (Instant::now(), JoinSet::new());
    for _ in 0..300 {
        let store = store.clone();
        logins.spawn(async move { create(&store, &key()).await });
    }
    let alone = Ok(Durability::Replicated { asked: 1, got: 0 });
    while !logins.is_empty() {
        assert!(is_live(&load(&store, &probe).await.expect("it answers all the time")));
        while let Some(login) = logins.try_join_next() {
            assert_eq!(login.expect("no panic"), alone);
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_redis_that_drops_what_it_holds_is_advised_against() {
    let server = RedisServer::start(How::with(&["--maxmemory-policy", "allkeys-lru"]));
    is_advised(&server.settings(), Advice::Evicts).await;
}

#[tokio::test]
async fn a_master_that_would_be_believed_after_it_was_left_behind_is_advised_against() {
    let watched = Watched::start();
    is_advised(&watched.settings(), Advice::Unfenced).await;
}

async fn is_advised(settings: &RedisSettings, advice: Advice) {
    let store = Store::redis(settings).expect("good settings");
    let advised = || {
        let figures = store.figures().expect("a shared store");
        let all = Advice::ALL.into_iter().zip(figures.advice);
        all.filter(|(_, is_so)| *is_so).map(|(advice, _)| advice).collect::<Vec<_>>()
    };
    let following = store.for_worker();
    let task = tokio::spawn(async move { following.follow().await });
    let deadline = Instant::now() + Duration::from_secs(20);
    while advised() != [advice] {
        assert!(Instant::now() < deadline, "{:?}", advised());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
}

#[tokio::test]
async fn a_server_that_hangs_is_left_alone_and_serves_within_2_s_of_its_return() {
    let server = RedisServer::start(How::default());
    let store = Store::redis(&server.settings()).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    let before = heard(&server);
    server.pause();
    for _ in 0..5 {
        load(&store, &key).await.expect_err("it hangs");
    }
    let sent = store.round_trips();
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..1_000 {
        let store = store.clone();
        all.spawn(async move { load(&store, &key).await });
    }
    let (mut at_once, refused) = (0, tokio::time::Instant::now() + Duration::from_millis(400));
    while let Ok(Some(answer)) = tokio::time::timeout_at(refused, all.join_next()).await {
        let error = answer.expect("no panic").expect_err("it hangs");
        at_once += usize::from(error.0.contains("left alone"));
    }
    assert!(at_once >= 998, "{at_once} of 1,000 were answered at once");
    println!("1,000 answers in {:?}", begun.elapsed());
    assert!(store.round_trips() - sent <= 2, "a question that does not go out is none");
    server.resume();
    let away = works_again(&store, &key, Duration::from_secs(2)).await;
    println!("serves again after {away:?}");
    while all.join_next().await.is_some() {}
    // All that fell on it in the moment of its return: the five, the probes, and who asks here.
    let (questions, connections) = heard(&server);
    assert!(questions - before.0 <= 20, "{} questions", questions - before.0);
    assert!(connections - before.1 <= 10, "{} connections", connections - before.1);
}

/// The look-ups and connections that a server had since its start.
fn heard(server: &RedisServer) -> (u64, u64) {
    let count = |section: &str, name: &str| {
        let text: String = ask(server.port(), &["INFO", section]).expect("an answer");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split(',').next());
        value.map_or(0, |value| value.parse().expect("a number"))
    };
    let questions = count("commandstats", "cmdstat_mget:calls=");
    (questions, count("stats", "total_connections_received:"))
}

#[tokio::test]
async fn more_questions_than_can_wait_are_refused_at_once() {
    let server = RedisServer::start(How::default());
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
        let answer = all.join_next().await.expect("one more").expect("no panic");
        let error = answer.expect_err("too many wait");
        assert!(error.0.contains("1024 questions"), "{error}");
    }
    server.resume();
    while let Some(answer) = all.join_next().await {
        assert!(is_live(&answer.expect("no panic").expect("had its place")));
    }
    assert_eq!(store.figures().expect("a shared store").shed, 476);
}

#[tokio::test]
async fn cve_2023_28858_thousands_of_dropped_questions_give_nobody_anothers_answer() {
    let server = RedisServer::start(How::default());
    let store = Store::redis(&server.settings()).expect("good settings");
    let keys: Vec<SessionKey> = (0..50).map(|_| key()).collect();
    for key in &keys {
        create(&store, key).await.expect("available");
    }
    let mut kept = 0;
    for round in 0..100_usize {
        let mut asked = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let (store, key) = (store.clone(), *key);
            let task = tokio::spawn(async move { load(&store, &key).await });
            asked.push((task, (number * 7 + round) % 3 > 0));
        }
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        for (task, leaves) in &asked {
            if *leaves {
                task.abort();
            }
        }
        for (task, leaves) in asked {
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

/// The key of a record, as Redis knows it.
fn record(key: &SessionKey) -> String {
    format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0))
}

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_value_that_doorward_never_wrote_is_refused_before_it_is_read() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    // So that it is not the clock that refuses it.
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    let (poisoned, others) = (key(), [(); 20].map(|()| key()));
    for key in others.iter().chain([&poisoned]) {
        create(&store, key).await.expect("available");
    }
    server.command(&["SETRANGE", &record(&poisoned), "200000000", "x"]);
    let before = peak();
    for _ in 0..3 {
        let mut around = JoinSet::new();
        for key in others {
            let store = store.clone();
            around.spawn(async move { load(&store, &key).await });
        }
        let loaded = load(&store, &poisoned).await.map(|slot| is_live(&slot));
        let error = loaded.expect_err("200 MB");
        assert!(error.0.contains("doorward never wrote"), "{error}");
        while let Some(answer) = around.join_next().await {
            let slot = answer.expect("no panic").expect("asked again by another connection");
            assert!(is_live(&slot), "of somebody else");
        }
    }
    let grown = peak() - before;
    assert!(grown < 50_000, "{grown} KiB");
}

#[tokio::test]
async fn a_list_of_a_million_sessions_is_refused_before_it_is_read() {
    let server = RedisServer::start(How::default());
    let mut settings = server.settings();
    settings.response_timeout = Duration::from_secs(20);
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    let index = format!("dw:u:{{{}}}", HEXLOWER.encode(&key.tag.0));
    let fill = "for i = 1, 1000000 do redis.call('HSET', KEYS[1], i, i) end return 1";
    assert_eq!(ask::<i64>(server.port(), &["EVAL", fill, "1", &index]), Some(1));
    let before = peak();
    let listed = store.sessions_of(&key.tag).await.map(|listed| listed.len());
    let error = listed.expect_err("a million");
    assert!(error.0.contains("doorward never wrote"), "{error}");
    let grown = peak() - before;
    assert!(grown < 50_000, "{grown} KiB");
    assert!(is_live(&load(&store, &key).await.expect("his sessions are served")));
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_replaced_after_two_answers_that_did_not_come() {
    // Accepts, acknowledges and never says a word: a proxy whose server is gone.
    let server = RedisServer::start(How::default());
    let proxy = HalfOpen::start(server.port()).await;
    let mut settings = server.settings();
    settings.url = format!("redis://127.0.0.1:{}", proxy.port);
    let store = Store::redis(&settings).expect("good settings");
    let key = key();
    create(&store, &key).await.expect("available");
    proxy.silence.store(true, Ordering::SeqCst);
    load(&store, &key).await.expect_err("silent");
    // New connections are well; the old one stays silent for ever.
    proxy.silence.store(false, Ordering::SeqCst);
    load(&store, &key).await.expect_err("silent still");
    assert!(is_live(&load(&store, &key).await.expect("by a new connection")));
}

/// A proxy. When silenced, what connections are open then never hear of the server again.
struct HalfOpen {
    port: u16,
    silence: Arc<AtomicBool>,
}

impl HalfOpen {
    async fn start(to: u16) -> HalfOpen {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let silence = Arc::new(AtomicBool::new(false));
        let quiet = Arc::clone(&silence);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, to, Arc::clone(&quiet)));
            }
        });
        HalfOpen { port, silence }
    }
}

async fn relay(client: tokio::net::TcpStream, to: u16, quiet: Arc<AtomicBool>) {
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
            is_silent |= quiet.load(Ordering::SeqCst);
            if !is_silent && to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(forward, back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_followed_through_failovers_without_a_restart() {
    let mut watched = Watched::start();
    let mut settings = watched.settings();
    // Of two. With one, the replica that is left behind may be the one that had it.
    settings.wait_replicas = 2;
    settings.wait_timeout = Duration::from_millis(500);
    let store = Store::redis(&settings).expect("good settings");
    let users: Vec<UserTag> = (0..10).map(|_| UserTag(random_bytes())).collect();
    let working = Worker::start(&store, &users, true);
    let mut stranger = settings.clone();
    stranger.sentinel_password = Some("guessed".to_owned().into());
    let refused = Store::redis(&stranger).expect("good settings").ping().await;
    let text = refused.expect_err("the sentinels ask for a password").0;
    assert!(text.contains("no sentinel names") && !text.contains("guessed"), "{text}");
    let _following = Following::start(&store);
    let probe = key();
    create(&store, &probe).await.expect("available");

    let chosen = watched.change_master();
    println!("the master is {chosen}");
    println!("after a change: {:?}", works_again(&store, &probe, Duration::from_secs(5)).await);
    eventually_writes(&store, chosen).await;
    let chosen = watched.lose_master();
    println!("the master is {chosen}");
    println!("after a loss: {:?}", works_again(&store, &probe, Duration::from_secs(2)).await);
    eventually_writes(&store, chosen).await;
    // What the new master changes is told too.
    comes_to_be_known(&store, &probe).await;
    let other = Store::redis(&settings).expect("good settings");
    is_forgotten_when_another_ends_it(&store, &other, &probe).await;

    let (book, failed) = working.stop().await;
    let compared = beginnings_and_ends_stand(&store, &book).await;
    println!("{compared} of {} compared, {failed} failed meanwhile", book.len());
    assert!(compared > 20 && failed > 0, "{compared} say something, {failed} failed");
}

/// Renewals are not waited for, so a failover may lose some. A beginning and an end stand.
async fn beginnings_and_ends_stand(store: &Store, book: &Book) -> usize {
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

/// A write goes through, and it is the master who has it.
async fn eventually_writes(store: &Store, master: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let key = key();
        let created = create(store, &key).await;
        let name =
            format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0));
        if created.is_ok() && ask::<bool>(master, &["EXISTS", &name]) == Some(true) {
            // It may have hung up on its clients when it came to lead: then it is asked again.
            if let Some(role) = ask::<String>(master, &["INFO", "replication"]) {
                assert!(role.contains("role:master"), "{role}");
                return;
            }
        }
        assert!(Instant::now() < deadline, "no write reaches the master: {created:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends with its test.
struct Following {
    task: tokio::task::JoinHandle<()>,
}

impl Following {
    fn start(store: &Store) -> Following {
        let store = store.for_worker();
        Following { task: tokio::spawn(async move { store.follow().await }) }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Loads until it is known without asking.
async fn comes_to_be_known(store: &Store, key: &SessionKey) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.known(key).is_none() {
        assert!(Instant::now() < deadline, "never known");
        load(store, key).await.unwrap_or(Slot::Absent);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Another gateway ends it; how long this one went on knowing it.
async fn is_forgotten_when_another_ends_it(store: &Store, other: &Store, key: &SessionKey) {
    end(other, key).await.expect("available");
    let begun = Instant::now();
    while store.known(key).is_some_and(|known| is_live(&known.slot)) {
        assert!(begun.elapsed() < Duration::from_secs(3), "still believed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("forgotten after {:?}", begun.elapsed());
    assert!(matches!(load(store, key).await, Ok(Slot::Ended { .. })));
}

fn slot_of(cluster: &Cluster, tag: &UserTag) -> u16 {
    cluster.slot(&format!("dw:u:{{{}}}", HEXLOWER.encode(&tag.0)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_nothing_is_lost_while_slots_move_and_a_primary_fails() {
    let mut cluster = Cluster::start();
    let store = Store::redis(&cluster.settings()).expect("good settings");
    let users: Vec<UserTag> = (0..10).map(|_| UserTag(random_bytes())).collect();
    let _following = Following::start(&store);
    every_primary_tells_of_its_changes(&cluster, &store).await;
    a_login_waits_while_its_keys_are_on_their_way(&cluster, &store).await;
    a_slot_moves_under_load(&cluster, &store, &users).await;
    a_primary_fails_under_load(&mut cluster, &store, &users).await;
}

/// With another authority, and without a certificate of our own.
async fn strangers_are_refused(settings: &RedisSettings) {
    let other = RedisServer::start(How::tls());
    let mistrusts = RedisSettings { ca: other.settings().ca, ..settings.clone() };
    let unnamed = RedisSettings { client_cert: None, client_key: None, ..settings.clone() };
    for (stranger, why) in
        [(mistrusts, "invalid peer certificate"), (unnamed, "CertificateRequired")]
    {
        let refused = Store::redis(&stranger).expect("good settings").ping().await;
        let text = refused.expect_err("a stranger").0;
        assert!(text.contains(why), "{text}");
    }
}

/// Each primary keeps what belongs to it, and tells of it; a slot that moves is found again.
async fn a_cluster_is_used_by_tls(cluster: &TlsCluster) {
    let store = Store::redis(&cluster.settings()).expect("good settings");
    let other = Store::redis(&cluster.settings()).expect("good settings");
    let _following = Following::start(&store);
    let slot = |tag: &UserTag| -> u16 {
        let name = format!("{{{}}}", HEXLOWER.encode(&tag.0));
        let said = cluster.servers[0].command(&["CLUSTER", "KEYSLOT", &name]);
        said.trim_start_matches(':').parse().expect("a slot")
    };
    let mut used = std::collections::BTreeSet::new();
    while used.len() < 3 {
        let key = key();
        let (slot, shares) = (slot(&key.tag), [5_461, 10_923, 16_384]);
        let owner = shares.iter().position(|end| slot < *end).expect("of all slots");
        create(&store, &key).await.expect("available");
        comes_to_be_known(&store, &key).await;
        is_forgotten_when_another_ends_it(&store, &other, &key).await;
        if used.insert(owner) {
            cluster.servers[owner].command(&["FLUSHALL"]);
            cluster.move_slot(slot, owner);
            let moved = SessionKey { id: SessionId(random_bytes()), ..key };
            create(&store, &moved).await.expect("where it is now");
            assert!(is_live(&load(&store, &moved).await.expect("where it is now")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_speaks_nothing_but_tls_is_used_by_its_addresses() {
    let cluster = TlsCluster::start("127.0.0.1");
    a_cluster_is_used_by_tls(&cluster).await;
    strangers_are_refused(&cluster.settings()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_certificates_name_hosts_is_used_by_the_names_that_it_announces() {
    a_cluster_is_used_by_tls(&TlsCluster::start("localhost")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_speak_nothing_but_tls_are_followed() {
    let watched = TlsWatched::start();
    let store = Store::redis(&watched.settings()).expect("good settings");
    let _following = Following::start(&store);
    let key = key();
    create(&store, &key).await.expect("available");
    comes_to_be_known(&store, &key).await;
    watched.change_master();
    works_again(&store, &key, Duration::from_secs(10)).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while end(&store, &key).await.is_err() {
        assert!(Instant::now() < deadline, "the new master takes writes");
    }
    assert!(matches!(load(&store, &key).await, Ok(Slot::Ended { .. })));
    strangers_are_refused(&watched.settings()).await;
}

async fn every_primary_tells_of_its_changes(cluster: &Cluster, store: &Store) {
    let other = Store::redis(&cluster.settings()).expect("good settings");
    let mut primaries = std::collections::BTreeSet::new();
    while primaries.len() < 3 {
        let key = key();
        primaries.insert(cluster.owner(slot_of(cluster, &key.tag)));
        create(store, &key).await.expect("available");
        comes_to_be_known(store, &key).await;
        is_forgotten_when_another_ends_it(store, &other, &key).await;
    }
}

async fn a_login_waits_while_its_keys_are_on_their_way(cluster: &Cluster, store: &Store) {
    let first = key();
    create(store, &first).await.expect("available");
    let second = SessionKey { id: SessionId(random_bytes()), ..first };
    let slot = slot_of(cluster, &first.tag);
    let (from, to) = (cluster.owner(slot), cluster.another(slot));
    cluster.begin_migration(slot, from, to);
    assert_eq!(cluster.move_keys(slot, from, to, 1), 1, "a record and an index: one is left");
    let begun = Instant::now();
    let error = create(store, &second).await.expect_err("half is here and half there");
    let gave_up = begun.elapsed();
    assert!(error.0.contains("is moving these sessions"), "{error}");
    // A second for a new connection, half of one for the answer.
    let deadline = Duration::from_millis(1_500);
    assert!((deadline - deadline / 5..deadline * 2).contains(&gave_up), "{gave_up:?}");
    let server = cluster.servers.iter().find(|one| one.port() == from).expect("one of ours");
    let stopped = async {
        tokio::time::sleep(deadline.mul_f64(0.8)).await;
        server.pause();
    };
    let (created, ()) = tokio::join!(create(store, &second), stopped);
    server.resume();
    let error = created.expect_err("half is here and half there").0;
    assert!(error.contains("is moving these sessions"), "whatever was under way: {error}");
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
    // The keys of a session that is not there yet are missing until the slot has moved.
    cluster.end_migration(slot, from, to);
    let whole = Instant::now();
    waiting.await.expect("no panic").expect("the slot is there");
    println!("gave up after {gave_up:?}; went on {:?} after the slot", whole.elapsed());
    eventually("all know the new owner", || cluster.owner(slot) == to);
    assert!(is_live(&load(store, &second).await.expect("available")));
}

async fn a_slot_moves_under_load(cluster: &Cluster, store: &Store, users: &[UserTag]) {
    let working = Worker::start(store, users, false);
    eventually("all users have sessions", || {
        let sizes = cluster.servers.iter().filter_map(|one| ask::<usize>(one.port(), &["DBSIZE"]));
        sizes.sum::<usize>() > 400
    });
    for tag in &users[..5] {
        let slot = slot_of(cluster, tag);
        let (from, to) = (cluster.owner(slot), cluster.another(slot));
        cluster.begin_migration(slot, from, to);
        cluster.move_keys(slot, from, to, 5);
        // Half of the user's keys are here and half there: each of them can be read.
        let held: Vec<String> =
            ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]).expect("an answer");
        assert!(!held.is_empty());
        let lines = store.not_before(tag).await.expect("one key is read wherever it is");
        assert_eq!(lines.at, UnixMillis(0));
        load(store, &SessionKey { tag: *tag, id: SessionId(random_bytes()) })
            .await
            .expect("three keys are read one by one");
        while cluster.move_keys(slot, from, to, 100) > 0 {}
        cluster.end_migration(slot, from, to);
        eventually("all know the new owner", || cluster.owner(slot) == to);
        let key = SessionKey { tag: *tag, id: SessionId(random_bytes()) };
        create(store, &key).await.expect("available");
        comes_to_be_known(store, &key).await;
        let other = Store::redis(&cluster.settings()).expect("good settings");
        is_forgotten_when_another_ends_it(store, &other, &key).await;
    }
    let (book, failed) = working.stop().await;
    let compared = nothing_is_lost(store, &book).await;
    println!("slots moved: {compared} of {} compared, {failed} failed meanwhile", book.len());
    assert!(compared > 20 && compared + failed >= book.len(), "{compared} of {}", book.len());
    let listed = store.all(1_000_000).await.expect("available").len();
    // A listing of one user ends at 1,000.
    let live = book.values().filter(|state| matches!(state, Acknowledged::Live { .. })).count();
    assert!(listed >= live.min(900 * users.len()), "{listed} of {live}: all primaries are walked");
}

async fn a_primary_fails_under_load(cluster: &mut Cluster, store: &Store, users: &[UserTag]) {
    let working = Worker::start(store, users, false);
    let probe = key();
    create(store, &probe).await.expect("available");
    let slot = slot_of(cluster, &probe.tag);
    let everybodys = cluster.slot("dw:everyone");
    cluster.lose_primary(slot);
    println!("after a loss: {:?}", works_again(store, &probe, Duration::from_secs(2)).await);
    assert!(store.revoke_everyone(UnixMillis(7)).await.is_ok(), "slot {everybodys}");
    let (book, failed) = working.stop().await;
    println!("a primary failed: {} sessions, {failed} failed meanwhile", book.len());
    for key in book.keys() {
        load(store, key).await.expect("every slot has a primary again");
    }
}
