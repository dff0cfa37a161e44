use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::sleep;

use super::*;
use crate::connections::{
    ConnectionGuard, ConnectionPolicy, SessionSnapshot, TrackingLimits, TrackingSettings,
};
use crate::session::{
    ClientContext, Identity, OnReuse, Record, SessionId, SessionPolicy, Token, UserTag,
};
use crate::telemetry::Metrics;

const HOUR: Duration = Duration::from_hours(1);
const NOW: UnixMillis = UnixMillis(2_000);

fn key(number: usize) -> SessionKey {
    let mut id = [0; 16];
    // The first byte selects the shard.
    id[..8].copy_from_slice(&number.to_le_bytes());
    SessionKey { tag: UserTag([1; 8]), id: SessionId(id) }
}

fn snapshot(registry: &ConnectionRegistry, number: usize) -> SessionSnapshot {
    let key = key(number);
    let token = Token::new(1, key, 0, [7; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    let created = UnixMillis(1_000);
    let record = Record::new(Identity::default(), &token, created, created.plus(HOUR * 2), from);
    SessionSnapshot {
        key,
        record: Arc::new(record),
        touched: created,
        end_seq: registry.end_seq(),
        verified_at: Instant::now() - CHECK_INTERVAL * 2,
        stale: false,
    }
}

/// Creates a registry with this many sessions, all due for a check.
fn crowded_registry(sessions: usize) -> (ConnectionRegistry, Vec<ConnectionGuard>) {
    let minute = Duration::from_mins(1);
    let policy = SessionPolicy::new(HOUR, HOUR * 2, minute * 10, minute, OnReuse::Revoke);
    let limits = TrackingLimits { total: sessions, per_session: 1, unchecked_for: HOUR };
    let (policy, routes) = (policy.expect("a policy"), Arc::default());
    let settings = TrackingSettings { limits, policy, routes };
    let registry = ConnectionRegistry::new(settings, Metrics::default());
    let open = |number| {
        registry
            .register(&snapshot(&registry, number), ConnectionPolicy::default())
            .expect("a place")
    };
    let watched = (0..sessions).map(open).collect();
    (registry, watched)
}

#[tokio::test]
async fn a_stale_session_is_checked_before_5000_due_ones() {
    let (registry, _guards) = crowded_registry(5_000);
    let order = RefCell::new(Vec::new());
    let doubted = Cell::new(None);
    let check = async |requested_at: SessionKey| {
        let number = order.borrow().len();
        order.borrow_mut().push(requested_at);
        sleep(Duration::from_millis(2)).await;
        // In the middle of a sweep, a session near its end.
        if number == 1_000 {
            registry.confirm(&requested_at, &snapshot(&registry, 0).record, NOW, Instant::now());
            registry.mark_stale(&requested_at);
            doubted.set(Some(requested_at));
        }
        requested_at
    };
    let done = async {
        let started = Instant::now();
        while order.borrow().len() < 2_000 {
            assert!(started.elapsed() < Duration::from_secs(60), "no session is checked");
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = run_checks(&registry, || NOW, || {}, check) => {}
        () = done => {}
    }
    let (order, doubted) = (order.into_inner(), doubted.get().expect("one was"));
    let again = order.iter().skip(1_001).position(|requested_at| *requested_at == doubted);
    assert!(again.is_some_and(|after| after <= MAX_CONCURRENT_CHECKS), "after {again:?} others");
}

/// If the sweep cancelled it, the circuit breaker would not count the failure.
#[tokio::test]
async fn a_hanging_check_continues_without_delaying_others() {
    let (registry, _guards) = crowded_registry(MAX_CONCURRENT_CHECKS * 2);
    let (hung, others) = (Cell::new(0_usize), Cell::new(0_usize));
    let hangs = |requested_at: &SessionKey| requested_at.id.0[0] < 8;
    let answered = Cell::new(0_usize);
    let check = async |requested_at: SessionKey| {
        if hangs(&requested_at) {
            hung.set(hung.get() + 1);
            sleep(Duration::from_millis(1_500)).await;
            answered.set(answered.get() + 1);
        } else {
            others.set(others.get() + 1);
            sleep(Duration::from_millis(2)).await;
        }
        requested_at
    };
    let done = async {
        let started = Instant::now();
        while answered.get() < 8 {
            assert!(started.elapsed() < Duration::from_secs(10), "{} of 8", answered.get());
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = run_checks(&registry, || NOW, || {}, check) => {}
        () = done => {}
    }
    assert!(others.get() >= 2 * (MAX_CONCURRENT_CHECKS * 2 - 8), "{}", others.get());
    assert!(hung.get() <= 16, "{} checks of 8 sessions", hung.get());
}
