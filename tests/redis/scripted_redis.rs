//! A scripted server with the part of the Redis protocol that the store needs. It reproduces rare timing of real
//! servers on demand: late replies, late or missing invalidations, closed connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use doorward::store::RedisSettings;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

type Sender = UnboundedSender<Vec<u8>>;

/// A running server. Dropping it closes all connections.
pub struct ScriptedRedis {
    pub address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    read_arrived: Notify,
    disconnect: Notify,
}

#[derive(Default)]
struct Inner {
    values: HashMap<String, Vec<u8>>,
    subscribers: Vec<Sender>,
    /// Whether subscribers receive nothing, not even replies.
    is_silent: bool,
    /// As a primary of a cluster, accepts only keys with this hash tag.
    accepted_tag: Option<&'static str>,
    /// Delay of the push for a heartbeat.
    heartbeat_delay: Duration,
    /// Held replies to readers.
    held_replies: Option<Vec<(Sender, Vec<u8>)>>,
}

impl ScriptedRedis {
    pub async fn start() -> ScriptedRedis {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::<State>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        ScriptedRedis { address, state, _tasks: tasks }
    }

    pub fn settings(&self) -> RedisSettings {
        RedisSettings { url: format!("redis://{}", self.address), ..RedisSettings::default() }
    }

    /// Sets a value without an invalidation.
    pub fn put(&self, name: &str, value: &[u8]) {
        self.state.inner.lock().values.insert(name.to_owned(), value.to_vec());
    }

    /// Pushes one invalidation of these keys to every subscriber.
    pub fn push_invalidation(&self, names: &[&str]) {
        self.state.inner.lock().push(&invalidation(names));
    }

