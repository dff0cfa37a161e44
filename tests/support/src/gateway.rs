//! A complete gateway inside the test process, with real sockets and TLS on port 0. Dropping it stops it.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use doorward::admin::{ReloadMode, ReloadReport};
use doorward::app::{self, Running};
use doorward::clock::{Clock, UnixMillis};
use doorward::config::{Config, LogFormat};
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use doorward::session::Identity;
use doorward::sessions::{SessionSettings, Shared};
use doorward::telemetry::AccessLogWriter;
use doorward::tls::dev_ca;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// The password of every user of a test gateway.
pub const PASSWORD: &str = "correct horse battery staple";

/// File name of the access log.
const ACCESS_LOG: &str = "access.log";

/// Configuration of a test gateway. Every field has a working default.
pub struct Setup {
    /// `[[route]]` tables.
    pub routes: String,
    /// Keys of `[server]`.
    pub server: String,
    /// Keys of `[session]`.
    pub session: String,
    /// Keys of `[limits]`. The default allows many connections per second from one address.
    pub limits: String,
    /// `store.url`; empty for `memory:`.
    pub store: String,
    /// Further TOML tables.
    pub extra: String,
    pub clock: Clock,
    /// Whether the access log is written.
    pub access_log: bool,
    /// Directory with keys and users, shared with another gateway.
    pub shared_directory: Option<Arc<TempDir>>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            routes: String::new(),
            server: String::new(),
            session: String::new(),
            limits: "connection_rate = 1000000".to_owned(),
            store: String::new(),
            extra: String::new(),
            clock: Clock::System,
            access_log: false,
            shared_directory: None,
        }
    }
}

/// A running gateway with the users alice (group staff), bob (group guests) and zoë (no group).
pub struct Gateway {
    pub directory: Arc<TempDir>,
    pub address: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub clock: Clock,
    socket: std::path::PathBuf,
    /// Content of the configuration file, for the next reload.
    text: Arc<Mutex<String>>,
    running: Option<Running>,
    /// Ends the thread of the access log.
    _log: Option<Box<dyn Send + Sync>>,
}

/// Returns a manual clock set to noon of today, UTC. A fixed hour keeps tests independent of the time of day:
/// an hour after 23:00 would fall on another day in a log.
pub fn manual_clock() -> Clock {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    // All clocks of a test use the same day, even if the test runs across midnight.
    static TODAY: OnceLock<u64> = OnceLock::new();
    let today = *TODAY.get_or_init(|| Clock::System.now().0 / DAY);
    Clock::manual(UnixMillis(today * DAY + DAY / 2))
}

/// A manual clock that starts three hours before the system's time. For tests of the local cache: a heartbeat has
/// the time of the system, and a clock that is ahead of it makes the cache look stale.
pub fn past_clock() -> Clock {
    Clock::manual(Clock::System.now().minus(Duration::from_secs(3 * 60 * 60)))
}

/// Returns a session route from host `app.test` to this upstream.
pub fn session_route(upstream: SocketAddr) -> String {
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://{upstream}\"\naccess = \"session\"\n"
    )
}

impl Gateway {
    /// Starts a gateway; panics with all configuration problems.
    pub fn start(setup: Setup) -> Gateway {
        let directory = setup.shared_directory.clone().unwrap_or_else(prepare_directory);
        let text = configuration(&setup, &directory);
        let (config, _) = match Config::parse(&text, "test.toml", directory.path()) {
            Ok(parsed) => parsed,
            Err(problems) => panic!("{problems}\n{text}"),
        };
        let socket = config.admin.socket.clone().expect("a socket");
        let log = setup.access_log.then(|| {
            let file = File::create(directory.path().join(ACCESS_LOG)).expect("a file");
            AccessLogWriter::new(file, LogFormat::Json)
        });
        let (writer, log) = log.unzip();
        let running = app::start(config, setup.clock.clone(), writer).expect("the gateway starts");
        let text = Arc::new(Mutex::new(text));
        let (file, base) = (Arc::clone(&text), Arc::clone(&directory));
        running.allow_reload(Box::new(move || {
            Config::parse(&file.lock().expect("no panic"), "test.toml", base.path())
        }));
        Gateway {
            address: running.https[0],
            http: running.http[0],
            admin: running.admin.expect("an admin port"),
            socket,
            directory,
            clock: setup.clock,
            text,
            running: Some(running),
            _log: log.map(|guard| Box::new(guard) as Box<dyn Send + Sync>),
        }
    }

