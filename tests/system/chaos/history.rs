//! What happened, with the times at which it was asked for and answered.
//!
//! Times are milliseconds since the history began. The time before an action starts is taken as its
//! beginning, the time after its answer is in hand as its end: what truly happened lies in between.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Milliseconds since the history began.
pub type Millis = u64;

/// A session, by the handle under which logs and the operator's commands know it.
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

/// What a cookie says, without what would make it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub session: Session,
    pub generation: u32,
    /// Eight bytes of the secret: tells two successors apart.
    pub secret: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An honest browser: it must never be refused without a reason.
    Browser(usize),
    /// Has a copy of a browser's cookie, and uses it from elsewhere.
    Thief,
    /// Shows the cookie of a session that was just ended, at every gateway.
    Prober,
    /// Shows the cookie of a session that somebody failed to end, at the gateway that could not.
    FailedEndProber,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A page of a route where an outage is a 503.
    Page,
    /// A page of a route that says `on_outage = "serve-known"`.
    StaleReadable,
    /// A change there.
    Write,
}

/// One request.
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

/// What became of a request.
#[derive(Clone, Debug)]
pub enum RequestOutcome {
    Response(RecordedResponse),
    /// The client hung up; whatever the answer was, nobody saw it.
    Abandoned,
    /// No connection, or none that lasted.
    NoResponse(String),
}

/// What an answer said.
#[derive(Clone, Debug, Default)]
pub struct RecordedResponse {
    pub status: u16,
    /// The gateway's word for a refusal.
    pub reason: String,
    pub retry_after: bool,
    /// The token that came with it.
    pub new_token: Option<Token>,
    /// It deleted the session's cookie.
    pub deletes_cookie: bool,
    /// It says of itself that the store was not asked.
    pub is_stale: bool,
    /// What the upstream said: which request it answered, and for whom.
    pub echo: Option<(u64, String)>,
}

/// Which sessions an operator or a user ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndTarget {
    Session(Session),
    User(String),
    All,
}

/// What a fault may do to honest people. What it may not is never excused.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowedEffects {
    /// 503, until a moment after it is over.
    pub unavailable: bool,
    /// The gateway itself is away: no answer, or a late one.
    pub gateway_down: bool,
    /// What was written is gone: sessions may be, and renewals.
    pub data_loss: bool,
    /// A wrong clock: sessions end early, and the grace of a token is as long as the clock is wrong; those
    /// alone that came to its gateway.
    pub wrong_clock: bool,
}

/// A fault while it lasted.
#[derive(Clone, Debug)]
pub struct FaultWindow {
    pub fault: &'static str,
    /// Only this gateway's; all when `None`.
    pub gateway: Option<usize>,
    pub began: Millis,
    pub ended: Millis,
    pub allowed: AllowedEffects,
    /// From the beginning until then its gateways heard nothing from the store.
    pub store_silent_until: Option<Millis>,
}

/// One line of a history.
#[derive(Clone, Debug)]
pub enum Event {
    /// A login was answered: the session exists.
    LoggedIn {
        session: Session,
        user: String,
        gateway: usize,
        sent: Millis,
        done: Millis,
    },
    Requested(Request),
    /// One of the gateway's own pages was asked for with a session's cookie.
    OwnPage {
        session: Session,
        gateway: usize,
        sent: Millis,
        done: Millis,
    },
    /// A request came to the upstream in the name of this user; empty when it named none.
    ReachedUpstream {
        request: u64,
        user: String,
        at: Millis,
    },
    /// Sessions were ended; without `acked` nobody knows whether.
    Ended {
        what: EndTarget,
        gateway: usize,
        sent: Millis,
        acked: Option<Millis>,
        /// When it was answered, or nobody waited for that any longer.
        done: Millis,
    },
    /// A thief has the cookie.
    Stolen {
        session: Session,
        at: Millis,
    },
    /// What a gateway told the operator about a session. `absolute_end` is in session time.
    Listed {
        session: Session,
        user: String,
        absolute_end: u64,
        at: Millis,
    },
    /// A line of an event stream reached its reader; `told` is when the upstream wrote it.
    StreamLine {
        session: Session,
        gateway: usize,
        user: String,
        written_at: Millis,
    },
    /// An event stream ended, and not by its reader.
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

/// Where everybody writes.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    pub fn new() -> Recorder {
        Recorder { began: Instant::now(), events: Arc::default() }
    }

    /// Milliseconds since the history began.
    pub fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn add(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// All of it, as far as it goes.
    pub fn history(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
