use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::connections::TrackingLimits;
use crate::connections::end_log::CAPACITY;
use crate::connections::stall_detector::{CheckedAt, STALL_THRESHOLD};
use crate::session::{
    ClientContext, Identity, OnReuse, RoutePolicy, SessionFacts, SessionId, SessionPolicy, Token,
};

const HOUR: Duration = Duration::from_hours(1);

fn registry(total: usize, per_session: usize) -> ConnectionRegistry {
    let second = Duration::from_secs(1);
    let policy = SessionPolicy::new(HOUR, HOUR * 2, second * 600, second * 30, OnReuse::Revoke);
    let limits = TrackingLimits { total, per_session, unchecked_for: HOUR };
    let (policy, routes) = (policy.expect("a policy"), Arc::default());
    let settings = TrackingSettings { limits, policy, routes };
    ConnectionRegistry::new(settings, Metrics::default())
}

fn snapshot(registry: &ConnectionRegistry, id: u8) -> SessionSnapshot {
    let key = SessionKey { tag: UserTag([1; 8]), id: SessionId([id; 16]) };
    let token = Token::new(1, key, 0, [7; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    let (created, end) = (UnixMillis(1_000), UnixMillis(1_000).plus(HOUR * 2));
    let record = Arc::new(Record::new(Identity::default(), &token, created, end, from));
    SessionSnapshot {
        key,
        record,
        touched: created,
        end_seq: registry.end_seq(),
        verified_at: Instant::now(),
        stale: false,
    }
}

fn close_reason(guard: &mut ConnectionGuard) -> Option<CloseReason> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match guard.poll_allowed(&mut cx) {
        Poll::Ready(Err(reason)) => Some(reason),
        Poll::Ready(Ok(())) | Poll::Pending => None,
    }
}

fn open(registry: &ConnectionRegistry, snapshot: &SessionSnapshot) -> ConnectionGuard {
    registry.register(snapshot, ConnectionPolicy::default()).expect("a slot")
}

#[test]
fn an_end_between_check_and_registration_closes_at_once() {
    let registry = registry(10, 10);
    let (session, other) = (snapshot(&registry, 1), snapshot(&registry, 2));
    registry.session_ended(&session.key);
    assert_eq!(close_reason(&mut open(&registry, &session)), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut open(&registry, &other)), None, "another session");
    let line = RevocationCutoff { at: UnixMillis(1_000), except: Some(other.key.id) };
    registry.revoked(Some(UserTag([1; 8])), line);
    let third = SessionSnapshot { end_seq: other.end_seq, ..snapshot(&registry, 3) };
    assert_eq!(
        close_reason(&mut open(&registry, &third)),
        Some(CloseReason::SessionEnded),
        "a cutoff of its user"
    );
    assert_eq!(close_reason(&mut open(&registry, &other)), None, "exempt from the cutoff");
}

#[test]
fn an_end_before_the_check_does_not_close_a_registration() {
    let registry = registry(10, 10);
    let key = snapshot(&registry, 1).key;
    registry.session_ended(&key);
    assert_eq!(close_reason(&mut open(&registry, &snapshot(&registry, 1))), None);
}

#[test]
fn a_registration_that_missed_too_many_ends_is_checked() {
    let registry = registry(10, 10);
    let session = snapshot(&registry, 1);
    for _ in 0..=CAPACITY {
        registry.session_ended(&snapshot(&registry, 2).key);
    }
    let _guard = open(&registry, &session);
    let long_ago = session.verified_at.checked_sub(HOUR).expect("a time");
    assert_eq!(registry.due_for_check(UnixMillis(2_000), long_ago), [session.key]);
    registry.confirm(&session.key, &session.record, UnixMillis(0), Instant::now());
    assert_eq!(registry.due_for_check(UnixMillis(2_000), long_ago), []);
}

#[test]
fn each_end_closes_only_the_connections_it_affects() {
    let registry = registry(10, 10);
    let (first, second) = (snapshot(&registry, 1), snapshot(&registry, 2));
    let (mut a, mut b, mut other) =
        (open(&registry, &first), open(&registry, &first), open(&registry, &second));
    registry.session_ended(&first.key);
    assert_eq!(close_reason(&mut a).and(close_reason(&mut b)), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut other), None);
    registry.revoked(None, RevocationCutoff { at: UnixMillis(999), except: None });
    assert_eq!(close_reason(&mut other), None, "created after the cutoff");
    registry.revoked(None, RevocationCutoff { at: UnixMillis(1_000), except: None });
    assert_eq!(close_reason(&mut other), Some(CloseReason::SessionEnded));
}

#[test]
fn slots_are_limited_in_total_and_per_session_and_released() {
    let registry = registry(3, 2);
    let (first, second) = (snapshot(&registry, 1), snapshot(&registry, 2));
    let (a, _b) = (open(&registry, &first), open(&registry, &first));
    assert_eq!(
        registry.register(&first, ConnectionPolicy::default()).err(),
        Some(LimitExceeded::Session)
    );
    let _c = open(&registry, &second);
    assert_eq!(
        registry.register(&second, ConnectionPolicy::default()).err(),
        Some(LimitExceeded::Total)
    );
    assert_eq!(registry.open(), 3);
    drop(a);
    assert_eq!(registry.open(), 2);
    open(&registry, &second);
}

