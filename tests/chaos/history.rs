//! What happened, with the times at which it was asked for and answered.
//!
//! Times are milliseconds since the history began. The time before an action starts is taken as its
//! beginning, the time after its answer is in hand as its end: what truly happened lies in between.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Milliseconds since the history began.
pub type At = u64;

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
    Sceptic,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A page of a route where an outage is a 503.
    Page,
    /// A page of a route that says `on_outage = "serve-known"`.
    Known,
    /// A change there.
    Change,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub by: Actor,
    pub gateway: usize,
    pub asks: Asks,
    pub token: Option<Token>,
    pub sent: At,
    pub done: At,
    pub fate: Fate,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    Answered(Answer),
    /// The client hung up; whatever the answer was, nobody saw it.
    Abandoned,
    /// No connection, or none that lasted.
    NoAnswer(String),
}

/// What an answer said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// The gateway's word for a refusal.
    pub reason: String,
    pub retry_after: bool,
    /// The token that came with it.
    pub offered: Option<Token>,
    /// It deleted the session's cookie.
    pub cleared: bool,
    /// It says of itself that the store was not asked.
    pub unasked: bool,
    /// What the upstream said: which request it answered, and for whom.
    pub echo: Option<(u64, String)>,
}

/// Which sessions an operator or a user ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ends {
    One(Session),
    User(String),
    Everybody,
}

/// What a fault may do to honest people. What it may not is never excused.
#[derive(Clone, Copy, Debug, Default)]
pub struct May {
    /// 503, until a moment after it is over.
    pub refuse: bool,
    /// The gateway itself is away: no answer, or a late one.
    pub silence: bool,
    /// What was written is gone: sessions may be, and renewals.
    pub lose_writes: bool,
    /// A wrong clock: sessions end early, and the grace of a token is as long as the clock is wrong; those
    /// alone that came to its gateway.
    pub bend_time: bool,
}

/// A fault while it lasted.
#[derive(Clone, Debug)]
pub struct Window {
    pub fault: &'static str,
    /// Only this gateway's; all when `None`.
    pub gateway: Option<usize>,
    pub began: At,
    pub ended: At,
    pub may: May,
    /// From the beginning until then its gateways heard nothing from the store.
    pub blind_until: Option<At>,
}

/// One line of a history.
#[derive(Clone, Debug)]
pub enum Event {
    /// A login was answered: the session exists.
    Began {
        session: Session,
        user: String,
        gateway: usize,
        sent: At,
        done: At,
    },
    Asked(Request),
    /// One of the gateway's own pages was asked for with a session's cookie.
    Came {
        session: Session,
        gateway: usize,
        sent: At,
        done: At,
    },
    /// A request came to the upstream in the name of this user; empty when it named none.
    Reached {
        request: u64,
        user: String,
        at: At,
    },
    /// Sessions were ended; without `acked` nobody knows whether.
    Ended {
        what: Ends,
        gateway: usize,
        sent: At,
        acked: Option<At>,
        /// When it was answered, or nobody waited for that any longer.
        done: At,
    },
    /// A thief has the cookie.
    Stolen {
        session: Session,
        at: At,
    },
    /// What a gateway told the operator about a session. `absolute_end` is in session time.
    Seen {
        session: Session,
        user: String,
        absolute_end: u64,
        at: At,
    },
    /// A line of an event stream reached its reader; `told` is when the upstream wrote it.
    Heard {
        session: Session,
        gateway: usize,
        user: String,
        told: At,
    },
    /// An event stream ended, and not by its reader.
    Cut {
        session: Session,
        gateway: usize,
        at: At,
    },
    Fault(Window),
}

impl Event {
    pub fn request(&self) -> Option<&Request> {
        if let Event::Asked(request) = self { Some(request) } else { None }
    }

    pub fn window(&self) -> Option<&Window> {
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
    pub fn now(&self) -> At {
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
