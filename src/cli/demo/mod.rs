//! `doorward demo`: the product in one command, with short timeouts, on this machine alone.

mod apps;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use data_encoding::BASE32_NOPAD;

use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::identity::edit::UsersEdit;
use crate::identity::{Cost, Credential};
use crate::secret::random_bytes;
use crate::session::Identity;
use crate::telemetry::log;
use crate::tls::dev_ca;

#[derive(Args)]
pub struct DemoArgs {
    /// Where to listen for browsers, on this machine
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

/// Renewal, idle end and theft can be watched within a minute.
const IDLE: Duration = Duration::from_secs(60);
const ROTATE_AFTER: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(3);

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let place = Place::make()?;
    let apps = apps::start()?;
    dev_ca::make(&place.0, &["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let users = place.users()?;
    let text = configuration(&place.0, args.listen, &apps);
    let parsed = Config::parse(&text, "the demo's configuration", &place.0);
    let (config, _) = match parsed {
        Ok(parsed) => parsed,
        Err(problems) => return Ok(super::check::refuse(&problems)),
    };
    let log = log::start(&config.log);
    let running = app::start(config, Clock::System, Some(log.request_lines()))?;
    let port = running.https.first().map_or(args.listen.port(), SocketAddr::port);
    welcome(port, &users, &place.0);
    super::run::until_stopped(running)?;
    Ok(ExitCode::SUCCESS)
}

/// The demo's directory; gone when the demo ends.
struct Place(PathBuf);

impl Place {
    fn make() -> std::io::Result<Place> {
        let name =
            format!("doorward-demo-{}", BASE32_NOPAD.encode(&random_bytes::<5>()).to_lowercase());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Place(path))
    }

    /// Two users with new passwords each time: nothing to find in a manual.
    fn users(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut file = UsersEdit::open_or_new(&self.0.join("users.toml"))?;
        let mut made = Vec::new();
        for (user, group) in [("alice", "staff"), ("bob", "guests")] {
            let password = BASE32_NOPAD.encode(&random_bytes::<10>()).to_lowercase();
            let identity = Identity {
                user: user.to_owned(),
                name: None,
                email: Some(format!("{user}@example.com")),
                groups: vec![group.to_owned()],
            };
            file.add(&identity, &Credential::hash(&password, Cost::DEFAULT)?)?;
            made.push((user.to_owned(), password));
        }
        file.save()?;
        Ok(made)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It is the system's directory for such things; what cannot be removed does no harm.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn configuration(place: &Path, listen: SocketAddr, apps: &apps::Apps) -> String {
    let at = |name: &str| place.join(name).display().to_string();
    format!(
        r#"
[server]
https = ["{listen}"]

[admin]
listen = ""
socket = "{socket}"

[keys]
file = "{keys}"

[[tls.certificate]]
cert = "{cert}"
key = "{key}"

[store]
url = "embedded:{store}"

[session]
idle_timeout = "{idle}s"
absolute_timeout = "10m"
rotate_after = "{rotate}s"
rotation_grace = "{grace}s"

[login.password]
users = "{users}"

[log]
format = "text"

[portal]
name = "doorward demo"

[[route]]
host = "localhost"
path = "/"
upstream = "http://{headers}"
access = "session"

[[route]]
host = "localhost"
path = "/clock"
upstream = "http://{clock}"
access = {{ groups = ["staff"] }}
"#,
        socket = at("admin.sock"),
        keys = at("keys.toml"),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        store = at("state"),
        users = at("users.toml"),
        idle = IDLE.as_secs(),
        rotate = ROTATE_AFTER.as_secs(),
        grace = GRACE.as_secs(),
        headers = apps.headers,
        clock = apps.clock,
    )
}

fn welcome(port: u16, users: &[(String, String)], place: &Path) {
    let (rotate, grace, idle) = (ROTATE_AFTER.as_secs(), GRACE.as_secs(), IDLE.as_secs());
    println!("\n  doorward demo: https://localhost:{port}\n");
    for (user, password) in users {
        println!("    {user:<6} password {password}");
    }
    println!(
        "
  The certificate is made for this run alone; your browser will warn. Go on, or trust
  {ca} for this run.

  1  Log in as alice. The app behind the gateway shows what it received: who you are, but no cookie.
  2  Reload after {rotate} s: the log below says session.renewed. The page noticed nothing.
  3  Open https://localhost:{port}/clock: a WebSocket. Bob may not; he gets a page that says so.
  4  Open https://localhost:{port}/.doorward/sessions, log in from a second browser, end one from the other.
  5  Do nothing for {idle} s: the session ends by itself.
  6  Be the thief: copy the cookie __Host-doorward from the browser's developer tools, reload twice
     {rotate} s apart, wait {grace} s, and replay the old one from elsewhere:
       curl -k https://localhost:{port}/ -H 'Cookie: __Host-doorward=OLD'
     The log says session.theft, and both of you are out.

  Sessions: doorward sessions list --socket {socket}
  Ctrl-C ends the demo and removes its files.
",
        ca = place.join("ca.pem").display(),
        socket = place.join("admin.sock").display(),
    );
}
