//! The session cache of several gateways with one Redis, and the delay of revocations.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::message::CookieLookup;
use doorward::session::ClientContext;
use doorward::sessions::Sessions;
use doorward::store::Store;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, past_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts gateways with one Redis, the same keys and users, and invalidation.
async fn several<const N: usize>(upstream: &Upstream, store: &str, more: &str) -> [Gateway; N] {
    let mut shared_directory = None;
    let gateways = std::array::from_fn(|_| {
        let gateway = Gateway::start(Setup {
            routes: session_route(upstream.address),
            store: format!("{store}\"\n{more}\n#\""),
            shared_directory: shared_directory.clone(),
            ..Setup::default()
        });
        shared_directory = Some(Arc::clone(&gateway.directory));
        gateway
    });
    for gateway in &gateways {
        until(async || number(gateway, "doorward_store_invalidation_age_seconds").await >= 0.0)
            .await;
    }
    gateways
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !done().await {
        assert!(Instant::now() < deadline, "it does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns a value of a gateway's metrics.
async fn number(gateway: &Gateway, name: &str) -> f64 {
    let metrics = gateway.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

/// Returns the number of session reads that Redis counted.
fn reads(redis: &RedisServer) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    calls.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("a count"))
}

#[tokio::test]
async fn cached_session_needs_no_redis_round_trip() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let [gateway] = several(&upstream, &redis.settings().url, "").await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    // The invalidation of the login can arrive after that and cause another read.
    until(async || {
        let before = reads(&redis);
        browser.fetch("/").await.status == StatusCode::OK && reads(&redis) == before
    })
    .await;

    let (began, before) = (Instant::now(), reads(&redis));
    let trips = number(&gateway, "doorward_store_round_trips_total").await;
    let known = number(&gateway, "doorward_session_cache_lookups_total{result=\"hit\"}").await;
    for _ in 0..50 {
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    assert_eq!(reads(&redis), before, "50 requests, and Redis received no reads");
    let known =
        number(&gateway, "doorward_session_cache_lookups_total{result=\"hit\"}").await - known;
    assert!((known - 50.0).abs() < 0.1, "{known}");
    // The gateway reads the global cutoff once a second.
    let trips = number(&gateway, "doorward_store_round_trips_total").await - trips;
    assert!(trips <= began.elapsed().as_secs_f64() + 2.0, "{trips}");
}

#[tokio::test]
async fn without_the_cache_every_request_queries_redis() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let off = "local_cache = \"off\"";
    let [gateway] = several(&upstream, &redis.settings().url, off).await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let before = reads(&redis);
    for _ in 0..20 {
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    assert_eq!(reads(&redis) - before, 20);
}

#[tokio::test]
async fn logout_invalidates_the_other_cache_within_a_second() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateways: [Gateway; 2] = several(&upstream, &redis.settings().url, "").await;
    let mut browser = Browser::new(&gateways[0]);
    browser.log_in("alice").await;
    let mut other = browser.at_gateway(&gateways[1]);
    for _ in 0..3 {
        assert_eq!(other.fetch("/").await.status, StatusCode::OK);
    }
    let form = browser.navigate("/.doorward/logout").await;
    browser.post_form("/.doorward/logout", &[("csrf", &form.form_field("csrf"))]).await;
    let began = Instant::now();
    until(async || other.fetch("/").await.status == StatusCode::UNAUTHORIZED).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(other.fetch("/").await.json()["reason"], "logout");
}

/// Invariant S9.
/// The cache can only admit a session, never reject it: its copy of a session that another gateway serves is outdated.
#[tokio::test]
async fn activity_at_another_gateway_keeps_a_cached_session_alive() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let clock = past_clock();
    let setup = |shared_directory| Setup {
        routes: session_route(upstream.address),
        session: "idle_timeout = \"30m\"\nrotate_after = \"2h\"".to_owned(),
        store: redis.settings().url,
        clock: clock.clone(),
        shared_directory,
        ..Setup::default()
    };
    let here = Gateway::start(setup(None));
    let there = Gateway::start(setup(Some(Arc::clone(&here.directory))));
    let changes_age = "doorward_store_invalidation_age_seconds";
    until(async || number(&there, changes_age).await >= 0.0).await;
    let mut browser = Browser::new(&here);
    browser.log_in("alice").await;
    let minutes = |minutes: u64| clock.advance(Duration::from_secs(60 * minutes));
    // After a minute the browser has written its token to disk, which is recorded once.
    minutes(2);
    let mut poller = Poller::new(&browser, &there).await;
    poller.warm_up(&there).await;

    for _ in 0..4 {
        minutes(20);
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "in use here");
    }
    let metric = "doorward_session_cache_lookups_total{result=\"hit\"}";
    let before = number(&there, metric).await;
    minutes(20);
    // By this clock the cached global cutoff is too old, so it must be read again first.
    let trips = "doorward_store_round_trips_total";
    let read = number(&there, trips).await + 3.0;
    until(async || number(&there, trips).await >= read).await;
    assert_eq!(poller.status().await, StatusCode::OK, "and so alive there");
    assert!(number(&there, metric).await > before, "the cached sessions are checked first");

    minutes(31);
    assert_eq!(poller.status().await, StatusCode::UNAUTHORIZED, "the session was idle");
    assert_eq!(browser.fetch("/").await.json()["reason"], "idle");
}

