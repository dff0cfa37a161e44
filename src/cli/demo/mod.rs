//! `doorward demo`: a complete gateway with two apps and an identity provider, short timeouts and loopback
//! listeners.

mod apps;
mod provider;
mod responses;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use data_encoding::BASE32_NOPAD;

use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::identity::users_file_editor::UsersFileEditor;
use crate::identity::{Cost, Credential};
use crate::secret::random_bytes;
use crate::session::Identity;
use crate::telemetry::log;
use crate::tls::dev_ca;

#[derive(Args)]
pub struct DemoArgs {
    /// Listen address for browsers
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
}

/// Short enough to observe rotation, idle timeout and theft verdict within a minute.
const IDLE: Duration = Duration::from_secs(60);
const ROTATE_AFTER: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(3);

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let directory = DemoDir::create()?;
    let apps = apps::start()?;
    dev_ca::make(&directory.0, &["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let users = directory.create_users()?;
    let text = configuration(&directory.0, args.listen, &apps);
    let parsed = Config::parse(&text, "the demo's configuration", &directory.0);
    let (config, _) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return Ok(super::check::print_config_error(&error)),
    };
    let log = log::start(&config.log);
    let running = app::start(config, Clock::System, Some(log.access_log()))?;
    let port = running.https.first().map_or(args.listen.port(), SocketAddr::port);
    welcome(port, &users, &directory.0);
    super::run::until_stopped(running, super::run::ProcessSignals::without_reload()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Temporary directory of the demo, removed on drop.
struct DemoDir(PathBuf);

impl DemoDir {
    fn create() -> std::io::Result<DemoDir> {
        let name =
            format!("doorward-demo-{}", BASE32_NOPAD.encode(&random_bytes::<5>()).to_lowercase());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(DemoDir(path))
    }

    /// Creates two users with random passwords, so that no default password exists.
    fn create_users(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut file = UsersFileEditor::open_or_new(&self.0.join("users.toml"))?;
        let mut users = Vec::new();
        for (user, group) in [("alice", "staff"), ("bob", "guests")] {
            let password = BASE32_NOPAD.encode(&random_bytes::<10>()).to_lowercase();
            let identity = Identity {
                user: user.to_owned(),
                name: None,
                email: Some(format!("{user}@example.com")),
                groups: vec![group.to_owned()],
                ..Identity::default()
            };
            file.add(&identity, &Credential::hash(&password, Cost::DEFAULT)?)?;
            users.push((user.to_owned(), password));
        }
        file.save()?;
        Ok(users)
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        // A leftover in the system's temporary directory is harmless.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn configuration(directory: &Path, listen: SocketAddr, apps: &apps::Apps) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        r#"
[server]
https = ["{listen}"]
state_dir = "{state}"

[admin]
listen = ""

[[tls.certificate]]
cert = "{cert}"
key = "{key}"

[session]
idle_timeout = "{idle}s"
absolute_timeout = "10m"
rotate_after = "{rotate}s"
rotation_grace = "{grace}s"

[login.password]

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

[login.oidc.demo]
issuer = "http://{provider}"
client_id = "{client}"
client_auth = "none"
label = "the demo provider"
trust_user_names = true
"#,
        state = directory.display(),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        idle = IDLE.as_secs(),
        rotate = ROTATE_AFTER.as_secs(),
        grace = GRACE.as_secs(),
        headers = apps.headers,
        clock = apps.clock,
        provider = apps.provider,
        client = provider::CLIENT_ID,
    )
}

fn welcome(port: u16, users: &[(String, String)], directory: &Path) {
    let (rotate, grace, idle) = (ROTATE_AFTER.as_secs(), GRACE.as_secs(), IDLE.as_secs());
    println!("\n  doorward demo: https://localhost:{port}\n");
    for (user, password) in users {
        println!("    {user:<6} password {password}");
    }
    println!(
        "
  The certificate is valid for this run only. Your browser shows a warning: continue, or trust
  {ca} for this run.

  1  Log in as alice. The app shows the request headers that it received: identity headers, no cookie.
  2  Reload after {rotate} s: the log below shows session.token-rotated.
  3  Open https://localhost:{port}/clock: a WebSocket. Bob has no access and gets an error page.
  4  Open https://localhost:{port}/.doorward/sessions, log in with a second browser, and end one session from the other.
  5  Wait {idle} s: the session ends by the idle timeout.
  6  Log in with the demo provider, an OpenID Connect provider without passwords on this computer.
  7  Steal the session: copy the cookie __Host-doorward from the browser's developer tools, reload twice
     {rotate} s apart, wait {grace} s, and replay the old token:
       curl -k https://localhost:{port}/ -H 'Cookie: __Host-doorward=OLD'
     The log shows session.theft, and the session has ended for both.

  Sessions: doorward sessions list --socket {socket}
  Ctrl-C ends the demo and removes its files.
",
        ca = directory.join("ca.pem").display(),
        socket = directory.join("admin.sock").display(),
    );
}
