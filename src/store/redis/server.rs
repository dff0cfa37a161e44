//! A server, and a worker's connection to it.
//!
//! A [`Server`] is shared by all workers of the process: it holds the breaker. A [`Wire`] is one
//! worker's: it is made with the first command, again when it broke, and by one dial at a time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use ::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, cmd, pipe,
};
use tokio::sync::watch;

use super::breaker::{Breaker, Open};
use super::connection::{Connection, Target};
use super::dial::{Dialer, Patience};
use super::trouble::{is_silence, is_spoilt};

/// A server that keeps sessions.
pub(super) struct Server {
    pub(super) address: String,
    pub(super) target: Target,
    pub(super) breaker: Breaker,
    /// Sentinels chose it and may choose another. It is asked for its role by each new connection: the
    /// one before breaks when a master is demoted, and a replica would answer with what was.
    is_chosen: bool,
}

impl Server {
    pub(super) fn new(address: String, target: Target, is_chosen: bool) -> Arc<Server> {
        Arc::new(Server { address, target, breaker: Breaker::default(), is_chosen })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// How many replicas have to have a write, and how long to wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

/// One command, and what goes around it.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) command: &'a Cmd,
    /// The server is taking over the slot, and answers who asks for that.
    pub(super) asking: bool,
    pub(super) wait: Option<Wait>,
    /// Those that went out.
    pub(super) round_trips: &'a AtomicU64,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    /// Replicas that have the write, when it was waited for.
    pub(super) replicas: Option<u32>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(super) enum Failure {
    Redis(RedisError),
    /// The server is left alone for a moment.
    Open(Open),
}

/// One connection of one worker.
pub(super) struct Wire {
    pub(super) server: Arc<Server>,
    held: Arc<Mutex<Held>>,
    /// One dials, the others wait for what it gets.
    dialing: Arc<Mutex<Option<Dialing>>>,
    patience: Patience,
}

/// The connection, how many there were before it, and the breaker's era in which it was made.
#[derive(Default)]
struct Held {
    connection: Option<Connection>,
    number: u64,
    era: u64,
    /// Answers in a row that did not come.
    silences: u32,
}

/// A connection with its number, or why there is none.
type Dialed = RedisResult<(Connection, u64)>;

/// A dial under way, and how many asked for it.
#[derive(Clone)]
struct Dialing {
    dialed: watch::Receiver<Option<Dialed>>,
    askers: Arc<AtomicU32>,
}

/// A connection that is silent so often is given up: behind a proxy its server may be gone for long.
const MOST_SILENCES: u32 = 2;

impl Wire {
    pub(super) fn new(server: Arc<Server>, patience: Patience) -> Wire {
        Wire { server, held: Arc::default(), dialing: Arc::default(), patience }
    }

    /// Sends once. Being dropped in the middle leaves the answer to nobody: it is read and thrown away.
    pub(super) async fn send(
        &self,
        dialer: &Arc<Dialer>,
        sent: Sent<'_>,
    ) -> Result<Answer, Failure> {
        let entry = self.server.breaker.enter(Instant::now()).map_err(Failure::Open)?;
        let (answer, number) = match self.connection(dialer).await {
            Ok((mut connection, number)) => (exchange(&mut connection, sent).await, Some(number)),
            Err(error) => (Err(error), None),
        };
        let told = |error: &RedisError| dialer.told(&self.server.address, error).0;
        match &answer {
            Err(error) if number.is_none() && error.is_io_error() => {
                entry.unreached(|| told(error), Instant::now());
            }
            Err(error) if is_silence(error) => entry.silent(|| told(error), Instant::now()),
            // A connection that broke says nothing yet: the next one will.
            Err(error) if !error.is_io_error() => entry.answered(),
            Err(_) => {}
            Ok(_) => entry.answered(),
        }
        if let Some(number) = number {
            self.judge(number, &answer);
        }
        answer.map_err(Failure::Redis)
    }

    async fn connection(&self, dialer: &Arc<Dialer>) -> Dialed {
        if let Some(held) = self.current() {
            return Ok(held);
        }
        let mut dialing = self.dialing(dialer);
        match dialing.dialed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(dialed)) => dialed.clone(),
            Ok(None) | Err(_) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        }
    }

