//! Receivers: scripted webhooks, and the receiver from the docs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use super::{SECRET, TIMEOUT};

/// Behavior of a receiver.
#[derive(Clone)]
pub(super) enum ReceiverBehavior {
    Respond(&'static str),
    /// Sends no response until dropped.
    Hang,
    /// Responds after a delay.
    Late(Duration),
}

pub(super) const ACCEPTS: ReceiverBehavior = ReceiverBehavior::Respond("204 No Content");

/// A webhook on a separate thread, because the shutdown of a gateway blocks the test thread.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    posts: mpsc::Receiver<String>,
    _hanging: Arc<()>,
}

impl Receiver {
    /// Starts a webhook that performs one step of `script` per request and then repeats the last one.
    pub(super) fn start(
        script: &[ReceiverBehavior],
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, posts) = mpsc::channel();
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
                    (_, ReceiverBehavior::Hang) => held.push(stream),
                    (None, act) => serve(stream, &act, &sender).unwrap_or_default(),
                    (Some(tls), act) => {
                        let session = rustls::ServerConnection::new(Arc::clone(tls));
                        let session = session.expect("a session");
                        let stream = rustls::StreamOwned::new(session, stream);
                        serve(stream, &act, &sender).unwrap_or_default();
                    }
                }
            }
        });
        Receiver { address, posts, _hanging: hanging }
    }

    pub(super) fn plain(script: &[ReceiverBehavior]) -> Receiver {
        Receiver::start(script, None)
    }

    pub(super) fn webhook(&self) -> String {
        format!("webhook = \"http://{}/doorward?x=y\"", self.address)
    }

    /// Returns the next request, head and body.
    pub(super) fn next(&self) -> String {
        self.posts.recv_timeout(TIMEOUT).expect("a request")
    }

    /// Returns the number of further requests.
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

fn serve(
    mut stream: impl Read + Write,
    act: &ReceiverBehavior,
    sender: &Sender<String>,
) -> io::Result<()> {
    let mut request = Vec::new();
    while !is_complete(&request) {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&chunk[..length]),
        }
    }
    sender.send(String::from_utf8(request).expect("text")).unwrap_or_default();
    let status = match act {
        ReceiverBehavior::Respond(status) => status,
        ReceiverBehavior::Late(time) => {
            std::thread::sleep(*time);
            "200 OK"
        }
        ReceiverBehavior::Hang => return Ok(()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = header(head, "content-length").parse().expect("a number");
    body.len() >= length
}

pub(super) fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value).unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// The receiver from docs/notify.md on a free port.
pub(super) struct DocumentedReceiver {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub(super) address: SocketAddr,
}

impl DocumentedReceiver {
    pub(super) fn start(directory: &Path) -> DocumentedReceiver {
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
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut this = DocumentedReceiver { child, lines, address: ([127, 0, 0, 1], 0).into() };
        this.address.set_port(this.next().parse().expect("a port"));
        this
    }

    pub(super) fn next(&self) -> String {
        self.lines.recv_timeout(TIMEOUT).expect("a line")
    }
}

impl Drop for DocumentedReceiver {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}