    /// Pushes the invalidation of FLUSHALL.
    pub fn push_flush(&self) {
        self.state.inner.lock().push(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
    }

    /// From here on, reads are executed at once and their replies are held.
    pub fn hold_replies(&self) {
        self.state.inner.lock().held_replies = Some(Vec::new());
    }

    /// Waits until this many replies are held.
    pub async fn wait_for_held(&self, count: usize) {
        loop {
            let arrived = self.state.read_arrived.notified();
            if self.state.inner.lock().held_replies.as_ref().is_some_and(|held| held.len() >= count)
            {
                return;
            }
            arrived.await;
        }
    }

    /// Sends all held replies and stops holding.
    pub fn release_replies(&self) {
        for (to, response) in self.state.inner.lock().held_replies.take().unwrap_or_default() {
            let _gone = to.send(response);
        }
    }

    /// Returns the held replies, to be sent one by one in the order of the reads.
    pub fn take_held_replies(&self) -> Vec<impl FnOnce() + use<>> {
        let held = self.state.inner.lock().held_replies.take().unwrap_or_default();
        held.into_iter().map(|(to, response)| move || drop(to.send(response))).collect()
    }

    /// Sends nothing more to subscribers, whose connections stay open.
    pub fn stop_pushing(&self) {
        self.state.inner.lock().is_silent = true;
    }

    /// As a primary of a cluster, accepts only keys with this hash tag.
    pub fn accept_only(&self, tag: &'static str) {
        self.state.inner.lock().accepted_tag = Some(tag);
    }

    /// Delays the push for every heartbeat from here on.
    pub fn delay_heartbeats(&self, heartbeat_delay: Duration) {
        self.state.inner.lock().heartbeat_delay = heartbeat_delay;
    }

    /// Closes the connections of all subscribers and does not reply to new ones.
    pub fn disconnect_subscribers(&self) {
        self.state.inner.lock().is_silent = true;
        self.state.disconnect.notify_waiters();
    }
}

impl Inner {
    fn push(&mut self, bytes: &[u8]) {
        if !self.is_silent {
            self.subscribers.retain(|follower| follower.send(bytes.to_vec()).is_ok());
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let (reader, writer) = stream.into_split();
    let (sender, receiver) = unbounded_channel();
    let mut writing = JoinSet::new();
    writing.spawn(write(writer, receiver));
    let connection = Connection { state, sender, is_subscriber: false };
    tokio::select! {
        () = connection.serve(BufReader::new(reader)) => {}
        _ = writing.join_next() => {}
    }
}

/// Writes until all senders are dropped.
async fn write(mut writer: OwnedWriteHalf, mut receiver: UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = receiver.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

struct Connection {
    state: Arc<State>,
    sender: Sender,
    is_subscriber: bool,
}

impl Connection {
    async fn serve(mut self, mut reader: BufReader<OwnedReadHalf>) {
        while let Some(arguments) = self.next(&mut reader).await {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if arguments.starts_with(&["CLIENT", "TRACKING"]) {
                self.subscribe();
            }
            let response = self.reply(&arguments);
            self.send(response);
            if self.is_subscriber
                && let ["SET", name, ..] = arguments[..]
                && self.accepts(name)
            {
                self.push_heartbeat(name);
            }
        }
    }

    fn subscribe(&mut self) {
        self.is_subscriber = true;
        self.state.inner.lock().subscribers.push(self.sender.clone());
    }

    async fn next(&self, reader: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
        tokio::select! {
            arguments = command(reader) => arguments,
            () = self.state.disconnect.notified(), if self.is_subscriber => None,
        }
    }

    fn send(&self, response: Vec<u8>) {
        let mut inner = self.state.inner.lock();
        if self.is_subscriber && inner.is_silent {
            return;
        }
        if !self.is_subscriber
            && let Some(held) = &mut inner.held_replies
        {
            held.push((self.sender.clone(), response));
            self.state.read_arrived.notify_waiters();
            return;
        }
        let _gone = self.sender.send(response);
    }

    fn push_heartbeat(&self, name: &str) {
        let (push, heartbeat_delay) =
            (invalidation(&[name]), self.state.inner.lock().heartbeat_delay);
        let (state, sender) = (Arc::clone(&self.state), self.sender.clone());
        tokio::spawn(async move {
            tokio::time::sleep(heartbeat_delay).await;
            if !state.inner.lock().is_silent {
                let _gone = sender.send(push);
            }
        });
    }

    fn reply(&self, arguments: &[&str]) -> Vec<u8> {
        match arguments {
            ["HELLO", ..] => b"%1\r\n$5\r\nproto\r\n:3\r\n".to_vec(),
            ["INFO", "server"] => bulk(b"run_id:one\r\n"),
            ["INFO", ..] => bulk(b"master_replid:first\r\n"),
            ["SET" | "DEL", name, ..] if !self.accepts(name) => {
                b"-MOVED 1 127.0.0.1:1\r\n".to_vec()
            }
            ["MGET", names @ ..] => self.values(names),
            ["DEL" | "EVALSHA" | "EVAL", ..] => b":1\r\n".to_vec(),
            _ => b"+OK\r\n".to_vec(),
        }
    }

    fn accepts(&self, name: &str) -> bool {
        self.state.inner.lock().accepted_tag.is_none_or(|tag| name.contains(tag))
    }

    fn values(&self, names: &[&str]) -> Vec<u8> {
        let inner = self.state.inner.lock();
        let mut response = format!("*{}\r\n", names.len()).into_bytes();
        for name in names {
            let value = inner.values.get(*name);
            response.extend(value.map_or_else(|| b"$-1\r\n".to_vec(), |value| bulk(value)));
        }
        response
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn invalidation(names: &[&str]) -> Vec<u8> {
    let mut push = format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n", names.len()).into_bytes();
    names.iter().for_each(|name| push.extend(bulk(name.as_bytes())));
    push
}

/// Reads one command: an array of strings.
async fn command(reader: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
    let count = number(reader, '*').await?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let mut argument = vec![0; number(reader, '$').await? + 2];
        reader.read_exact(&mut argument).await.ok()?;
        argument.truncate(argument.len() - 2);
        arguments.push(String::from_utf8_lossy(&argument).into_owned());
    }
    Some(arguments)
}

async fn number(reader: &mut BufReader<OwnedReadHalf>, kind: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}
