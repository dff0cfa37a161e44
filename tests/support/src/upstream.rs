//! An upstream that records the bytes of every request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Longest wait for an expected request.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

/// An upstream that sends the same response to every request. It reads bodies with `Content-Length` and chunked
/// bodies to their end.
pub struct Upstream {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<String>>>,
    /// Number of request heads received, with or without a complete body.
    started: watch::Sender<usize>,
    /// Whether responses may be sent.
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The response of [`Upstream::start`].
pub const HELLO: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello";

impl Upstream {
    /// Starts an upstream that responds with `200 hello`.
    pub async fn start() -> Upstream {
        Upstream::with_response(HELLO).await
    }

    /// Responds to every request with `response`.
    pub async fn with_response(response: impl Into<String>) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (heads, bodies) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
        let (started, open) = (watch::Sender::new(0), watch::Sender::new(true));
        let record = Recorder {
            heads: Arc::clone(&heads),
            bodies: Arc::clone(&bodies),
            started: started.clone(),
            open: open.subscribe(),
            response: response.into(),
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record.clone().serve(stream));
            }
        });
        Upstream { address, heads, bodies, started, open, task }
    }

    /// Holds back all responses until they are released.
    pub fn hold_responses(&self) {
        self.open.send_replace(false);
    }

    /// Sends all held responses and stops holding.
    pub fn release_responses(&self) {
        self.open.send_replace(true);
    }

    /// Waits until this many request heads have arrived; bodies may be incomplete.
    pub async fn wait_for_requests(&self, requests: usize) {
        let mut started = self.started.subscribe();
        let came = started.wait_for(|so_far| *so_far >= requests);
        let came = tokio::time::timeout(TIMEOUT, came).await;
        came.expect("the request arrives").expect("the upstream runs");
    }

    /// Returns the request heads that arrived, decoded as Latin-1.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    /// Returns the last request head.
    pub fn last_head(&self) -> String {
        self.heads().last().cloned().unwrap_or_default()
    }

    /// Returns the raw bodies that arrived, framing included.
    pub fn bodies(&self) -> Vec<String> {
        self.bodies.lock().expect("no panic").clone()
    }

    /// Returns the values of a header in the last request head; names are case-insensitive.
    pub fn last_values(&self, name: &str) -> Vec<String> {
        header_values(&self.last_head(), name)
    }
}

/// Returns the values of a header in a raw head; names are case-insensitive.
pub fn header_values(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts an upstream that reads the head of a request, then hands over the connection. It sends nothing.
pub async fn raw_upstream() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let _ = sender.send(stream).await;
            });
        }
    });
    (address, receiver)
}

#[derive(Clone)]
struct Recorder {
    heads: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<String>>>,
    started: watch::Sender<usize>,
    open: watch::Receiver<bool>,
    response: String,
}

impl Recorder {
    async fn serve(mut self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            let Some(end) = read_until(&mut stream, &mut bytes, b"\r\n\r\n").await else { return };
            let head: String = bytes.drain(..end).map(char::from).collect();
            self.started.send_modify(|requests| *requests += 1);
            let body = body(&mut stream, &mut bytes, &head).await;
            self.heads.lock().expect("no panic").push(head);
            self.bodies.lock().expect("no panic").push(body);
            if self.open.wait_for(|open| *open).await.is_err() {
                return;
            }
            if stream.write_all(self.response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn body(stream: &mut TcpStream, bytes: &mut Vec<u8>, head: &str) -> String {
    if let Some(length) = header_values(head, "content-length").first() {
        let length = length.parse().expect("a number");
        while bytes.len() < length {
            if fill(stream, bytes).await == 0 {
                break;
            }
        }
        return bytes.drain(..length.min(bytes.len())).map(char::from).collect();
    }
    if !header_values(head, "transfer-encoding").is_empty() {
        // The empty line after the last chunk or after the trailers.
        let end = read_until(stream, bytes, b"\r\n\r\n").await.unwrap_or(bytes.len());
        return bytes.drain(..end).map(char::from).collect();
    }
    String::new()
}

async fn read_until(stream: &mut TcpStream, bytes: &mut Vec<u8>, mark: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
            return Some(at + mark.len());
        }
        if fill(stream, bytes).await == 0 {
            return None;
        }
    }
}

async fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> usize {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.unwrap_or(0);
    bytes.extend_from_slice(&buffer[..read]);
    read
}
