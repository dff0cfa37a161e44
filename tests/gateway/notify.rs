//! `[notify]`: a theft reaches who has to know, and no receiver, however it behaves, reaches the gateway.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use doorward::app::notify::settings;
use doorward::clock::UnixMillis;
use doorward::config::Config;
use doorward::secret::SigningSecret;
use doorward::session::SessionId;
use doorward::telemetry::events::About;
use doorward::telemetry::hook::{Failure, Hook, Pace, Settings, try_out};
use doorward::telemetry::{Metrics, SessionEvent};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::browser::Browser;
use crate::gateway::{Gateway, Setup, configuration, manual_clock, prepare, route};
use crate::signals::{HOME, Place, THIEF, verdict};
use crate::upstream::Upstream;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Longest wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(20);

// Receivers

/// What a receiver does with a request.
#[derive(Clone)]
enum Act {
    Answer(&'static str),
    /// Says nothing until it is dropped.
    Hang,
    /// Answers after a while.
    Late(Duration),
}

const GOOD: Act = Act::Answer("204 No Content");

/// A webhook on a thread of its own, for the end of a gateway blocks the test's.
struct Receiver {
    address: SocketAddr,
    posts: mpsc::Receiver<String>,
    _hanging: Arc<()>,
}

impl Receiver {
    /// Does what stands in `script`, a step for each request, and the last step from then on.
    fn start(script: &[Act], tls: Option<Arc<rustls::ServerConfig>>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (told, posts) = mpsc::channel();
        let (script, hanging) = (script.to_vec(), Arc::new(()));
        let alive = Arc::downgrade(&hanging);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                if alive.strong_count() == 0 {
                    return;
                }
                let stream = stream.expect("a connection");
                let act = script.get(number).or(script.last()).expect("a step").clone();
                match (&tls, act) {
                    (_, Act::Hang) => held.push(stream),
                    (None, act) => serve(stream, &act, &told).unwrap_or_default(),
                    (Some(tls), act) => {
                        let session = rustls::ServerConnection::new(Arc::clone(tls));
                        let session = session.expect("a session");
                        let stream = rustls::StreamOwned::new(session, stream);
                        serve(stream, &act, &told).unwrap_or_default();
                    }
                }
            }
        });
        Receiver { address, posts, _hanging: hanging }
    }

    fn plain(script: &[Act]) -> Receiver {
        Receiver::start(script, None)
    }

    fn webhook(&self) -> String {
        format!("webhook = \"http://{}/doorward?x=y\"", self.address)
    }

    /// The next request, head and body.
    fn next(&self) -> String {
        self.posts.recv_timeout(PATIENCE).expect("a request")
    }

    /// How many came since.
    fn rest(&self) -> usize {
        self.posts.try_iter().count()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self._hanging = Arc::new(());
        TcpStream::connect(self.address).ok();
    }
}