/// A connection that sends requests for one session without pause.
struct Poller {
    sender: SendRequest<Empty<Bytes>>,
    token: String,
}

impl Poller {
    async fn new(browser: &Browser, gateway: &Gateway) -> Poller {
        let tls = TokioIo::new(browser.at_gateway(gateway).connect().await);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(tls).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Poller { sender, token: browser.token() }
    }

    async fn status(&mut self) -> StatusCode {
        let cookie = format!("{SESSION}={}", self.token);
        let request = Request::get("/").header("host", "app.test").header("cookie", cookie);
        let request = request.body(Empty::new()).expect("a request");
        let response = self.sender.send_request(request).await.expect("a response");
        let status = response.status();
        response.into_body().collect().await.expect("a body");
        status
    }

    /// Sends requests until the session is cached; the invalidation of its creation can still be in flight.
    async fn warm_up(&mut self, gateway: &Gateway) {
        let metric = "doorward_session_cache_lookups_total{result=\"miss\"}";
        until(async || {
            let before = number(gateway, metric).await;
            for _ in 0..10 {
                assert_eq!(self.status().await, StatusCode::OK);
            }
            number(gateway, metric).await - before < 0.1
        })
        .await;
    }

    /// Sends requests until the first rejection and returns its time.
    async fn refused(mut self) -> Instant {
        let deadline = Instant::now() + TIMEOUT;
        while self.status().await == StatusCode::OK {
            assert!(Instant::now() < deadline, "it is never refused");
        }
        Instant::now()
    }
}

/// Ways to end alice's session at a gateway.
#[derive(Clone, Copy, Debug)]
enum EndKind {
    Logout,
    One,
    User,
    AllUsers,
}

impl EndKind {
    const ALL: [EndKind; 4] = [EndKind::Logout, EndKind::One, EndKind::User, EndKind::AllUsers];

    async fn act(self, browser: &mut Browser, gateway: &Gateway) -> Instant {
        match self {
            EndKind::Logout => {
                let form = browser.navigate("/.doorward/logout").await;
                let fields = [("csrf", form.form_field("csrf"))];
                let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
                browser.post_form("/.doorward/logout", &fields).await;
            }
            EndKind::One => {
                let list = operator(gateway, "GET /sessions?user=alice").await;
                let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
                let session = list[0]["session"].as_str().expect("one session");
                operator(gateway, &format!("POST /revoke?session={session}")).await;
            }
            EndKind::User => drop(operator(gateway, "POST /revoke?user=alice").await),
            EndKind::AllUsers => drop(operator(gateway, "POST /revoke?all=1").await),
        }
        Instant::now()
    }
}

