//! Who is told: webhooks that answer from a script, and the receiver that stands in the docs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use super::{PATIENCE, SECRET};

/// What a receiver does with a request.
#[derive(Clone)]
pub(super) enum Act {
    Answer(&'static str),
    /// Says nothing until it is dropped.
    Hang,
    /// Answers after a while.
    Late(Duration),
}

pub(super) const GOOD: Act = Act::Answer("204 No Content");

/// A webhook on a thread of its own, for the end of a gateway blocks the test's.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    posts: mpsc::Receiver<String>,
    _hanging: Arc<()>,
}

impl Receiver {
    /// Does what stands in `script`, a step for each request, and the last step from then on.
    pub(super) fn start(script: &[Act], tls: Option<Arc<rustls::ServerConfig>>) -> Receiver {
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

    pub(super) fn plain(script: &[Act]) -> Receiver {
        Receiver::start(script, None)
    }

    pub(super) fn webhook(&self) -> String {
        format!("webhook = \"http://{}/doorward?x=y\"", self.address)
    }

    /// The next request, head and body.
    pub(super) fn next(&self) -> String {
        self.posts.recv_timeout(PATIENCE).expect("a request")
    }

    /// How many came since.
    pub(super) fn rest(&self) -> usize {
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

pub(super) fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value).unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// The receiver that stands in docs/notify.md, on any port.
pub(super) struct Documented {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub(super) address: SocketAddr,
}

impl Documented {
    pub(super) fn start(directory: &Path) -> Documented {
        std::fs::write(directory.join("notify-secret"), SECRET).expect("written");
        let docs = include_str!("../../../docs/notify.md");
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

    pub(super) fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Documented {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}
