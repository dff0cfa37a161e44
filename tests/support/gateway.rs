//! A whole gateway in this process: real sockets, real TLS, port 0, ended when dropped.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use doorward::app::{self, Running};
use doorward::clock::{Clock, UnixMillis};
use doorward::config::Config;
use doorward::guard::Shared;
use doorward::identity::edit::UsersEdit;
use doorward::identity::{Cost, Credential};
use doorward::session::Identity;
use doorward::tls::dev_ca;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Password of every user of a test gateway.
pub const PASSWORD: &str = "correct horse battery staple";

/// How a gateway is made. Every part has a working default.
pub struct Setup {
    /// `[[route]]` tables; `{upstream}` stands for nothing here, write the address.
    pub routes: String,
    /// Lines for `[server]`.
    pub server: String,
    /// Lines for `[session]`.
    pub session: String,
    /// Lines for `[limits]`. All clients of a test come from one address, many times a second.
    pub limits: String,
    /// `store.url`; empty for `memory:`.
    pub store: String,
    /// Further TOML, tables of its own.
    pub more: String,
    pub clock: Clock,
    /// A directory to share with another gateway (keys, users).
    pub shared_with: Option<Arc<TempDir>>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            routes: String::new(),
            server: String::new(),
            session: String::new(),
            limits: "connection_rate = 1000000".to_owned(),
            store: String::new(),
            more: String::new(),
            clock: Clock::System,
            shared_with: None,
        }
    }
}

/// A running gateway with the users alice (staff), bob (guests) and zoë (no group).
pub struct Gateway {
    pub directory: Arc<TempDir>,
    pub address: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub clock: Clock,
    socket: std::path::PathBuf,
    running: Option<Running>,
}

/// A clock that stands still at noon of today, UTC: what a test moves it by must not depend on the
/// hour at which the test runs, and an hour before midnight would be two days in a log.
pub fn manual_clock() -> Clock {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    // One day for all clocks of a test, also of one that runs at midnight.
    static TODAY: OnceLock<u64> = OnceLock::new();
    let today = *TODAY.get_or_init(|| Clock::System.now().0 / DAY);
    Clock::manual(UnixMillis(today * DAY + DAY / 2))
}

/// One session route for host `app.test` to this upstream.
pub fn route(upstream: SocketAddr) -> String {
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://{upstream}\"\naccess = \"session\"\n"
    )
}

impl Gateway {
    /// Starts a gateway, or panics with the reason.
    pub fn start(setup: Setup) -> Gateway {
        let directory = setup.shared_with.clone().unwrap_or_else(prepare);
        let text = configuration(&setup, &directory);
        let (config, _) = match Config::parse(&text, "test.toml", directory.path()) {
            Ok(parsed) => parsed,
            Err(problems) => panic!("{problems}\n{text}"),
        };
        let socket = config.admin.socket.clone().expect("a socket");
        let running = app::start(config, setup.clock.clone(), None).expect("the gateway starts");
        Gateway {
            address: running.https[0],
            http: running.http[0],
            admin: running.admin.expect("an admin port"),
            socket,
            directory,
            clock: setup.clock,
            running: Some(running),
        }
    }

    /// What all workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        self.running.as_ref().expect("running").shared()
    }

    /// Moves the manual clock.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The operator's socket. Two gateways on one directory each have their own.
    pub fn socket(&self) -> std::path::PathBuf {
        self.socket.clone()
    }

    /// What `doorward sessions revoke` asks; the whole answer.
    pub async fn revoke(&self, query: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.expect("connected");
        let request = format!(
            "POST /revoke?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// What Prometheus reads.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).await.expect("connected");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// Drains and stops.
    pub fn stop(mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// Certificates and users in a new directory. The passwords are hashed cheaply: these tests are not about argon2.
pub fn prepare() -> Arc<TempDir> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let hosts = ["app.test", "other.test", "*.example.test", "localhost"].map(str::to_owned);
    dev_ca::make(directory.path(), &hosts).expect("certificates");
    let mut users =
        UsersEdit::open_or_new(&directory.path().join("users.toml")).expect("a users file");
    let hash = Credential::hash(PASSWORD, Cost::Argon2id { m: 256, t: 1, p: 1 }).expect("a hash");
    for (user, groups) in [("alice", vec!["staff"]), ("bob", vec!["guests"]), ("zoë", vec![])] {
        let identity = Identity {
            user: user.to_owned(),
            name: Some(format!("The {user}")),
            email: Some(format!("{user}@example.test")),
            groups: groups.into_iter().map(str::to_owned).collect(),
        };
        users.add(&identity, &hash).expect("a new user");
    }
    users.save().expect("saved");
    Arc::new(directory)
}

/// The TOML of a gateway on `directory`.
pub fn configuration(setup: &Setup, directory: &TempDir) -> String {
    let at = |name: &str| directory.path().join(name).display().to_string();
    let store = if setup.store.is_empty() { "memory:" } else { &setup.store };
    // Two gateways on one directory each have a socket of their own.
    let number = u64::from_be_bytes(doorward::secret::random_bytes());
    let socket = at(&format!("admin-{number:x}.sock"));
    format!(
        r#"
[server]
https = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
workers = 2
drain = "2s"
{server}
[admin]
listen = "127.0.0.1:0"
socket = "{socket}"
[keys]
file = "{keys}"
[[tls.certificate]]
cert = "{cert}"
key = "{key}"
[store]
url = "{store}"
[login.password]
users = "{users}"
[session]
{session}
[limits]
{limits}
{more}
{routes}
"#,
        keys = at("keys.toml"),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        users = at("users.toml"),
        server = setup.server,
        session = setup.session,
        limits = setup.limits,
        more = setup.more,
        routes = setup.routes,
    )
}
