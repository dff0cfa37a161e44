//! Routes with several endpoints: endpoints that are killed, stopped or unhealthy while requests arrive.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::admin::ReloadMode;
use doorward::upstream::EndpointReport;
use http::StatusCode;
use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup};
use test_support::upstream::header_values;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Behaviour of an app.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Healthy,
    /// Responds with 503 to health checks only.
    Unhealthy,
    /// Accepts connections and requests, and does not respond.
    Stopped,
    /// Responds after 100 ms.
    Slow,
}

/// An endpoint at a fixed address.
struct App {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    requests: Arc<AtomicUsize>,
    /// Request heads of health checks.
    checks: Arc<Mutex<Vec<String>>>,
    running: JoinSet<()>,
}

impl App {
    async fn start() -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mode, requests) = (watch::Sender::new(Mode::Healthy), Arc::default());
        let mut app =
            App { address, mode, requests, checks: Arc::default(), running: JoinSet::new() };
        app.serve(listener);
        app
    }

    fn serve(&mut self, listener: TcpListener) {
        let (mode, requests) = (self.mode.subscribe(), Arc::clone(&self.requests));
        let checks = Arc::clone(&self.checks);
        self.running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (mode, requests, checks) =
                    (mode.clone(), Arc::clone(&requests), Arc::clone(&checks));
                connections.spawn(respond(stream, mode, requests, checks));
            }
        });
    }

    /// Closes the listener and all connections.
    async fn kill(&mut self) {
        self.running.shutdown().await;
    }

    fn restart(&mut self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(self.address).expect("bound");
        self.serve(socket.listen(128).expect("listening"));
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn checks(&self) -> Vec<String> {
        self.checks.lock().expect("no panic").clone()
    }
}

async fn respond(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    requests: Arc<AtomicUsize>,
    checks: Arc<Mutex<Vec<String>>>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).expect("a head");
        let is_check = head.starts_with("GET /healthz ");
        match is_check {
            true => checks.lock().expect("no panic").push(head),
            false => {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
        let ready = mode.wait_for(|mode| *mode != Mode::Stopped).await.map(|mode| *mode);
        if let (Ok(Mode::Slow), false) = (&ready, is_check) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let response: &[u8] = match (ready, is_check) {
            (Err(_), _) => return,
            (Ok(Mode::Unhealthy), true) => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
            }
            (Ok(_), _) => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if stream.write_all(response).await.is_err() {
            return;
        }
    }
}

const CHECKED: &str = "health = { path = \"/healthz\", interval = \"1s\", timeout = \"500ms\", fall = 2, rise = 2 }\n";

fn gateway(apps: &[&App], keys: &str) -> Gateway {
    let upstreams: Vec<String> = apps.iter().map(|app| format!("http://{}", app.address)).collect();
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\nupstream = {upstreams:?}\naccess = \"public\"\n{keys}"
    );
    Gateway::start(Setup { routes, ..Setup::default() })
}

async fn reports(gateway: &Gateway) -> Vec<EndpointReport> {
    let response = gateway.admin("GET", "/upstreams").await;
    let (_, body) = response.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("a list")
}

