//! A real Redis or Valkey server on a free port and in a temporary directory. Dropping it kills the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doorward::store::RedisSettings;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// Start options of a server.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    pub binary: PathBuf,
    pub tls: bool,
    /// Subject name of the server certificate.
    pub name: String,
    /// Directory of another server whose certificates this one reuses; `None` creates new ones.
    pub certificates: Option<PathBuf>,
    /// Configuration file that the server may rewrite, as sentinels do.
    pub config_file: Option<PathBuf>,
    pub args: Vec<String>,
}

impl Default for RedisOptions {
    fn default() -> RedisOptions {
        RedisOptions {
            binary: PathBuf::from("redis-server"),
            tls: false,
            name: "127.0.0.1".to_owned(),
            certificates: None,
            config_file: None,
            args: Vec::new(),
        }
    }
}

/// Files of a TLS server in its directory.
const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

impl RedisOptions {
    /// Options of a TLS-only server that requires a client certificate.
    pub fn tls() -> RedisOptions {
        RedisOptions { tls: true, ..RedisOptions::default() }
    }

    /// Options with additional command-line arguments.
    pub fn with_args(args: &[&str]) -> RedisOptions {
        RedisOptions {
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            ..RedisOptions::default()
        }
    }
}

/// A running server process.
pub struct RedisServer {
    options: RedisOptions,
    port: u16,
    directory: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it responds.
    pub fn start(options: RedisOptions) -> RedisServer {
        let directory = TempDir::new().expect("a temporary directory");
        match &options.certificates {
            Some(of) => CERTIFICATES.iter().for_each(|name| {
                std::fs::copy(of.join(name), directory.path().join(name)).expect("certificates");
            }),
            None if options.tls => write_certificates(&directory, &options.name),
            None => {}
        }
        let mut server = RedisServer { options, port: free_port(), directory, child: None };
        server.spawn();
        server
    }

    /// Returns the store settings for this server.
    pub fn settings(&self) -> RedisSettings {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let file = |name: &str| self.options.tls.then(|| self.directory.path().join(name));
        RedisSettings {
            url: format!("{scheme}://127.0.0.1:{}", self.port),
            ca: file("ca.pem"),
            client_cert: file("cert.pem"),
            client_key: file("key.pem"),
            ..RedisSettings::default()
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the value of a command-line argument.
    pub fn argument(&self, name: &str) -> String {
        let mut arguments = self.options.args.iter().skip_while(|argument| *argument != name);
        arguments.nth(1).expect("an argument with a value").clone()
    }

    /// Returns the directory of its files.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Suspends the process: connections stay open without responses.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a new, empty server on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Sends one command and returns the first line of the reply.
    pub fn command(&self, parts: &[&str]) -> String {
        self.exchange(parts).expect("the server replies")
    }

    /// Sends one command; returns `None` if the connection breaks. A server that changes its replication role
    /// closes client connections, so callers retry.
    pub fn try_command(&self, parts: &[&str]) -> Option<String> {
        self.exchange(parts).ok()
    }

    fn exchange(&self, parts: &[&str]) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = format!("*{}\r\n", parts.len());
        for part in parts {
            text.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        stream.write_all(text.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(length) = line.strip_prefix('$').and_then(|n| n.trim().parse().ok()) {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        Ok(line.trim_end().to_owned())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("a running server");
        let status = Command::new("kill").arg(name).arg(child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    fn spawn(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new(&self.options.binary);
        command.current_dir(self.directory.path());
        command.args(&self.options.config_file);
        command.args(["--bind", "127.0.0.1"]);
        if self.options.config_file.is_none() {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.args(["--daemonize", "no", "--logfile", "log"]);
        command.args(["--unixsocket", "redis.sock"]);
        if self.options.tls {
            command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "yes"]);
            command.args(["--tls-ca-cert-file", "ca.pem"]);
            command.args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]);
        } else {
            command.args(["--port", &port]);
        }
        command.args(&self.options.args).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{} does not start ({error}); this test needs it: install the package redis-server",
                self.options.binary.display()
            )
        });
        self.child = Some(child);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let response = self.try_command(&["PING"]);
            if response
                .is_some_and(|response| response == "+PONG" || response.starts_with("-NOAUTH"))
            {
                return;
            }
            let child = self.child.as_mut().expect("just started");
            let ended = child.try_wait().expect("a child of ours");
            let log = self.directory.path().join("log");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the server does not start: {}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Writes a CA and one certificate that both sides use.
fn write_certificates(directory: &TempDir, name: &str) {
    let write = |name: &str, text: String| {
        std::fs::write(directory.path().join(name), text).expect("a writable directory");
    };
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).expect("signed").pem());
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name or address");
    // With the subject of its CA, the certificate would be taken for a CA.
    leaf.distinguished_name.push(DnType::CommonName, "redis of a test");
    write("cert.pem", leaf.signed_by(&key, &issuer).expect("signed").pem());
    write("key.pem", key.serialize_pem());
}
