//! The recorded events of a history with their times.
//!
//! Times are milliseconds since the start of the history. An action is recorded with a time before it starts and
//! a time after its response has arrived; it took effect in between.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// Milliseconds since the start of the history.
pub type Millis = u64;

/// The handle of a session, as in logs and admin commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(pub u64);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The parsed content of a token, without what is needed to forge one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub session: Session,
    pub generation: u32,
    /// The first eight bytes of the secret; they distinguish two successors.
    pub secret: u64,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An honest browser; it must never be rejected without a reason.
    Browser(usize),
    /// An attacker with a copied cookie at another address.
    Attacker,
    /// Sends the cookie of a recently ended session to every gateway.
    Prober,
    /// Sends the cookie of a session to the gateway that failed to end it.
    FailedEndProber,
}

/// Route and effect of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A page of a route without stale reads.
    Page,
    /// A page of a route with `on_outage = "serve-known"`.
    StaleReadable,
    /// A write on the route with `on_outage = "serve-known"`.
    Write,
}

/// A request and its outcome.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub actor: Actor,
    pub gateway: usize,
    pub kind: RequestKind,
    pub token: Option<Token>,
    pub sent: Millis,
    pub done: Millis,
    pub outcome: RequestOutcome,
}

/// Outcome of a request.
#[derive(Clone, Debug)]
pub enum RequestOutcome {
    Response(RecordedResponse),
    /// The client disconnected before the response.
    Abandoned,
    /// The connection failed or broke.
    NoResponse(String),
}

/// The recorded parts of a response.
#[derive(Clone, Debug, Default)]
pub struct RecordedResponse {
    pub status: u16,
    /// The deny reason.
    pub reason: String,
    pub retry_after: bool,
    /// The new token in the response, if any.
    pub new_token: Option<Token>,
    /// Whether the response deletes the session cookie.
    pub deletes_cookie: bool,
    /// Whether the response is marked as a stale read.
    pub is_stale: bool,
    /// Request ID and user that the upstream received.
    pub echo: Option<(u64, String)>,
}

/// The sessions that an operator or user ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndTarget {
    Session(Session),
    User(String),
    All,
}

/// Effects on honest users that a fault may have; all others are violations.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowedEffects {
    /// 503 responses, until shortly after the end of the fault.
    pub unavailable: bool,
    /// Missing or late responses, because the gateway itself is down.
    pub gateway_down: bool,
    /// Lost writes: sessions and rotations may disappear.
    pub data_loss: bool,
    /// A wrong clock: at the affected gateway, sessions may end early and grace periods may be longer.
    pub wrong_clock: bool,
}

/// The time during which a fault was present.
#[derive(Clone, Debug)]
pub struct FaultWindow {
    pub fault: &'static str,
    /// The affected gateway; `None` if all are.
    pub gateway: Option<usize>,
    pub began: Millis,
    pub ended: Millis,
    pub allowed: AllowedEffects,
    /// End of the period, from `began` on, in which the store sent nothing to these gateways.
    pub store_silent_until: Option<Millis>,
}

/// An event of a history.
#[derive(Clone, Debug)]
pub enum Event {
    /// A successful login.
    LoggedIn {
        session: Session,
        user: String,
        gateway: usize,
        sent: Millis,
        done: Millis,
    },
    Requested(Request),
    /// A request with a session cookie for one of the gateway's own pages.
    OwnPage {
        session: Session,
        gateway: usize,
        sent: Millis,
        done: Millis,
    },
    /// A request reached the upstream with this user name; empty if it had none.
    ReachedUpstream {
        request: u64,
        user: String,
        at: Millis,
    },
    /// A request to end sessions; without `acked` its result is unknown.
    Ended {
        what: EndTarget,
        gateway: usize,
        sent: Millis,
        acked: Option<Millis>,
        /// Time of the response or of the client's timeout.
        done: Millis,
    },
    /// An attacker copied the cookie.
    Stolen {
        session: Session,
        at: Millis,
    },
    /// A session in the list of a gateway's admin API. `absolute_end` is in session time.
    Listed {
        session: Session,
        user: String,
        absolute_end: u64,
        at: Millis,
    },
    /// A line of a stream was received; `written_at` is the time of its writing.
    StreamLine {
        session: Session,
        gateway: usize,
        user: String,
        written_at: Millis,
    },
    /// A stream ended, but not by its reader.
    StreamCut {
        session: Session,
        gateway: usize,
        at: Millis,
    },
    Fault(FaultWindow),
}

impl Event {
    pub fn request(&self) -> Option<&Request> {
        if let Event::Requested(request) = self { Some(request) } else { None }
    }

    pub fn window(&self) -> Option<&FaultWindow> {
        if let Event::Fault(window) = self { Some(window) } else { None }
    }
}

/// Collects events from all actors.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    pub fn new() -> Recorder {
        Recorder { began: Instant::now(), events: Arc::default() }
    }

    /// Milliseconds since the start of the history.
    pub fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn add(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// Returns all events recorded so far.
    pub fn history(&self) -> Vec<Event> {
        self.events.lock().clone()
    }
}
