//! A real Redis (or Valkey) of a test's own: on a free port, in a temporary directory, ended by its guard.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doorward::store::RedisSettings;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct How {
    pub binary: PathBuf,
    pub tls: bool,
    /// Whom the certificate names.
    pub name: String,
    /// Where the certificates of another server are, to be of one authority with it.
    pub certificates: Option<PathBuf>,
    /// A configuration that it writes to itself.
    pub file: Option<PathBuf>,
    pub extra: Vec<String>,
}

impl Default for How {
    fn default() -> How {
        How {
            binary: PathBuf::from("redis-server"),
            tls: false,
            name: "127.0.0.1".to_owned(),
            certificates: None,
            file: None,
            extra: Vec::new(),
        }
    }
}

/// What a server that speaks TLS keeps in its directory.
const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

impl How {
    /// A server that speaks TLS only and asks for a client's certificate.
    pub fn tls() -> How {
        How { tls: true, ..How::default() }
    }

    /// With more arguments.
    pub fn with(extra: &[&str]) -> How {
        How { extra: extra.iter().map(|text| (*text).to_owned()).collect(), ..How::default() }
    }
}

/// The server. Dropping it kills the process.
pub struct RedisServer {
    how: How,
    port: u16,
    directory: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start(how: How) -> RedisServer {
        let directory = TempDir::new().expect("a temporary directory");
        match &how.certificates {
            Some(of) => CERTIFICATES.iter().for_each(|name| {
                std::fs::copy(of.join(name), directory.path().join(name)).expect("certificates");
            }),
            None if how.tls => write_certificates(&directory, &how.name),
            None => {}
        }
        let mut server = RedisServer { how, port: free_port(), directory, child: None };
        server.spawn();
        server
    }

    /// Where the store finds it.
    pub fn settings(&self) -> RedisSettings {
        let scheme = if self.how.tls { "rediss" } else { "redis" };
        let file = |name: &str| self.how.tls.then(|| self.directory.path().join(name));
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

    /// What it was started with.
    pub fn argument(&self, name: &str) -> String {
        let mut arguments = self.how.extra.iter().skip_while(|argument| *argument != name);
        arguments.nth(1).expect("an argument with a value").clone()
    }

    /// Where it keeps its files.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Stops the process without ending it: connections stay and nobody answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A new, empty server on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Sends one command and gives the first line of the answer.
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("the server answers")
    }

    /// The same while the server may hang up: one that comes to follow or to lead ends the
    /// connections of its clients. Nothing when it did, so ask again.
    pub fn ask(&self, words: &[&str]) -> Option<String> {
        self.try_command(words).ok()
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
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
        let mut command = Command::new(&self.how.binary);
        command.current_dir(self.directory.path());
        command.args(&self.how.file);
        command.args(["--bind", "127.0.0.1"]);
        if self.how.file.is_none() {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.args(["--daemonize", "no", "--logfile", "log"]);
        command.args(["--unixsocket", "redis.sock"]);
        if self.how.tls {
            command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "yes"]);
            command.args(["--tls-ca-cert-file", "ca.pem"]);
            command.args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]);
        } else {
            command.args(["--port", &port]);
        }
        command.args(&self.how.extra).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{} does not start ({error}); this test needs it: install the package redis-server",
                self.how.binary.display()
            )
        });
        self.child = Some(child);
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.ask(&["PING"]);
            if answer.is_some_and(|answer| answer == "+PONG" || answer.starts_with("-NOAUTH")) {
                return;
            }
            let child = self.child.as_mut().expect("just started");
            let ended = child.try_wait().expect("a child of ours");
            let log = self.directory.path().join("log");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the server does not come up: {}",
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

/// An authority, and one certificate that both sides use.
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
    // Of the same name as its authority it would pass for one.
    leaf.distinguished_name.push(DnType::CommonName, "redis of a test");
    write("cert.pem", leaf.signed_by(&key, &issuer).expect("signed").pem());
    write("key.pem", key.serialize_pem());
}