    /// The dial under way, or a new one: a task of its own, since who asked may have no time left before
    /// the server's silence is certain, and nobody would ever count it. It ends by its own deadline.
    fn dialing(&self, dialer: &Arc<Dialer>) -> Dialing {
        let mut current = lock(&self.dialing);
        if let Some(dialing) = current.as_ref().filter(|dialing| dialing.is_under_way()) {
            dialing.askers.fetch_add(1, Ordering::AcqRel);
            return dialing.clone();
        }
        let (answer, dialed) = watch::channel(None);
        let dialing = Dialing { dialed, askers: Arc::new(AtomicU32::new(1)) };
        let dial = Dial {
            server: Arc::clone(&self.server),
            held: Arc::clone(&self.held),
            dialing: Arc::clone(&self.dialing),
            patience: self.patience,
        };
        tokio::spawn(dial.run(Arc::clone(dialer), Arc::clone(&dialing.askers), answer));
        *current = Some(dialing.clone());
        dialing
    }

    /// A connection from before the server fell silent may be half of one: its peer is gone and does not
    /// say so.
    fn current(&self) -> Option<(Connection, u64)> {
        let held = lock(&self.held);
        let connection = held.connection.as_ref()?;
        (held.era == self.server.breaker.era()).then(|| (connection.clone(), held.number))
    }

    /// Keeps a connection or lets go of it, unless somebody replaced it already.
    fn judge(&self, number: u64, answer: &RedisResult<Answer>) {
        let mut held = lock(&self.held);
        if held.number != number {
            return;
        }
        match answer {
            Err(error) if is_silence(error) => held.silences = held.silences.saturating_add(1),
            Ok(_) | Err(_) => held.silences = 0,
        }
        if held.silences >= MOST_SILENCES || answer.as_ref().is_err_and(is_spoilt) {
            held.connection = None;
        }
    }
}

impl Dialing {
    /// Not when its task is gone, by a panic or with its runtime.
    fn is_under_way(&self) -> bool {
        self.dialed.borrow().is_none() && self.dialed.has_changed().is_ok()
    }
}

/// What a dial needs, whoever waits for it.
struct Dial {
    server: Arc<Server>,
    held: Arc<Mutex<Held>>,
    dialing: Arc<Mutex<Option<Dialing>>>,
    patience: Patience,
}

impl Dial {
    async fn run(
        self,
        dialer: Arc<Dialer>,
        askers: Arc<AtomicU32>,
        answer: watch::Sender<Option<Dialed>>,
    ) {
        let dialed = self.dial().await;
        // Who asks from here on dials himself, or finds the connection; nothing here keeps it.
        *lock(&self.dialing) = None;
        if let Err(error) = &dialed
            && error.is_io_error()
        {
            let told = || dialer.told(&self.server.address, error).0;
            let askers = askers.load(Ordering::Acquire);
            self.server.breaker.unreached(askers, told, Instant::now());
        }
        answer.send_replace(Some(dialed));
    }

    async fn dial(&self) -> Dialed {
        let era = self.server.breaker.era();
        let mut connection = self.patience.connect(&self.server.target).await?;
        if self.server.is_chosen {
            is_master(&mut connection).await?;
        }
        let mut held = lock(&self.held);
        let number = held.number.wrapping_add(1);
        *held = Held { connection: Some(connection.clone()), number, era, silences: 0 };
        Ok((connection, number))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Errors
/// As a write would get there.
pub(super) async fn is_master(connection: &mut Connection) -> RedisResult<()> {
    let role: Vec<Value> = cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(_) | None => {
            Err((ErrorKind::Server(ServerErrorKind::ReadOnly), "ROLE says that it is no master"))?
        }
    }
}

async fn exchange(connection: &mut Connection, sent: Sent<'_>) -> RedisResult<Answer> {
    sent.round_trips.fetch_add(1, Ordering::Relaxed);
    if !sent.asking && sent.wait.is_none() {
        let value = sent.command.query_async(connection).await?;
        return Ok(Answer { value, replicas: None });
    }
    let (pipeline, count) = together(sent);
    let mut values = connection.together(&pipeline, count).await?.into_iter();
    if sent.asking {
        values.next();
    }
    let value = values.next().unwrap_or(Value::Nil).extract_error()?;
    Ok(Answer { value, replicas: sent.wait.map(|_| acknowledged(values.next())) })
}

/// Written as one, so that nobody else's command comes between.
fn together(sent: Sent<'_>) -> (Pipeline, usize) {
    let mut pipeline = pipe();
    let mut count = 1;
    if sent.asking {
        pipeline.add_command(cmd("ASKING"));
        count += 1;
    }
    pipeline.add_command(sent.command.clone());
    if let Some(wait) = sent.wait {
        let timeout = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("WAIT").arg(wait.replicas).arg(timeout);
        count += 1;
    }
    (pipeline, count)
}

/// A server that cannot say has none.
fn acknowledged(value: Option<Value>) -> u32 {
    match value {
        Some(Value::Int(replicas)) => u32::try_from(replicas).unwrap_or(0),
        Some(_) | None => 0,
    }
}
