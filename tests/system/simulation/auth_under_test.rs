//! The real authentication with a memory store and a manual clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doorward::auth::{Auth, AuthRequest};
use doorward::clock::{Clock, UnixMillis};
use doorward::connections::{TrackingLimits, TrackingSettings};
use doorward::identity::{Account, Cost, Credential};
use doorward::message::CookieLookup;
use doorward::risk::{RiskSettings, Thresholds};
use doorward::secret::KeyRing;
use doorward::session::{
    ClientContext, Identity, OnReuse, RotationTiming, RoutePolicy, SessionPolicy, SignalsMode,
};
use doorward::sessions::{SessionSettings, Sessions, Shared, SharedParts};
use doorward::store::Store;

use super::location_log::{LocationChangeEntry, LocationChangeLog};
use super::networks;

/// The text of a session token.
pub type Cookie = Rc<str>;

/// Session timeouts of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLifetime {
    /// Idle timeout 30 minutes, absolute timeout 12 hours: the defaults.
    Workday,
    /// Idle timeout a week, absolute timeout 30 days: "remember me".
    Month,
}

/// The settings of a simulated gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: SignalsMode,
    pub thresholds: Thresholds,
    pub lifetime: SessionLifetime,
}

/// The response to a request.
pub struct GuardResponse {
    /// The deny reason as in the logs; `None` if the request was allowed.
    pub denied: Option<&'static str>,
    pub token: Option<Cookie>,
    /// The location change that was logged, if any.
    pub location_change: Option<LocationChangeEntry>,
}

pub const ROTATE_AFTER: Duration = Duration::from_mins(10);
pub const GRACE: Duration = Duration::from_secs(30);

/// Unix time of the first midnight, in milliseconds.
const START: u64 = 1_800_000_000_000;

pub struct AuthUnderTest {
    auth: Auth,
    clock: Clock,
    route: RoutePolicy,
    moves: LocationChangeLog,
    password: Credential,
    midnight: u64,
    account: RefCell<Option<Account>>,
}

impl AuthUnderTest {
    pub fn new(rules: &Policy, moves: LocationChangeLog) -> AuthUnderTest {
        let clock = Clock::manual(UnixMillis(START));
        let settings = settings(rules);
        let store = Store::memory(clock.clone());
        let shared = shared(&store, &settings.policy, &clock);
        shared.geoip.store(Arc::new(networks::geoip()));
        let auth = Auth::new(Sessions::new(store, Arc::new(shared), Arc::new(settings)));
        let route = RoutePolicy { signals: rules.mode, ..RoutePolicy::default() };
        let cheap = Cost::Argon2id { m: 256, t: 1, p: 1 };
        let password = Credential::hash("correct horse battery staple", cheap).expect("a hash");
        let (midnight, account) = (START, RefCell::default());
        AuthUnderTest { auth, clock, route, moves, password, midnight, account }
    }

    /// Starts the days of another user, after those of all previous users.
    pub fn start_person(&mut self, number: u64, days: u64) {
        self.midnight += (days + 10) * 24 * 60 * 60 * 1000;
        let identity = Identity { user: format!("person {number}"), ..Identity::default() };
        self.account = RefCell::new(Some(Account::new(identity, self.password.clone(), false)));
        self.auth.sessions().store().sweep();
    }

    /// Sets the clock to this many milliseconds after the user's first midnight.
    pub fn set_time(&self, time: u64) {
        match &self.clock {
            Clock::Manual(now) => now.store(self.midnight + time, Ordering::SeqCst),
            Clock::System => {}
        }
    }

    pub async fn request(
        &self,
        cookie: Option<&Cookie>,
        from: &ClientContext,
        timing: RotationTiming,
    ) -> GuardResponse {
        let presented = presented(cookie);
        let authenticated = self
            .auth
            .authenticate(&AuthRequest {
                cookie: &presented,
                context: from,
                policy: &self.route,
                timing,
                is_activity: true,
                serve_stale_for: None,
            })
            .await;
        let (denied, token) = match authenticated {
            Ok(session) => (None, session.token),
            Err(reason) => (Some(reason.as_str()), None),
        };
        GuardResponse {
            denied,
            token: token.map(|token| Cookie::from(token.text.as_str())),
            location_change: self.moves.take(),
        }
    }

    pub async fn log_in(&self, shown: Option<&Cookie>, from: ClientContext) -> Cookie {
        let account = self.account.borrow().clone().expect("a user is logged in");
        let new_session =
            self.auth.sessions().create_session(&(&account).into(), &presented(shown), from).await;
        Cookie::from(new_session.expect("a store in memory").token.as_str())
    }
}

fn presented(cookie: Option<&Cookie>) -> CookieLookup {
    cookie.map_or(CookieLookup::Missing, |text| CookieLookup::One(text.as_bytes().to_vec()))
}

fn settings(rules: &Policy) -> SessionSettings {
    let risk = RiskSettings { thresholds: rules.thresholds, ..RiskSettings::default() };
    SessionSettings { risk, ..SessionSettings::new(policy(rules.lifetime)) }
}

fn shared(store: &Store, policy: &SessionPolicy, clock: &Clock) -> Shared {
    let limits = TrackingLimits { total: 1, per_session: 1, unchecked_for: Duration::from_mins(1) };
    let tracking = TrackingSettings { limits, policy: policy.clone(), routes: Arc::default() };
    Shared::new(SharedParts::new(store, KeyRing::generate("now"), clock.clone(), tracking))
}

fn policy(lifetime: SessionLifetime) -> SessionPolicy {
    let (idle, absolute) = match lifetime {
        SessionLifetime::Workday => (Duration::from_mins(30), Duration::from_hours(12)),
        SessionLifetime::Month => (Duration::from_hours(7 * 24), Duration::from_hours(30 * 24)),
    };
    let policy = SessionPolicy::new(idle, absolute, ROTATE_AFTER, GRACE, OnReuse::Revoke);
    policy.expect("times in order")
}
