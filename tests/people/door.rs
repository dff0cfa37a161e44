//! The real guard over a store in memory, with a clock that the simulation turns.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doorward::clock::{Clock, UnixMillis};
use doorward::config;
use doorward::guard::{Guard, Shared, SharedParts, Visit};
use doorward::identity::{Account, Cost, Credential};
use doorward::message::{CookieNames, Presented};
use doorward::risk::{Settings, Thresholds};
use doorward::route::Requirement;
use doorward::secret::KeyRing;
use doorward::session::{
    ClientContext, Identity, OnReuse, RoutePolicy, SessionPolicy, Timing, Watch,
};
use doorward::store::Store;
use doorward::telemetry::Metrics;

use super::earth;
use super::moves::{Move, Moves};

/// A token as a jar holds it.
pub type Cookie = Rc<str>;

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Half an hour idle, twelve hours in all: the defaults.
    AWorkday,
    /// A week idle, thirty days in all: "remember me".
    AMonth,
}

/// What a gateway is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub watch: Watch,
    pub thresholds: Thresholds,
    pub lasting: Lasting,
}

/// What came back.
pub struct Answer {
    /// Why not, in the word of the logs.
    pub refused: Option<&'static str>,
    pub token: Option<Cookie>,
    /// What the log said of a new place.
    pub moved: Option<Move>,
}

pub const ROTATE_AFTER: Duration = Duration::from_mins(10);
pub const GRACE: Duration = Duration::from_secs(30);

/// The simulation's midnight of the first day.
const START: u64 = 1_800_000_000_000;

pub struct Door {
    guard: Guard,
    clock: Clock,
    route: RoutePolicy,
    moves: Moves,
    password: Credential,
    midnight: u64,
    account: RefCell<Option<Account>>,
}

impl Door {
    pub fn new(rules: &Rules, moves: Moves) -> Door {
        let clock = Clock::manual(UnixMillis(START));
        let shared = shared(rules, &clock);
        shared.atlas.store(Arc::new(earth::atlas()));
        let guard = Guard::new(Store::memory(clock.clone()), Arc::new(shared));
        let route = RoutePolicy { signals: rules.watch, ..RoutePolicy::default() };
        let cheap = Cost::Argon2id { m: 256, t: 1, p: 1 };
        let password = Credential::hash("correct horse battery staple", cheap).expect("a hash");
        let (midnight, account) = (START, RefCell::default());
        Door { guard, clock, route, moves, password, midnight, account }
    }

    /// Somebody else's days begin, after all of those before.
    pub fn for_person(&mut self, number: u64, days: u64) {
        self.midnight += (days + 10) * 24 * 60 * 60 * 1000;
        let identity = Identity { user: format!("person {number}"), ..Identity::default() };
        self.account = RefCell::new(Some(Account::new(identity, self.password.clone(), false)));
        self.guard.store().sweep();
    }

    /// It is now so many milliseconds after the person's first midnight.
    pub fn at(&self, time: u64) {
        match &self.clock {
            Clock::Manual(now) => now.store(self.midnight + time, Ordering::SeqCst),
            Clock::System => {}
        }
    }

    pub async fn ask(
        &self,
        cookie: Option<&Cookie>,
        from: &ClientContext,
        timing: Timing,
    ) -> Answer {
        let presented = presented(cookie);
        let entry = self
            .guard
            .enter(&Visit {
                presented: &presented,
                context: from,
                policy: &self.route,
                requirement: &Requirement::default(),
                timing,
                activity: true,
                serve_known_for: None,
            })
            .await;
        Answer {
            refused: entry.verdict.err().map(|denial| denial.word()),
            token: entry.token.map(|token| Cookie::from(token.text.as_str())),
            moved: self.moves.take(),
        }
    }

    pub async fn log_in(&self, shown: Option<&Cookie>, from: ClientContext) -> Cookie {
        let account = self.account.borrow().clone().expect("somebody is here");
        let begun = self.guard.begin(&account, &presented(shown), from).await;
        Cookie::from(begun.expect("a store in memory").token.as_str())
    }
}

fn presented(cookie: Option<&Cookie>) -> Presented {
    cookie.map_or(Presented::Nothing, |text| Presented::One(text.as_bytes().to_vec()))
}

fn shared(rules: &Rules, clock: &Clock) -> Shared {
    let live = config::Live {
        max_connections: 1,
        max_per_session: 1,
        unchecked_for: Duration::from_secs(60),
    };
    Shared::new(SharedParts {
        keys: KeyRing::generate("now"),
        clock: clock.clone(),
        policy: policy(rules.lasting),
        max_per_user: 0,
        cookies: CookieNames::new(None),
        directory: None,
        metrics: Metrics::default(),
        live: live.into(),
        audit: None,
        hook: None,
        signals: Settings { thresholds: rules.thresholds, ..Settings::default() },
    })
}

fn policy(lasting: Lasting) -> SessionPolicy {
    let (idle, absolute) = match lasting {
        Lasting::AWorkday => (Duration::from_mins(30), Duration::from_hours(12)),
        Lasting::AMonth => (Duration::from_hours(7 * 24), Duration::from_hours(30 * 24)),
    };
    let policy = SessionPolicy::new(idle, absolute, ROTATE_AFTER, GRACE, OnReuse::Revoke);
    policy.expect("times in order")
}