fn serve(mut stream: impl Read + Write, act: &Act, told: &Sender<String>) -> io::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&piece[..length]),
        }
    }
    told.send(String::from_utf8(request).expect("text")).unwrap_or_default();
    let status = match act {
        Act::Answer(status) => status,
        Act::Late(time) => {
            std::thread::sleep(*time);
            "200 OK"
        }
        Act::Hang => return Ok(()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = field(head, "content-length").parse().expect("a number");
    body.len() >= length
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value).unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// The receiver that stands in docs/notify.md, on any port.
struct Documented {
    child: Child,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
}

impl Documented {
    fn start(directory: &Path) -> Documented {
        std::fs::write(directory.join("notify-secret"), SECRET).expect("written");
        let docs = include_str!("../../docs/notify.md");
        let (_, code) = docs.split_once("```python\n").expect("a receiver in the docs");
        let (code, _) = code.split_once("```").expect("its end");
        let script = directory.join("receiver.py");
        std::fs::write(&script, code).expect("written");
        let mut child = Command::new("python3")
            .arg(script)
            .arg("0")
            .arg(directory.join("notify-secret"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| told.send(line))
        });
        let mut this = Documented { child, lines, address: ([127, 0, 0, 1], 0).into() };
        this.address.set_port(this.next().parse().expect("a port"));
        this
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Documented {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}

// Senders

/// The text of a configuration with these lines of `[notify]`; the secret is `notify-secret`.
fn text(directory: &TempDir, notify: &str) -> String {
    std::fs::write(directory.path().join("notify-secret"), SECRET).expect("written");
    let more = format!("[notify]\nsecret_file = \"notify-secret\"\n{notify}\n");
    let routes = route(([127, 0, 0, 1], 1).into());
    configuration(&Setup { more, routes, ..Setup::default() }, directory)
}

/// What that configuration makes, with shorter pauses.
fn told_by(directory: &TempDir, notify: &str) -> Settings {
    let text = text(directory, notify);
    let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("loads");
    let settings = settings(&config.notify).expect("usable").expect("somebody to tell");
    let (attempts, pause) = (3, Duration::from_millis(10));
    Settings { pace: Pace { attempts, pause, drain: PATIENCE }, ..settings }
}

/// A hook and its counters.
struct Teller {
    hook: Hook,
    metrics: Metrics,
}

impl Teller {
    fn start(settings: Settings) -> Teller {
        let metrics = Metrics::default();
        let hook = Hook::start(settings, metrics.clone()).expect("a thread");
        Teller { hook, metrics }
    }

    fn theft(&self, session: u16, user: &str) {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&session.to_be_bytes());
        let about = About { user, session: Some(SessionId(id)), ..About::default() };
        self.hook.event(SessionEvent::Theft, &about, UnixMillis(1_800_000_000_000));
    }

    fn count(&self, outcome: &str) -> u64 {
        let text = self.metrics.render();
        let start = format!("doorward_notify_total{{outcome=\"{outcome}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&start));
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// Waits for what is under way: delivered, failed, repeated, dropped.
    fn close(&self) -> [u64; 4] {
        self.hook.close(&CancellationToken::new());
        ["delivered", "failed", "repeated", "dropped"].map(|outcome| self.count(outcome))
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// A theft

/// alice at home, whose token somebody elsewhere shows after its grace.
struct Scene {
    _upstream: Upstream,
    gateway: Gateway,
    thief: Browser,
}

impl Scene {
    async fn with(directory: Arc<TempDir>, notify: &str) -> Scene {
        std::fs::write(directory.path().join("notify-secret"), SECRET).expect("written");
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup {
            routes: route(upstream.address),
            server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
            more: format!("[notify]\nsecret_file = \"notify-secret\"\n{notify}\n"),
            clock: manual_clock(),
            shared_with: Some(directory),
            ..Setup::default()
        });
        let mut alice = Browser::new(&gateway);
        HOME.at(&mut alice);
        alice.log_in("alice").await;
        let mut thief = alice.clone();
        Place::at(THIEF, &mut thief);
        gateway.advance(Duration::from_secs(601));
        alice.fetch("/").await;
        assert_eq!(verdict(&mut alice).await, "admitted");
        gateway.advance(Duration::from_secs(120));
        Scene { _upstream: upstream, gateway, thief }
    }
}

#[tokio::test]
async fn a_theft_reaches_the_receiver_of_the_docs_with_both_parties_and_no_token() {
    let directory = prepare();
    let receiver = Documented::start(directory.path());
    let notify = format!("webhook = \"http://{}/\"", receiver.address);
    let mut scene = Scene::with(directory, &notify).await;
    assert_eq!(verdict(&mut scene.thief).await, "401 theft");
    let line = receiver.next();
    assert!(!line.contains(&scene.thief.token()), "{line}");
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(told["event.action"], "session.theft");
    assert_eq!(told["user.name"], "alice");
    assert_eq!(told["source.ip"], "203.0.113.9");
    assert_eq!(told["user_agent.original"], "curl/8.5.0");
    assert_eq!(told["doorward.other.ip"], "192.0.2.7");
    assert!(told["doorward.other.user_agent"].as_str().expect("text").contains("Firefox"));
    assert_eq!(told["doorward.session"].as_str().expect("a handle").len(), 16);
    assert!(told["event.id"].as_str().expect("an id").starts_with("msg_"));
}

#[test]
fn the_receiver_of_the_docs_refuses_what_was_signed_by_nobody_by_another_or_long_ago() {
    let directory = prepare();
    let receiver = Documented::start(directory.path());
    let now = doorward::clock::Clock::System.now().seconds();
    let sign = |secret: &str, at| SigningSecret::parse(secret).expect("one").sign("m", at, b"{}");
    let other = format!("whsec_{}", "A".repeat(32));
    for (signature, at, status) in [
        (String::new(), now, "401"),
        (sign(&other, now), now, "401"),
        (sign(SECRET, now - 600), now, "401"),
        (sign(SECRET, now - 600), now - 600, "401"),
        (sign(SECRET, now), now, "204"),
    ] {
        let mut stream = TcpStream::connect(receiver.address).expect("connected");
        write!(stream, "POST / HTTP/1.0\r\nContent-Length: 2\r\nwebhook-id: m\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\r\n{{}}").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer.split(' ').nth(1), Some(status), "{signature} {at}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_answer_and_not_the_stop() {
    let receiver = Receiver::plain(&[Act::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let mut scene = Scene::with(prepare(), &notify).await;
    let start = Instant::now();
    assert_eq!(verdict(&mut scene.thief).await, "401 theft");
    assert_eq!(verdict(&mut scene.thief).await, "401 theft");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    scene.gateway.stop();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_happened_last_arrives_before_the_gateway_is_gone() {
    let receiver = Receiver::plain(&[Act::Late(Duration::from_millis(200))]);
    let mut scene = Scene::with(prepare(), &receiver.webhook()).await;
    assert_eq!(verdict(&mut scene.thief).await, "401 theft");
    let shared = Arc::clone(scene.gateway.shared());
    scene.gateway.stop();
    assert!(receiver.next().contains("session.theft"));
    let delivered = "doorward_notify_total{outcome=\"delivered\"} 1\n";
    assert!(shared.metrics.render().contains(delivered));
}

// Webhooks

#[test]
fn a_letter_is_a_signed_post_of_json_and_what_a_client_sent_makes_no_field_of_its_own() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let sender = Teller::start(told_by(&directory, &receiver.webhook()));
    let user = "a\"\r\nwebhook-id: x\n{\"event.action\":\"y\"}\u{1b}[31m";
    sender.theft(1, user);
    let post = receiver.next();
    assert_eq!(sender.close(), [1, 0, 0, 0]);
    let (head, body) = post.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /doorward?x=y HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "host"), receiver.address.to_string());
    assert_eq!(field(head, "content-type"), "application/json");
    assert_eq!(head.matches("webhook-id").count(), 1);
    assert!(!body.bytes().any(|byte| byte.is_ascii_control()), "{body}");
    let told: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&told["user.name"], &told["event.action"]),
        (&user.into(), &"session.theft".into())
    );
    let (id, seconds) = (field(head, "webhook-id"), field(head, "webhook-timestamp"));
    let secret = SigningSecret::parse(SECRET).expect("a secret");
    let signed = secret.sign(id, seconds.parse().expect("a number"), body.as_bytes());
    assert_eq!(field(head, "webhook-signature"), signed);
    assert_eq!(told["event.id"], id);
}

#[test]
fn what_may_pass_is_tried_again_with_the_same_id_and_what_will_not_is_final() {
    let directory = prepare();
    let busy = ["500 Oops", "503 Later", "429 Too Many Requests", "408 Request Timeout"];
    for status in busy {
        let receiver = Receiver::plain(&[Act::Answer(status), Act::Answer(status), GOOD]);
        let sender = Teller::start(told_by(&directory, &receiver.webhook()));
        sender.theft(1, "alice");
        assert_eq!(sender.close(), [1, 0, 0, 0], "{status}");
        let ids = [(); 3].map(|()| field(&receiver.next(), "webhook-id").to_owned());
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    for status in ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"] {
        let receiver = Receiver::plain(&[Act::Answer(status)]);
        let sender = Teller::start(told_by(&directory, &receiver.webhook()));
        sender.theft(1, "alice");
        assert_eq!((sender.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
}

#[test]
fn a_receiver_that_stays_away_is_given_up_after_a_few_attempts() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Answer("500 Oops")]);
    let sender = Teller::start(told_by(&directory, &receiver.webhook()));
    sender.theft(1, "alice");
    assert_eq!((sender.close(), receiver.rest()), ([0, 1, 0, 0], 3));
    let gone = receiver.webhook();
    drop(receiver);
    let sender = Teller::start(told_by(&directory, &gone));
    sender.theft(1, "alice");
    assert_eq!(sender.close(), [0, 1, 0, 0]);
}

#[test]
fn a_redirect_is_not_followed() {
    let directory = prepare();
    let elsewhere = Receiver::plain(&[GOOD]);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let moved = format!("{status}\r\nLocation: http://{}/", elsewhere.address);
        let receiver = Receiver::plain(&[Act::Answer(moved.leak())]);
        let sender = Teller::start(told_by(&directory, &receiver.webhook()));
        sender.theft(1, "alice");
        assert_eq!((sender.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
    assert_eq!(elsewhere.rest(), 0);
}

#[test]
fn of_thousands_at_once_each_is_told_or_counted_and_nobody_waits() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Hang]);
    let notify = format!("{}\ntimeout = \"100ms\"", receiver.webhook());
    let settings = told_by(&directory, &notify);
    let sender =
        Teller::start(Settings { pace: Pace { attempts: 1, ..settings.pace }, ..settings });
    for session in 0..5_000 {
        sender.theft(session, "alice");
    }
    assert_eq!(sender.close(), [0, 30, 0, 4_970]);
}

#[test]
fn the_same_event_of_one_session_is_told_once() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let sender = Teller::start(told_by(&directory, &receiver.webhook()));
    for session in [1, 1, 2, 1] {
        sender.theft(session, "alice");
    }
    assert_eq!((sender.close(), receiver.rest()), ([2, 0, 2, 0], 2));
}

#[test]
fn events_that_nobody_chose_and_events_of_strangers_are_not_told() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let sender = Teller::start(told_by(&directory, &receiver.webhook()));
    let events = [
        SessionEvent::Login,
        SessionEvent::Moved,
        SessionEvent::Forged,
        SessionEvent::LoginRefused,
        SessionEvent::LoginThrottled,
        SessionEvent::Refused("theft"),
    ];
    for event in events {
        sender.hook.event(event, &About { user: "alice", ..About::default() }, UnixMillis(0));
    }
    assert_eq!((sender.close(), receiver.rest()), ([0; 4], 0));
}