    /// Waits for the access log entry of a path and returns it.
    pub async fn access_log_entry(&self, path: &str) -> serde_json::Value {
        for _ in 0..1_000 {
            let log = std::fs::read_to_string(self.path(ACCESS_LOG)).expect("a log");
            let mut entries = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(entry) = entries.find(|entry: &serde_json::Value| entry["path"] == path) {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no access log entry of {path}");
    }

    /// Returns the state that all workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        self.running.as_ref().expect("running").shared()
    }

    /// Returns the session settings of the configuration.
    pub fn session_settings(&self) -> Arc<SessionSettings> {
        self.running.as_ref().expect("running").session_settings()
    }

    /// Returns the content of the configuration file.
    pub fn config_text(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    /// Replaces the content of the configuration file.
    pub fn set_config_text(&self, text: &str) {
        text.clone_into(&mut self.text.lock().expect("no panic"));
    }

    /// Loads the configuration file again.
    pub fn reload(&self, mode: ReloadMode) -> ReloadReport {
        self.running.as_ref().expect("running").reload(mode)
    }

    /// Moves the manual clock.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the path of the admin socket. Gateways that share a directory have different sockets.
    pub fn socket(&self) -> std::path::PathBuf {
        self.socket.clone()
    }

    /// Sends the request of `doorward sessions revoke` and returns the raw response.
    pub async fn revoke(&self, query: &str) -> String {
        self.admin_post(&format!("/revoke?{query}")).await
    }

    /// Sends a POST request to the admin socket and returns the raw response.
    pub async fn admin_post(&self, target: &str) -> String {
        self.admin("POST", target).await
    }

    /// Sends a request to the admin socket and returns the raw response.
    pub async fn admin(&self, method: &str, target: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.expect("connected");
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response");
        response
    }

    /// Returns the metrics as Prometheus reads them.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).await.expect("connected");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response");
        response
    }

    /// Shuts down gracefully.
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

/// Creates a directory with certificates and users. Passwords use a cheap Argon2 cost to save time.
pub fn prepare_directory() -> Arc<TempDir> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let hosts = ["app.test", "other.test", "*.example.test", "localhost"].map(str::to_owned);
    dev_ca::make(directory.path(), &hosts).expect("certificates");
    let mut users =
        UsersFileEditor::open_or_new(&directory.path().join("users.toml")).expect("a users file");
    let hash = Credential::hash(PASSWORD, Cost::Argon2id { m: 256, t: 1, p: 1 }).expect("a hash");
    for (user, groups) in [("alice", vec!["staff"]), ("bob", vec!["guests"]), ("zoë", vec![])] {
        let identity = Identity {
            user: user.to_owned(),
            name: Some(format!("The {user}")),
            email: Some(format!("{user}@example.test")),
            groups: groups.into_iter().map(str::to_owned).collect(),
            ..Identity::default()
        };
        users.add(&identity, &hash).expect("a new user");
    }
    users.save().expect("saved");
    Arc::new(directory)
}

/// Returns the TOML configuration of a gateway that keeps its files in `directory`.
pub fn configuration(setup: &Setup, directory: &TempDir) -> String {
    let at = |name: &str| directory.path().join(name).display().to_string();
    let store = if setup.store.is_empty() { "memory:" } else { &setup.store };
    // Gateways that share a directory need different sockets.
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
{extra}
{routes}
"#,
        keys = at("keys.toml"),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        users = at("users.toml"),
        server = setup.server,
        session = setup.session,
        limits = setup.limits,
        extra = setup.extra,
        routes = setup.routes,
    )
}
