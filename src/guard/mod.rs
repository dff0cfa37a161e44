//! From a cookie to a permit: load, decide, compare-and-swap, until the swap holds.
//!
//! A [`Permit`] is the only thing that lets a request upstream, and only this module makes one: for a
//! public route, or after [`decide`](crate::session::decide()) admitted a live session and its change
//! was stored. The store's failure is a [`Denial::Unavailable`]; it never admits and never costs
//! anybody a cookie.

mod admit;
mod denial;
mod everyone;
mod held;
mod known;
mod live;
mod outage;
mod patrol;
mod permit;
mod recall;
mod sessions;
mod steer;

pub use admit::{Admitted, Entry, Visit};
pub use denial::Denial;
pub use live::{Cut, Ending, Full, Live, LiveLimits, Sight, Terms, Watched};
pub use permit::{NewToken, Permit};
pub use sessions::{Begun, LivesOn, Opened, Remaining};

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::{Clock, UnixMillis};
use crate::identity::Directory;
use crate::message::CookieNames;
use crate::risk::{Atlas, Settings};
use crate::secret::KeyRing;
use crate::session::{ClientContext, NotBefore, SessionId, SessionPolicy};
use crate::store::{Store, Unavailable};
use crate::telemetry::events::About;
use crate::telemetry::{Audit, Hook, Metrics, SessionEvent};

use everyone::Everyone;
use known::Known;
use outage::Outage;

/// One worker's guard: its own connection to the store, and what all workers share.
#[derive(Clone)]
pub struct Guard {
    store: Store,
    shared: Arc<Shared>,
}

/// What all workers share.
pub struct Shared {
    pub keys: ArcSwap<KeyRing>,
    pub clock: Clock,
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub directory: Option<Arc<Directory>>,
    pub metrics: Metrics,
    pub audit: Option<Audit>,
    pub hook: Option<Hook>,
    pub live: Live,
    pub signals: Settings,
    pub atlas: ArcSwap<Atlas>,
    everyone: Everyone,
    known: Known,
    outage: Outage,
}

/// What [`Shared`] is made of.
pub struct SharedParts {
    pub keys: KeyRing,
    pub clock: Clock,
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub directory: Option<Arc<Directory>>,
    pub metrics: Metrics,
    pub live: LiveLimits,
    pub audit: Option<Audit>,
    pub hook: Option<Hook>,
    pub signals: Settings,
}

impl Shared {
    /// The state that a process has once.
    pub fn new(parts: SharedParts) -> Shared {
        let live = Live::new(parts.live, &parts.policy, parts.metrics.clone());
        Shared {
            keys: ArcSwap::from_pointee(parts.keys),
            clock: parts.clock,
            policy: parts.policy,
            max_per_user: parts.max_per_user,
            cookies: parts.cookies,
            directory: parts.directory,
            metrics: parts.metrics,
            live,
            audit: parts.audit,
            hook: parts.hook,
            signals: parts.signals,
            atlas: ArcSwap::default(),
            everyone: Everyone::new(),
            known: Known::new(),
            outage: Outage::default(),
        }
    }

    /// Counts and writes down a session event, and tells who has to know at once.
    pub fn event(&self, event: SessionEvent, about: About<'_>) {
        self.metrics.event(event);
        if let Some(audit) = self.audit.as_ref().filter(|_| event.is_audited()) {
            audit.event(event, &about, self.clock.now());
        }
        if let Some(hook) = &self.hook {
            hook.event(event, &about, self.clock.now());
        }
        event.log(about);
    }

    /// The line moved: sessions behind it are over, and so are their connections.
    fn raise_everyone(&self, at: UnixMillis) {
        if self.everyone.raise(at) {
            self.live.ended_by_line(None, NotBefore { at, except: None });
        }
    }
}

impl Guard {
    /// A guard over one worker's store.
    pub fn new(store: Store, shared: Arc<Shared>) -> Guard {
        Guard { store, shared }
    }

    /// What all workers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The store, for readiness and housekeeping.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    fn unavailable(&self, error: Unavailable) -> Denial {
        self.shared.metrics.store_error();
        Denial::Unavailable(error)
    }
}

fn about<'a>(user: &'a str, session: SessionId, from: &'a ClientContext) -> About<'a> {
    let (client, agent) = (Some(from.address), from.agent.as_str());
    let (session, fingerprint) = (Some(session), from.fingerprint);
    let language = from.language.as_str();
    About { user, session, client, agent, language, fingerprint, ..About::default() }
}