/// The certificate of a test gateway, for localhost.
fn certificate(directory: &TempDir) -> Arc<rustls::ServerConfig> {
    let at = |name: &str| directory.path().join(name);
    let chain = CertificateDer::pem_file_iter(at("doorward.pem")).expect("readable");
    let chain: Result<Vec<_>, _> = chain.collect();
    let key = PrivateKeyDer::from_pem_file(at("doorward.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key);
    Arc::new(config.expect("usable"))
}

#[tokio::test]
async fn a_webhook_shows_a_certificate_of_its_authority_or_is_told_nothing() {
    let (directory, stranger) = (prepare(), prepare());
    let receiver = Receiver::start(&[GOOD], Some(certificate(&directory)));
    let webhook = format!("webhook = \"https://localhost:{}/\"", receiver.address.port());
    let told = try_out(told_by(&directory, &format!("{webhook}\nca = \"ca.pem\""))).await;
    assert!(matches!(&told[..], [(_, Ok(answer))] if answer == "204 No Content"), "{told:?}");
    assert!(receiver.next().contains("\"event.action\":\"notify.test\""));
    let other = format!("ca = \"{}\"", stranger.path().join("ca.pem").display());
    let by_address = webhook.replace("localhost", "127.0.0.1") + "\nca = \"ca.pem\"";
    for notify in [format!("{webhook}\n{other}"), webhook.clone(), by_address] {
        let told = try_out(told_by(&directory, &notify)).await;
        assert!(matches!(&told[..], [(_, Err(Failure::Tls(_)))]), "{notify}: {told:?}");
    }
    assert_eq!(receiver.rest(), 0);
}

// Programs

fn shell(script: &str, directory: &TempDir) -> String {
    let script = script.replace("$DIR", &directory.path().display().to_string());
    format!(
        "command = [\"/bin/sh\", \"-c\", '''{script}''', \"x\", '''$(touch {}/ran)''']",
        directory.path().display()
    )
}

#[test]
fn a_program_reads_the_letter_has_nothing_of_ours_in_its_environment_and_no_shell_reads_its_arguments()
 {
    let directory = prepare();
    let script = "cat > $DIR/body; printf %s \"$1\" > $DIR/argument; env > $DIR/env";
    let sender = Teller::start(told_by(&directory, &shell(script, &directory)));
    sender.theft(1, "a\"\n$(touch x)`id`");
    assert_eq!(sender.close(), [1, 0, 0, 0]);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
    let told: Value = serde_json::from_str(&read("body")).expect("JSON");
    assert_eq!(told["user.name"], "a\"\n$(touch x)`id`");
    assert!(read("argument").starts_with("$(touch "));
    assert!(!directory.path().join("ran").exists());
    let env = read("env");
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // The shell's own.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["PATH", "WEBHOOK_ID", "WEBHOOK_SIGNATURE", "WEBHOOK_TIMESTAMP"]);
    let of = |name: &str| {
        let line = env.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.expect(name).to_owned()
    };
    let secret = SigningSecret::parse(SECRET).expect("a secret");
    let seconds = of("WEBHOOK_TIMESTAMP").parse().expect("a number");
    let signed = secret.sign(&of("WEBHOOK_ID"), seconds, read("body").as_bytes());
    assert_eq!(of("WEBHOOK_SIGNATURE"), signed);
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let directory = prepare();
    let script = "sleep 600 & echo $! $$ > $DIR/pids.new; mv $DIR/pids.new $DIR/pids; wait";
    let notify = format!("{}\ntimeout = \"1s\"", shell(script, &directory));
    let settings = told_by(&directory, &notify);
    let sender =
        Teller::start(Settings { pace: Pace { attempts: 1, ..settings.pace }, ..settings });
    sender.theft(1, "alice");
    let pids = until("process", || std::fs::read_to_string(directory.path().join("pids")).ok());
    assert!(pids.split_whitespace().all(is_alive), "{pids}");
    assert_eq!(sender.close(), [0, 1, 0, 0]);
    until("end of them", || (!pids.split_whitespace().any(is_alive)).then_some(()));
}

/// A process that was killed may wait for somebody to ask how it ended.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn a_program_that_fails_is_tried_again_and_one_that_does_not_read_is_as_good_as_another() {
    let directory = prepare();
    let script = "echo x >> $DIR/runs; test $(wc -l < $DIR/runs) = 3";
    let sender = Teller::start(told_by(&directory, &shell(script, &directory)));
    sender.theft(1, "alice");
    assert_eq!(sender.close(), [1, 0, 0, 0]);
    let sender = Teller::start(told_by(&directory, "command = [\"/bin/false\"]"));
    sender.theft(1, "alice");
    assert_eq!(sender.close(), [0, 1, 0, 0]);
}

#[test]
fn both_ways_are_told_and_answer_for_themselves() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let notify = format!("{}\ncommand = [\"/bin/false\"]", receiver.webhook());
    let sender = Teller::start(told_by(&directory, &notify));
    sender.theft(1, "alice");
    assert_eq!((sender.close(), receiver.rest()), ([1, 1, 0, 0], 1));
}