#[test]
fn expiry_closes_without_the_store_and_routes_may_be_stricter() {
    let registry = registry(10, 10);
    let session = snapshot(&registry, 1);
    let long_ago = session.verified_at.checked_sub(HOUR).expect("a time");
    let strict = RoutePolicy { absolute: Some(HOUR / 2), ..RoutePolicy::default() };
    let terms = ConnectionPolicy { policy: Some(&strict), ..ConnectionPolicy::default() };
    let mut strictly = registry.register(&session, terms).expect("a slot");
    let mut usually = open(&registry, &session);
    let half = session.record.created.plus(HOUR / 2);
    assert_eq!(registry.due_for_check(half, long_ago), [session.key], "due by its route");
    registry.close_by_route(&session.key, half);
    assert_eq!(close_reason(&mut strictly), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut usually), None);
    drop(strictly);
    assert_eq!(registry.due_for_check(half, long_ago), []);
    assert_eq!(
        registry.due_for_check(session.record.created.plus(HOUR), long_ago),
        [session.key],
        "idle"
    );
    registry.confirm(&session.key, &session.record, half, Instant::now());
    assert_eq!(
        registry.due_for_check(session.record.created.plus(HOUR), long_ago),
        [],
        "used elsewhere"
    );
    registry.due_for_check(session.record.absolute_end, long_ago);
    assert_eq!(
        close_reason(&mut usually),
        Some(CloseReason::SessionEnded),
        "the absolute end needs no store"
    );
}

#[test]
fn a_stricter_absolute_timeout_closes_sessions_of_an_older_policy() {
    let live = registry(10, 10);
    let seen = snapshot(&live, 1);
    // The login was under a policy of three hours; the current one allows two.
    let record =
        Record { absolute_end: seen.record.created.plus(HOUR * 3), ..Record::clone(&seen.record) };
    let end = record.created.plus(HOUR * 2);
    let touched = UnixMillis(end.0 - 1);
    let seen = SessionSnapshot { record: Arc::new(record), touched, ..seen };
    let mut connection = open(&live, &seen);
    live.due_for_check(touched, Instant::now());
    assert_eq!(close_reason(&mut connection), None);
    live.due_for_check(end, Instant::now());
    assert_eq!(close_reason(&mut connection), Some(CloseReason::SessionEnded));
}

/// The registry closes on its own only at an end that no later activity can prevent.
#[test]
fn the_registry_agrees_with_the_deadlines() {
    let times =
        [1_000, 2_000, 1_000 + 3_599_999, 1_000 + 3_600_000, 1_000 + 7_199_999, 1_000 + 7_200_000];
    let times = times.map(UnixMillis);
    let points = times.into_iter().flat_map(|touched| times.map(|since| (touched, since)));
    for (touched, current_since) in points {
        for now in times {
            let live = registry(10, 10);
            let seen = snapshot(&live, 1);
            let record = Arc::new(Record { current_since, ..Record::clone(&seen.record) });
            let seen = SessionSnapshot { record, touched, ..seen };
            let facts = SessionFacts { touched, ..SessionFacts::default() };
            let deadlines = SessionDeadlines::new(
                seen.key.id,
                &seen.record,
                &facts,
                &live.inner.settings.load().policy,
            );
            let mut connection = open(&live, &seen);
            let long_ago = seen.verified_at.checked_sub(HOUR / 2).expect("a time");
            let due = live.due_for_check(now, long_ago);
            let expiry = deadlines.expiry(now);
            assert_eq!(!due.is_empty(), expiry.is_some(), "{touched:?} {current_since:?} {now:?}");
            let closed = close_reason(&mut connection) == Some(CloseReason::SessionEnded);
            assert_eq!(
                closed,
                expiry == Some(Expiry::Absolute),
                "{touched:?} {current_since:?} {now:?}"
            );
        }
    }
}

#[test]
fn age_and_store_outage_have_their_own_close_reasons() {
    let registry = registry(10, 10);
    let session = snapshot(&registry, 1);
    let terms = ConnectionPolicy { max_age: Some(Duration::ZERO), ..ConnectionPolicy::default() };
    let mut old = registry.register(&session, terms).expect("a slot");
    registry.due_for_check(UnixMillis(2_000), session.verified_at);
    assert_eq!(close_reason(&mut old), Some(CloseReason::MaxAge));
    let unchecked_session = SessionSnapshot {
        verified_at: session.verified_at.checked_sub(HOUR).expect("a time"),
        ..snapshot(&registry, 2)
    };
    let mut unchecked = open(&registry, &unchecked_session);
    registry.due_for_check(UnixMillis(2_000), session.verified_at);
    assert_eq!(close_reason(&mut unchecked), Some(CloseReason::Unchecked));
}

fn passes(guard: &mut ConnectionGuard) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    matches!(guard.poll_allowed(&mut cx), Poll::Ready(Ok(())))
}