/// Waits until an endpoint has a state or is down for a cause, and returns how long that took.
async fn until_state(gateway: &Gateway, app: &App, state: &str) -> Duration {
    let (start, endpoint) = (Instant::now(), format!("http://{}", app.address));
    let has_state = |it: &EndpointReport| it.state == state || it.cause.as_deref() == Some(state);
    while start.elapsed() < Duration::from_secs(30) {
        let all = reports(gateway).await;
        if all.iter().any(|it| it.endpoint == endpoint && has_state(it)) {
            return start.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {state}: {:?}", reports(gateway).await);
}

/// Sends requests from several clients until it is finished.
struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<Vec<StatusCode>>,
    completed: Arc<AtomicUsize>,
}

impl Load {
    fn start(gateway: &Gateway) -> Load {
        let (stop, completed) = (watch::Sender::new(false), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for _ in 0..6 {
            let mut browser = Browser::new(gateway);
            let (stopped, completed) = (stop.subscribe(), Arc::clone(&completed));
            clients.spawn(async move {
                let mut statuses = Vec::new();
                while !*stopped.borrow() {
                    statuses.push(browser.fetch("/page").await.status);
                    completed.fetch_add(1, Ordering::SeqCst);
                }
                statuses
            });
        }
        Load { stop, clients, completed }
    }

    /// Waits for this many further responses.
    async fn run(&self, responses: usize) {
        let end = self.completed.load(Ordering::SeqCst) + responses;
        while self.completed.load(Ordering::SeqCst) < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the number of responses other than 200, and of all.
    async fn finish(self) -> (usize, usize) {
        self.stop.send_replace(true);
        let statuses = self.clients.join_all().await.concat();
        (statuses.iter().filter(|status| **status != StatusCode::OK).count(), statuses.len())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_endpoint_fails_only_requests_in_progress() {
    let (mut killed, live) = (App::start().await, App::start().await);
    let gateway = gateway(&[&killed, &live], CHECKED);
    let load = Load::start(&gateway);
    load.run(100).await;
    assert!(killed.requests() > 20 && live.requests() > 20);
    killed.kill().await;
    load.run(100).await;
    let ejected = until_state(&gateway, &killed, "check").await;
    assert!(ejected < Duration::from_secs(5), "{ejected:?}");
    let (before, killed_at) = (killed.requests(), Instant::now());
    killed.restart();
    until_state(&gateway, &killed, "up").await;
    let returned = killed_at.elapsed();
    assert!((9..25).contains(&returned.as_secs()), "{returned:?}");
    load.run(100).await;
    assert!(killed.requests() > before + 20);
    let (failed, all) = load.finish().await;
    // One per client at most: those whose response was on its way when the endpoint was killed.
    assert!(failed <= 6 && all > 300, "{failed} of {all}");
    println!(
        "killed: {failed} of {all} failed, ejected after {ejected:?}, full share after {returned:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_endpoint_holds_few_requests() {
    let (stopped, live) = (App::start().await, App::start().await);
    let gateway = gateway(&[&stopped, &live], &format!("response_timeout = \"2s\"\n{CHECKED}"));
    let load = Load::start(&gateway);
    load.run(100).await;
    stopped.mode.send_replace(Mode::Stopped);
    let ejected = until_state(&gateway, &stopped, "down").await;
    assert!(ejected < Duration::from_secs(6), "{ejected:?}");
    let held = stopped.requests();
    load.run(100).await;
    assert!(stopped.requests() <= held + 1, "at most a trial");
    stopped.mode.send_replace(Mode::Healthy);
    let returned = until_state(&gateway, &stopped, "starting").await;
    load.run(100).await;
    let (failed, all) = load.finish().await;
    assert!(failed <= 6 && all > 300, "{failed} of {all}");
    println!(
        "stopped: {failed} of {all} failed, ejected after {ejected:?}, returned after {returned:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_endpoint_gets_fewer_requests() {
    let (slow, fast) = (App::start().await, App::start().await);
    slow.mode.send_replace(Mode::Slow);
    let gateway = gateway(&[&slow, &fast], "");
    let load = Load::start(&gateway);
    load.run(300).await;
    let (failed, all) = load.finish().await;
    assert_eq!(failed, 0);
    // Requests take turns as long as none is in progress.
    assert!(slow.requests() * 3 < fast.requests() * 2, "{} of {all}", slow.requests());
    println!("slow: 0 of {all} failed, {} at the slow endpoint", slow.requests());
}

#[tokio::test]
async fn an_unhealthy_endpoint_gets_no_requests() {
    let (unhealthy, live) = (App::start().await, App::start().await);
    unhealthy.mode.send_replace(Mode::Unhealthy);
    let gateway = gateway(&[&unhealthy, &live], CHECKED);
    let ejected = until_state(&gateway, &unhealthy, "down").await;
    assert!(ejected < Duration::from_secs(4), "{ejected:?}");
    let mut browser = Browser::new(&gateway);
    let before = unhealthy.requests();
    for _ in 0..20 {
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    assert_eq!(unhealthy.requests(), before);
    let metrics = gateway.metrics().await;
    let sample = |app: &App, value| {
        format!(
            "doorward_upstream_endpoint_up{{route=\"app.test/\",endpoint=\"http://{}\"}} {value}\n",
            app.address
        )
    };
    assert!(metrics.contains(&sample(&unhealthy, 0)) && metrics.contains(&sample(&live, 1)));
    unhealthy.mode.send_replace(Mode::Healthy);
    until_state(&gateway, &unhealthy, "starting").await;
    let check = unhealthy.checks().pop().expect("a check");
    assert_eq!(header_values(&check, "host"), ["app.test"]);
    assert!(header_values(&check, "user-agent")[0].ends_with("(health check)"), "{check}");
    assert_eq!(check.lines().filter(|line| line.contains(':')).count(), 2, "{check}");
}

#[tokio::test]
async fn unhealthy_endpoints_are_used_if_most_are() {
    let apps = [App::start().await, App::start().await, App::start().await];
    apps.iter().take(2).for_each(|app| {
        app.mode.send_replace(Mode::Unhealthy);
    });
    let gateway = gateway(&[&apps[0], &apps[1], &apps[2]], CHECKED);
    until_state(&gateway, &apps[0], "down").await;
    until_state(&gateway, &apps[1], "down").await;
    let mut browser = Browser::new(&gateway);
    for _ in 0..12 {
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    assert!(apps.iter().all(|app| app.requests() > 0));
}

#[tokio::test]
async fn a_reload_keeps_the_state_of_endpoints() {
    let (unhealthy, live, added) = (App::start().await, App::start().await, App::start().await);
    unhealthy.mode.send_replace(Mode::Unhealthy);
    let gateway = gateway(&[&unhealthy, &live], CHECKED);
    until_state(&gateway, &unhealthy, "down").await;
    let text = gateway.config_text();
    let both = format!("\"http://{}\"]", live.address);
    let three = format!("\"http://{}\", \"http://{}\"]", live.address, added.address);
    gateway.set_config_text(&text.replace(&both, &three));
    assert!(gateway.reload(ReloadMode::Apply).is_ok());
    let states: Vec<String> = reports(&gateway).await.into_iter().map(|it| it.state).collect();
    assert_eq!(states, ["down", "up", "up"]);
    let mut browser = Browser::new(&gateway);
    for _ in 0..12 {
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    assert_eq!(unhealthy.requests(), 0);
    assert!(added.requests() > 0);
    // The checks of the new configuration run as well.
    unhealthy.mode.send_replace(Mode::Healthy);
    until_state(&gateway, &unhealthy, "starting").await;
    // Without the check, nothing counts against the endpoint.
    gateway.set_config_text(&text.replace(CHECKED, ""));
    assert!(gateway.reload(ReloadMode::Apply).is_ok());
    assert!(reports(&gateway).await.iter().all(|it| it.state == "up"));
}

#[tokio::test]
async fn a_sticky_route_sends_a_session_to_one_endpoint() {
    let apps = [App::start().await, App::start().await];
    let upstreams: Vec<String> = apps.iter().map(|app| format!("http://{}", app.address)).collect();
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\nupstream = {upstreams:?}\naccess = \"session\"\nsticky = true\n"
    );
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let requests = || apps.each_ref().map(App::requests);
    let mut used = [false; 2];
    for _ in 0..16 {
        let mut browser = Browser::new(&gateway);
        browser.log_in("alice").await;
        let before = requests();
        for _ in 0..4 {
            assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
        }
        let after = requests();
        let of_session = [after[0] - before[0], after[1] - before[1]];
        assert!(of_session == [4, 0] || of_session == [0, 4], "{of_session:?}");
        used = [used[0] || of_session[0] > 0, used[1] || of_session[1] > 0];
    }
    assert_eq!(used, [true, true]);
}

#[tokio::test]
async fn a_route_leads_to_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let (alive, requests) = (watch::Sender::new(Mode::Healthy), Arc::<AtomicUsize>::default());
    let (mode, counter) = (alive.subscribe(), Arc::clone(&requests));
    let app = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(respond(stream, mode.clone(), Arc::clone(&counter), Arc::default()));
        }
    });
    let upstream = format!("unix:{}", path.display());
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\nupstream = \"{upstream}\"\naccess = \"public\"\n{CHECKED}"
    );
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    for mut browser in [Browser::new(&gateway), Browser::new(&gateway).over_h2()] {
        assert_eq!(browser.fetch("/page").await.text(), "ok");
        assert_eq!(browser.send("POST", "/page", &[], "").await.status, StatusCode::OK);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    assert_eq!(reports(&gateway).await[0].endpoint, upstream);
    app.abort();
}