// The command

fn notify_test(directory: &TempDir, notify: &str) -> Output {
    let config = directory.path().join("doorward.toml");
    std::fs::write(&config, text(directory, notify)).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["notify", "test", "--config"]).arg(config).current_dir(directory.path());
    command.output().expect("the program runs")
}

#[test]
fn notify_test_says_what_came_back() {
    let directory = prepare();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let receiver = Receiver::plain(&[GOOD, Act::Answer("302 Found")]);
    let good = notify_test(&directory, &receiver.webhook());
    let told = format!("http://{}: told (204 No Content)\n", receiver.address);
    assert_eq!((good.status.code(), said(&good.stdout)), (Some(0), told), "{good:?}");
    assert!(receiver.next().contains("\"event.action\":\"notify.test\""));
    let bad = notify_test(&directory, &receiver.webhook());
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        said(&bad.stderr).contains("not told: it answered 302 Found, and redirects"),
        "{bad:?}"
    );
    let script = "command = [\"/bin/sh\", \"-c\", \"echo no pager here >&2; exit 3\"]";
    let bad = notify_test(&directory, script);
    assert_eq!(bad.status.code(), Some(1));
    let err = said(&bad.stderr);
    assert!(err.contains("no pager here") && err.contains("exit status: 3"), "{err}");
    let nobody = notify_test(&directory, "");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody.stderr).contains("[notify] names nobody"), "{nobody:?}");
}

#[test]
fn a_gateway_whose_alarm_cannot_ring_does_not_start() {
    let directory = prepare();
    let missing = "command = [\"/nonexistent/tell-me\"]";
    let secret = format!("webhook = \"http://{}/\"", SocketAddr::from(([127, 0, 0, 1], 9)));
    for (notify, secret, wanted) in [
        (missing, SECRET, "/nonexistent/tell-me"),
        (secret.as_str(), "hunter2", "does not begin with whsec_"),
    ] {
        let text = text(&directory, notify);
        std::fs::write(directory.path().join("notify-secret"), secret).expect("written");
        let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("loads");
        let started = doorward::app::start(config, doorward::clock::Clock::System, None);
        let error = started.err().expect("refused").to_string();
        assert!(error.contains(wanted) && !error.contains("hunter2"), "{error}");
    }
}