/// A time that implies a stall.
fn stopped(registry: &ConnectionRegistry) -> Instant {
    let start = registry.inner.stall_detector.start();
    start + STALL_THRESHOLD * 2
}

/// A check counts for its own session only, and a failed check for none.
#[tokio::test]
async fn after_a_stall_each_session_is_checked_before_it_forwards() {
    let registry = registry(10, 10);
    let (session, other) = (snapshot(&registry, 1), snapshot(&registry, 2));
    let (mut one, mut two) = (open(&registry, &session), open(&registry, &other));
    assert!(passes(&mut one), "just registered");
    let resumed = stopped(&registry);
    registry.heartbeat(resumed, UnixMillis(9));
    assert!(!passes(&mut one), "unchecked");
    registry.confirm(&session.key, &session.record, UnixMillis(0), resumed - STALL_THRESHOLD);
    assert!(!passes(&mut one), "requested before the stall");
    registry.confirm(&session.key, &session.record, UnixMillis(0), resumed);
    assert!(passes(&mut one));
    assert!(!passes(&mut two), "this one is unchecked");
    registry.heartbeat(resumed + STALL_THRESHOLD / 2, UnixMillis(9));
    assert!(passes(&mut one), "a heartbeat is no stall");
    registry.close_session(&other.key, CloseReason::Unchecked);
    assert_eq!(
        close_reason(&mut two),
        Some(CloseReason::Unchecked),
        "a waiting connection closes too"
    );
    let mut new =
        open(&registry, &SessionSnapshot { verified_at: resumed, ..snapshot(&registry, 3) });
    assert!(passes(&mut new));
}

#[test]
fn a_process_without_heartbeats_forwards_nothing() {
    let start = Instant::now();
    let (stall_detector, checked_at) = (StallDetector::new(start), CheckedAt::default());
    stall_detector.mark_checked(&checked_at, start);
    assert!(!stall_detector.needs_check(&checked_at, start + STALL_THRESHOLD));
    assert!(
        stall_detector.needs_check(&checked_at, start + STALL_THRESHOLD * 2),
        "no heartbeat since"
    );
}

#[test]
fn stalled_since_is_reported_for_two_seconds_after_a_stall() {
    let start = Instant::now();
    let stall_detector = StallDetector::new(start);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(stall_detector.stalled_since(at(9)), None, "no heartbeat so far");
    stall_detector.heartbeat(at(1), UnixMillis(1_000));
    assert_eq!(stall_detector.stalled_since(at(2)), None);
    assert_eq!(stall_detector.stalled_since(at(61)), Some(UnixMillis(1_000)), "no heartbeat since");
    stall_detector.heartbeat(at(61), UnixMillis(61_000));
    assert_eq!(stall_detector.stalled_since(at(62)), Some(UnixMillis(1_000)));
    stall_detector.heartbeat(at(62), UnixMillis(62_000));
    assert_eq!(
        stall_detector.stalled_since(at(62)),
        Some(UnixMillis(1_000)),
        "heartbeats continue"
    );
    stall_detector.heartbeat(at(63), UnixMillis(63_000));
    assert_eq!(stall_detector.stalled_since(at(63)), None);
}

/// A flood of changes must not hide one of them.
#[test]
fn stale_sessions_are_checked_before_all_others() {
    let registry = registry(300, 1);
    let all: Vec<SessionSnapshot> = (0..200).map(|id| snapshot(&registry, id)).collect();
    let long_ago = Instant::now().checked_sub(HOUR / 2).expect("a time");
    let old =
        |session: &SessionSnapshot| SessionSnapshot { verified_at: long_ago, ..session.clone() };
    let _open: Vec<ConnectionGuard> =
        all.iter().map(|session| open(&registry, &old(session))).collect();
    let late = SessionSnapshot { verified_at: Instant::now(), ..snapshot(&registry, 250) };
    let _late = open(&registry, &late);
    registry.mark_stale(&late.key);
    let due = registry.due_for_check(UnixMillis(2_000), long_ago + HOUR / 4);
    assert_eq!((due.len(), due[0]), (201, late.key));
    assert_eq!(registry.next_stale(), Some(late.key));
    assert_eq!(registry.next_stale(), None, "once");
    registry.mark_stale(&late.key);
    assert_eq!(registry.next_stale(), None, "checked already: the next sweep has it");
}

/// A process may stall between the command and the response.
#[test]
fn a_response_confirms_only_as_of_its_request() {
    let registry = registry(10, 10);
    let session = snapshot(&registry, 1);
    let _open = open(&registry, &session);
    let requested_at = Instant::now();
    let later = requested_at + STALL_THRESHOLD * 2;
    let wants = |before| registry.due_for_check(UnixMillis(2_000), before).contains(&session.key);
    registry.confirm(&session.key, &session.record, UnixMillis(0), requested_at);
    assert!(wants(later), "confirmed only as of the request");
    registry.mark_stale(&session.key);
    registry.confirm(&session.key, &session.record, UnixMillis(0), requested_at);
    assert!(wants(requested_at), "a later change is still unchecked");
    registry.confirm(&session.key, &session.record, UnixMillis(0), later);
    assert!(!wants(later));
}