async fn operator(gateway: &Gateway, line: &str) -> String {
    let mut stream = UnixStream::connect(gateway.socket()).await.expect("a connection");
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// Creates a session of alice directly, because login throttling would reject so many logins.
async fn session(gateway: &Gateway, redis: &RedisServer) -> Browser {
    let store = Store::redis(&redis.settings()).expect("good settings");
    let sessions = Sessions::new(store, Arc::clone(gateway.shared()), gateway.session_settings());
    let account = sessions
        .shared()
        .login_methods
        .password()
        .and_then(|login| login.directory().find("alice"));
    let from = ClientContext::new(Ipv4Addr::LOCALHOST.into(), b"");
    let token = sessions
        .create_session(&account.expect("alice").as_ref().into(), &CookieLookup::Missing, from)
        .await;
    Browser::new(gateway).with_token(&token.expect("available").token)
}

/// Ends a session at the first gateway while the others serve requests for it. Returns the time from the
/// acknowledgement to the rejection at each of them.
async fn measure_one_end(gateways: &[Gateway], redis: &RedisServer, end: EndKind) -> Vec<Duration> {
    let mut browser = session(&gateways[0], redis).await;
    let mut polls = JoinSet::new();
    for gateway in &gateways[1..] {
        let mut poller = Poller::new(&browser, gateway).await;
        poller.warm_up(gateway).await;
        polls.spawn(poller.refused());
    }
    let acknowledged = end.act(&mut browser, &gateways[0]).await;
    let refused = polls.join_all().await;
    refused.into_iter().map(|at| at.saturating_duration_since(acknowledged)).collect()
}

async fn measured(rounds: usize) {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let gateways: [Gateway; 3] = several(&upstream, &redis.settings().url, "").await;
    let mut by_end = EndKind::ALL.map(|end| (end, Vec::new()));
    for round in 0..rounds {
        let (end, took) = &mut by_end[round % EndKind::ALL.len()];
        took.extend(measure_one_end(&gateways, &redis, *end).await);
    }
    for (end, mut took) in by_end {
        took.sort();
        let (median, worst) = (took[took.len() / 2], *took.last().expect("some"));
        println!("{end:?}: {} refusals, median {median:?}, worst {worst:?}", took.len());
        assert!(worst < Duration::from_secs(1), "{end:?}: {worst:?}");
    }
}

#[tokio::test]
async fn revocation_reaches_every_gateway_within_a_second() {
    measured(50).await;
}

#[tokio::test]
#[ignore = "the long form, two minutes: cargo nextest run --run-ignored only -- revocation::long"]
async fn long_revocation_reaches_every_gateway_within_a_second() {
    measured(1_000).await;
}

/// A proxy in front of Redis that can drop invalidations while connections stay open.
struct InvalidationFilter {
    address: SocketAddr,
    silent: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl InvalidationFilter {
    async fn in_front_of(redis: &RedisServer) -> InvalidationFilter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let target = redis.settings().url.trim_start_matches("redis://").to_owned();
        let silent = Arc::<AtomicBool>::default();
        let mut task = JoinSet::new();
        task.spawn(filter_pushes(listener, target, Arc::clone(&silent)));
        InvalidationFilter { address, silent, _task: task }
    }
}

async fn filter_pushes(listener: TcpListener, target: String, silent: Arc<AtomicBool>) {
    let mut pumps = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(&target).await.expect("Redis is there");
        // Otherwise the kernel delays small writes (Nagle's algorithm).
        client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("sockets");
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let follows = Arc::<AtomicBool>::default();
        let (marks, reads, silent) = (Arc::clone(&follows), follows, Arc::clone(&silent));
        pumps.spawn(pump(from_client, to_server, move |bytes| {
            if bytes.windows(8).any(|part| part == b"TRACKING") {
                marks.store(true, Ordering::SeqCst);
            }
            true
        }));
        pumps.spawn(pump(from_server, to_client, move |_| {
            !(reads.load(Ordering::SeqCst) && silent.load(Ordering::SeqCst))
        }));
    }
}

/// Forwards the messages that `passes` selects.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passes: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || (passes(&buffer[..count]) && to.write_all(&buffer[..count]).await.is_err())
        {
            return;
        }
    }
}

async fn filtered_gateway(rounds: usize) {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let muffler = InvalidationFilter::in_front_of(&redis).await;
    let [first] = several(&upstream, &redis.settings().url, "").await;
    let second = Gateway::start(Setup {
        routes: session_route(upstream.address),
        store: format!("redis://{}", muffler.address),
        shared_directory: Some(Arc::clone(&first.directory)),
        ..Setup::default()
    });
    let gateways = [first, second];
    let mut worst = Duration::ZERO;
    for _ in 0..rounds {
        muffler.silent.store(false, Ordering::SeqCst);
        until(async || {
            let age = number(&gateways[1], "doorward_store_invalidation_age_seconds").await;
            (0.0..0.9).contains(&age)
        })
        .await;
        let mut browser = session(&gateways[0], &redis).await;
        let mut poller = Poller::new(&browser, &gateways[1]).await;
        poller.warm_up(&gateways[1]).await;
        muffler.silent.store(true, Ordering::SeqCst);
        let acknowledged = EndKind::Logout.act(&mut browser, &gateways[0]).await;
        let took = poller.refused().await.saturating_duration_since(acknowledged);
        assert!(took < Duration::from_millis(3_100), "{took:?}");
        worst = worst.max(took);
    }
    println!("{rounds} ends without an invalidation: the latest refusal came after {worst:?}");
    assert!(worst > Duration::from_millis(500), "nothing was filtered_gateway: {worst:?}");
}

#[tokio::test]
async fn missed_revocation_takes_effect_within_three_seconds() {
    filtered_gateway(1).await;
}

#[tokio::test]
#[ignore = "the long form, two minutes: cargo nextest run --run-ignored only -- revocation::long"]
async fn long_missed_revocation_takes_effect_within_three_seconds() {
    filtered_gateway(30).await;
}
