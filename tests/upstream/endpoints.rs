//! Routes with several endpoints: distribution, ejection and return.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorward::message::Endpoint;
use doorward::upstream::{
    Affinity, Caller, EndpointStates, Priority, Resolver, Standing, UpstreamError, UpstreamSettings,
};
use http::StatusCode;
use tokio::net::UnixListener;
use tokio::sync::{Barrier, watch};
use tokio::time::Instant;

use crate::client::{
    OK, TestUpstreams, Upstream, advance, get, head, http2, post, send, text, unreachable,
    upstreams, upstreams_with, within,
};

/// Sends a request and returns the body.
async fn fetch(upstreams: &TestUpstreams, endpoints: &[Endpoint]) -> Result<String, UpstreamError> {
    Ok(text(upstreams.send(Priority::Authenticated, endpoints, get()).await?).await)
}

/// An upstream that closes every connection at once, which fails the TLS handshake.
async fn broken() -> Upstream {
    Upstream::start_at("https", "localhost", |stream, _| async move { drop(stream) }).await
}

#[tokio::test]
async fn endpoints_rotate_and_a_busy_one_is_avoided() {
    let (one, two) = (Upstream::responding(OK).await, Upstream::responding(OK).await);
    let both = [one.endpoint.clone(), two.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        let held = [
            upstreams.send(Priority::Authenticated, &both, get()).await.expect("a response"),
            upstreams.send(Priority::Authenticated, &both, get()).await.expect("a response"),
        ];
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        let [first, second] = held;
        assert_eq!(text(second).await, "ok");
        // It is the turn of the first endpoint, which is busy.
        for _ in 0..3 {
            assert_eq!(fetch(&upstreams, &both).await.expect("a response"), "ok");
        }
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        assert_eq!(text(first).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn a_refusing_endpoint_is_skipped_without_losing_a_request() {
    let live = Upstream::responding(OK).await;
    let both = [unreachable().await, live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        for _ in 0..4 {
            let response = upstreams
                .send(Priority::Authenticated, &both, post("order=1"))
                .await
                .expect("a response");
            drop(response);
        }
        let error = upstreams
            .send(Priority::Authenticated, &[unreachable().await, unreachable().await], get())
            .await
            .err();
        assert_eq!(error, Some(UpstreamError::ConnectionRefused));
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_endpoint_is_not_retried_during_its_cooldown() {
    let live = Upstream::responding(OK).await;
    let broken = Upstream::start_at("https", "localhost", |stream, _| async move {
        drop(stream);
    })
    .await;
    let both = [broken.endpoint.clone(), live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        for _ in 0..6 {
            let response =
                upstreams.send(Priority::Authenticated, &both, get()).await.expect("a response");
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!((broken.accepted(), live.accepted()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_route_without_an_endpoint_is_a_503() {
    let error = upstreams().send(Priority::Authenticated, &[], get()).await.expect_err("error");
    assert_eq!(
        (error.status(), error.proxy_status()),
        (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable")
    );
}

// ---- state shared by workers -------------------------------------------------------------------

fn two_workers() -> (TestUpstreams, TestUpstreams) {
    let states = EndpointStates::default();
    let worker = || upstreams().with_shared_states(states.clone(), 0);
    (worker(), worker())
}

#[tokio::test]
async fn workers_share_the_health_of_an_endpoint() {
    let (broken, live) = (broken().await, Upstream::responding(OK).await);
    let both = [broken.endpoint.clone(), live.endpoint.clone()];
    within(async {
        let (first, second) = two_workers();
        for worker in [&first, &second, &second, &second] {
            assert_eq!(fetch(worker, &both).await.expect("a response"), "ok");
        }
        assert_eq!(broken.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn workers_share_the_number_of_exchanges_in_progress() {
    let (one, two) = (Upstream::responding(OK).await, Upstream::responding(OK).await);
    let both = [one.endpoint.clone(), two.endpoint.clone()];
    within(async {
        let (first, second) = two_workers();
        // The first request of each worker goes to the first endpoint, if both are equally busy.
        let held = first.send(Priority::Authenticated, &both, get()).await.expect("a response");
        assert_eq!((one.accepted(), two.accepted()), (1, 0));
        let other = second.send(Priority::Authenticated, &both, get()).await.expect("a response");
        assert_eq!((one.accepted(), two.accepted()), (1, 1));
        assert_eq!((text(held).await, text(other).await), ("ok".to_owned(), "ok".to_owned()));
    })
    .await;
}

// ---- ejection and return -----------------------------------------------------------------------

/// An upstream that accepts connections and requests, and responds while `alive`.
async fn stoppable() -> (Upstream, watch::Sender<bool>, Arc<AtomicUsize>) {
    let (alive, is_alive) = watch::channel(true);
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let upstream = Upstream::start(move |mut stream, _| {
        let (mut is_alive, counter) = (is_alive.clone(), Arc::clone(&counter));
        async move {
            while head(&mut stream).await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
                if is_alive.wait_for(|alive| *alive).await.is_err() {
                    return;
                }
                send(&mut stream, OK).await;
            }
        }
    })
    .await;
    (upstream, alive, requests)
}

#[tokio::test]
async fn a_stopped_endpoint_fails_three_requests_then_trials() {
    let (stopped, alive, requests) = stoppable().await;
    let live = Upstream::responding(OK).await;
    let both = [stopped.endpoint.clone(), live.endpoint.clone()];
    // Longer than the advances of the clock.
    let limit = Duration::from_secs(120);
    let test = async {
        let states = EndpointStates::default();
        let settings = UpstreamSettings {
            response_timeout: Duration::from_millis(50),
            ..UpstreamSettings::default()
        };
        let upstreams = upstreams_with(settings).with_shared_states(states.clone(), 0);
        alive.send_replace(false);
        let mut failed = 0;
        for _ in 0..40 {
            match fetch(&upstreams, &both).await {
                Ok(body) => assert_eq!(body, "ok"),
                Err(error) => {
                    assert_eq!(error, UpstreamError::ResponseTimeout);
                    failed += 1;
                }
            }
        }
        assert_eq!((failed, requests.load(Ordering::SeqCst)), (3, 3));
        advance(Duration::from_secs(11)).await;
        let trial = fetch(&upstreams, &both).await;
        assert_eq!(trial, Err(UpstreamError::ResponseTimeout));
        for _ in 0..10 {
            assert_eq!(fetch(&upstreams, &both).await.expect("a response"), "ok");
        }
        alive.send_replace(true);
        advance(Duration::from_secs(21)).await;
        assert_eq!(fetch(&upstreams, &both).await.expect("the trial"), "ok");
        let state = states.get(&stopped.endpoint);
        assert!(matches!(state.standing(Instant::now()), Standing::Starting(100..200)));
        advance(Duration::from_secs(11)).await;
        assert_eq!(state.standing(Instant::now()), Standing::Up);
        assert_eq!(state.outstanding(), 0);
    };
    tokio::time::timeout(limit, test).await.expect("in time");
}

#[tokio::test]
async fn requests_at_once_avoid_a_stopped_endpoint() {
    let (stopped, alive, requests) = stoppable().await;
    let live = Upstream::responding(OK).await;
    let both = [stopped.endpoint.clone(), live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        alive.send_replace(false);
        let stuck = upstreams.send(Priority::Authenticated, &both, get());
        tokio::pin!(stuck);
        assert!(futures_util::poll!(stuck.as_mut()).is_pending());
        for _ in 0..40 {
            assert_eq!(fetch(&upstreams, &both).await.expect("a response"), "ok");
        }
        alive.send_replace(true);
        assert_eq!(text(stuck.await.expect("a response")).await, "ok");
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    })
    .await;
}

#[tokio::test]
async fn a_failed_endpoint_is_used_if_no_other_is_left() {
    let broken = broken().await;
    let both = [broken.endpoint.clone(), unreachable().await];
    within(async {
        let upstreams = upstreams();
        for requests in 1..10 {
            fetch(&upstreams, &both).await.expect_err("no endpoint");
            assert_eq!(broken.accepted(), requests);
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_hide_a_silent_endpoint() {
    // Accepts TCP connections and never sends a TLS handshake.
    let silent = Upstream::start_at("https", "localhost", |mut stream, _| async move {
        crate::client::until_closed(&mut stream).await;
    })
    .await;
    let live = Upstream::responding(OK).await;
    let both = [silent.endpoint.clone(), live.endpoint.clone()];
    within(async {
        let upstreams = upstreams();
        let impatient =
            tokio::time::timeout(Duration::from_millis(1_100), fetch(&upstreams, &both));
        impatient.await.expect_err("given up");
        for _ in 0..4 {
            assert_eq!(fetch(&upstreams, &both).await.expect("a response"), "ok");
        }
        assert_eq!(silent.accepted(), 1);
    })
    .await;
}

// ---- stickiness --------------------------------------------------------------------------------

#[tokio::test]
async fn requests_of_a_session_go_to_one_endpoint_until_it_fails() {
    let names: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc",
    ];
    let mut apps = Vec::new();
    for name in names {
        apps.push(Upstream::responding(name).await);
    }
    let endpoints: Vec<Endpoint> = apps.iter().map(|app| app.endpoint.clone()).collect();
    within(async {
        // Two gateways.
        let gateways = [upstreams(), upstreams()];
        let place = async |session: u64| {
            let mut places = Vec::new();
            for gateway in gateways.iter().cycle().take(6) {
                let affinity = Some(Affinity(session));
                let caller = Caller { affinity, ..Priority::Authenticated.into() };
                let sent = gateway.send(caller, &endpoints, get()).await;
                places.push(text(sent.expect("a response")).await);
            }
            assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
            places.swap_remove(0)
        };
        let mut before = Vec::new();
        for session in 0..24 {
            before.push(place(session << 40).await);
        }
        assert!(["a", "b", "c"].iter().all(|name| before.iter().any(|place| place == name)));
    })
    .await;
}

// ---- Unix sockets ------------------------------------------------------------------------------

#[tokio::test]
async fn an_app_at_a_unix_socket_gets_requests() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let app = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    assert!(head.contains("Host: app.test"), "{head}");
                    send(&mut stream, OK).await;
                }
            });
        }
    });
    let endpoint = Endpoint::parse(&format!("unix:{}", path.display())).expect("an endpoint");
    within(async {
        let upstreams = upstreams();
        // The second request uses the connection of the first.
        for _ in 0..2 {
            let only = std::slice::from_ref(&endpoint);
            assert_eq!(fetch(&upstreams, only).await.expect("a response"), "ok");
            let sent = upstreams.send(Priority::Authenticated, only, post("order=1")).await;
            assert!(sent.is_ok_and(|response| response.status() == StatusCode::OK));
        }
        app.abort();
        std::fs::remove_file(&path).expect("removed");
        let live = Upstream::responding(OK).await;
        let both = [endpoint.clone(), live.endpoint.clone()];
        let other = upstreams_with(UpstreamSettings::default());
        assert_eq!(fetch(&other, &both).await.expect("a response"), "ok");
        let error = fetch(&other, std::slice::from_ref(&endpoint)).await.expect_err("no socket");
        assert!(matches!(error, UpstreamError::Unroutable(_)), "{error}");
    })
    .await;
}

// ---- names -------------------------------------------------------------------------------------

/// The answer for every name; `None` is a failure. Counts the lookups.
struct Dns {
    answer: watch::Sender<Option<Vec<SocketAddr>>>,
    lookups: Arc<AtomicUsize>,
}

impl Dns {
    fn new(upstreams: &[&Upstream]) -> Dns {
        let dns = Dns { answer: watch::Sender::new(None), lookups: Arc::default() };
        dns.set(upstreams);
        dns
    }

    fn set(&self, upstreams: &[&Upstream]) {
        let addresses = upstreams.iter().map(|it| ([127, 0, 0, 1], it.endpoint.port()).into());
        self.answer.send_replace(Some(addresses.collect()));
    }

    fn upstreams(&self) -> TestUpstreams {
        let (answer, lookups) = (self.answer.subscribe(), Arc::clone(&self.lookups));
        upstreams().with_resolver(Resolver::new(move |host, _| {
            assert_eq!(host, "app.internal");
            lookups.fetch_add(1, Ordering::SeqCst);
            let answer = answer.borrow().clone();
            Box::pin(async move { answer.ok_or_else(|| io::Error::other("no answer")) })
        }))
    }
}

fn named(scheme: &str) -> [Endpoint; 1] {
    [Endpoint::parse(&format!("{scheme}://app.internal")).expect("an endpoint")]
}

/// Opens a connection with a request that holds it.
async fn connect(upstreams: &TestUpstreams, count: usize) {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(upstreams.send(Priority::Authenticated, &named("http"), get()).await);
    }
    for response in held {
        assert_eq!(text(response.expect("a response")).await, "ok");
    }
}

#[tokio::test]
async fn connections_rotate_over_the_addresses_of_a_name() {
    let (one, two) = (Upstream::responding(OK).await, Upstream::responding(OK).await);
    let dns = Dns::new(&[&one, &two]);
    within(async {
        connect(&dns.upstreams(), 6).await;
        assert_eq!((one.accepted(), two.accepted()), (3, 3));
        assert_eq!(dns.lookups.load(Ordering::SeqCst), 1, "an answer is used for a while");
    })
    .await;
}

#[tokio::test]
async fn an_app_that_moved_is_found_by_the_next_request() {
    let (old, new) = (Upstream::responding(OK).await, Upstream::responding(OK).await);
    let dns = Dns::new(&[&old]);
    within(async {
        let upstreams = dns.upstreams();
        connect(&upstreams, 1).await;
        dns.set(&[&new]);
        drop(old);
        upstreams.retain(|_| true);
        // The idle connection of the old process may still respond.
        connect(&upstreams, 2).await;
        assert!(new.accepted() > 0);
    })
    .await;
}

#[tokio::test]
async fn the_latest_addresses_survive_a_failure_of_the_resolver() {
    let app = Upstream::responding(OK).await;
    let dns = Dns::new(&[&app]);
    within(async {
        let upstreams = dns.upstreams();
        connect(&upstreams, 1).await;
        dns.answer.send_replace(None);
        advance(Duration::from_secs(20)).await;
        connect(&upstreams, 2).await;
        assert!(dns.lookups.load(Ordering::SeqCst) > 1);
        let unknown = dns.upstreams();
        let error = fetch(&unknown, &named("http")).await.expect_err("no address");
        assert!(matches!(error, UpstreamError::Dns(_)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_http2_connection_follows_its_name_to_another_address() {
    let (old, new) =
        (http2(Arc::new(Barrier::new(1))).await, http2(Arc::new(Barrier::new(1))).await);
    let dns = Dns::new(&[&old]);
    // Longer than the advances of the clock.
    let test = async {
        let upstreams = dns.upstreams();
        fetch(&upstreams, &named("h2c")).await.expect("a response");
        dns.set(&[&new]);
        for _ in 0..20 {
            advance(Duration::from_secs(5)).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        fetch(&upstreams, &named("h2c")).await.expect("a response");
        assert_eq!((old.accepted(), new.accepted()), (1, 1));
    };
    tokio::time::timeout(Duration::from_secs(200), test).await.expect("in time");
}
