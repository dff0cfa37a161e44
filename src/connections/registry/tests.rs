use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::connections::end_log::CAPACITY;
use crate::connections::stall_detector::{CheckedAt, STALL_THRESHOLD};
use crate::session::{
    ClientContext, Identity, OnReuse, RoutePolicy, SessionFacts, SessionId, Token,
};

const HOUR: Duration = Duration::from_hours(1);

fn live(total: usize, per_session: usize) -> ConnectionRegistry {
    let second = Duration::from_secs(1);
    let policy = SessionPolicy::new(HOUR, HOUR * 2, second * 600, second * 30, OnReuse::Revoke);
    let limits = TrackingLimits { total, per_session, unchecked_for: HOUR };
    ConnectionRegistry::new(limits, &policy.expect("a policy"), Metrics::default())
}

fn snapshot(live: &ConnectionRegistry, id: u8) -> SessionSnapshot {
    let key = SessionKey { tag: UserTag([1; 8]), id: SessionId([id; 16]) };
    let token = Token::new(1, key, 0, [7; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    let (begun, end) = (UnixMillis(1_000), UnixMillis(1_000).plus(HOUR * 2));
    let record = Arc::new(Record::new(Identity::default(), &token, begun, end, from));
    SessionSnapshot {
        key,
        record,
        touched: begun,
        end_seq: live.end_seq(),
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

fn open(live: &ConnectionRegistry, snapshot: &SessionSnapshot) -> ConnectionGuard {
    live.register(snapshot, ConnectionPolicy::default()).expect("a slot")
}

#[test]
fn an_end_between_check_and_registration_closes_at_once() {
    let live = live(10, 10);
    let (seen, other) = (snapshot(&live, 1), snapshot(&live, 2));
    live.session_ended(&seen.key);
    assert_eq!(close_reason(&mut open(&live, &seen)), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut open(&live, &other)), None, "another session");
    let line = RevocationCutoff { at: UnixMillis(1_000), except: Some(other.key.id) };
    live.revoked(Some(UserTag([1; 8])), line);
    let third = SessionSnapshot { end_seq: other.end_seq, ..snapshot(&live, 3) };
    assert_eq!(
        close_reason(&mut open(&live, &third)),
        Some(CloseReason::SessionEnded),
        "a line of its user"
    );
    assert_eq!(close_reason(&mut open(&live, &other)), None, "the line excepts it");
}

#[test]
fn an_end_before_the_check_does_not_close_a_registration() {
    let live = live(10, 10);
    let key = snapshot(&live, 1).key;
    live.session_ended(&key);
    assert_eq!(close_reason(&mut open(&live, &snapshot(&live, 1))), None);
}

#[test]
fn a_registration_that_missed_too_many_ends_is_checked() {
    let live = live(10, 10);
    let seen = snapshot(&live, 1);
    for _ in 0..=CAPACITY {
        live.session_ended(&snapshot(&live, 2).key);
    }
    let _watched = open(&live, &seen);
    let long_ago = seen.verified_at.checked_sub(HOUR).expect("a time");
    assert_eq!(live.due_for_check(UnixMillis(2_000), long_ago), [seen.key]);
    live.confirm(&seen.key, &seen.record, UnixMillis(0), Instant::now());
    assert_eq!(live.due_for_check(UnixMillis(2_000), long_ago), []);
}

#[test]
fn each_end_closes_only_the_connections_it_affects() {
    let live = live(10, 10);
    let (first, second) = (snapshot(&live, 1), snapshot(&live, 2));
    let (mut a, mut b, mut other) =
        (open(&live, &first), open(&live, &first), open(&live, &second));
    live.session_ended(&first.key);
    assert_eq!(close_reason(&mut a).and(close_reason(&mut b)), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut other), None);
    live.revoked(None, RevocationCutoff { at: UnixMillis(999), except: None });
    assert_eq!(close_reason(&mut other), None, "it began after the line");
    live.revoked(None, RevocationCutoff { at: UnixMillis(1_000), except: None });
    assert_eq!(close_reason(&mut other), Some(CloseReason::SessionEnded));
}

#[test]
fn slots_are_limited_in_total_and_per_session_and_released() {
    let live = live(3, 2);
    let (first, second) = (snapshot(&live, 1), snapshot(&live, 2));
    let (a, _b) = (open(&live, &first), open(&live, &first));
    assert_eq!(
        live.register(&first, ConnectionPolicy::default()).err(),
        Some(LimitExceeded::Session)
    );
    let _c = open(&live, &second);
    assert_eq!(
        live.register(&second, ConnectionPolicy::default()).err(),
        Some(LimitExceeded::Total)
    );
    assert_eq!(live.open(), 3);
    drop(a);
    assert_eq!(live.open(), 2);
    open(&live, &second);
}

#[test]
fn expiry_closes_without_the_store_and_routes_may_be_stricter() {
    let live = live(10, 10);
    let seen = snapshot(&live, 1);
    let long_ago = seen.verified_at.checked_sub(HOUR).expect("a time");
    let strict = RoutePolicy { absolute: Some(HOUR / 2), ..RoutePolicy::default() };
    let terms = ConnectionPolicy { policy: Some(&strict), max_age: None };
    let mut strictly = live.register(&seen, terms).expect("a slot");
    let mut usually = open(&live, &seen);
    let half = seen.record.created.plus(HOUR / 2);
    assert_eq!(live.due_for_check(half, long_ago), [seen.key], "due by its route");
    live.close_by_route(&seen.key, half);
    assert_eq!(close_reason(&mut strictly), Some(CloseReason::SessionEnded));
    assert_eq!(close_reason(&mut usually), None);
    drop(strictly);
    assert_eq!(live.due_for_check(half, long_ago), []);
    assert_eq!(live.due_for_check(seen.record.created.plus(HOUR), long_ago), [seen.key], "idle");
    live.confirm(&seen.key, &seen.record, half, Instant::now());
    assert_eq!(live.due_for_check(seen.record.created.plus(HOUR), long_ago), [], "used elsewhere");
    live.due_for_check(seen.record.absolute_end, long_ago);
    assert_eq!(
        close_reason(&mut usually),
        Some(CloseReason::SessionEnded),
        "the absolute end needs no store"
    );
}

#[test]
fn a_stricter_absolute_timeout_closes_sessions_of_an_older_policy() {
    let live = live(10, 10);
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
            let live = live(10, 10);
            let seen = snapshot(&live, 1);
            let record = Arc::new(Record { current_since, ..Record::clone(&seen.record) });
            let seen = SessionSnapshot { record, touched, ..seen };
            let facts = SessionFacts { touched, ..SessionFacts::default() };
            let deadlines =
                SessionDeadlines::new(seen.key.id, &seen.record, &facts, &live.inner.policy);
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
    let live = live(10, 10);
    let seen = snapshot(&live, 1);
    let terms = ConnectionPolicy { policy: None, max_age: Some(Duration::ZERO) };
    let mut old = live.register(&seen, terms).expect("a slot");
    live.due_for_check(UnixMillis(2_000), seen.verified_at);
    assert_eq!(close_reason(&mut old), Some(CloseReason::MaxAge));
    let unseen = SessionSnapshot {
        verified_at: seen.verified_at.checked_sub(HOUR).expect("a time"),
        ..snapshot(&live, 2)
    };
    let mut unchecked = open(&live, &unseen);
    live.due_for_check(UnixMillis(2_000), seen.verified_at);
    assert_eq!(close_reason(&mut unchecked), Some(CloseReason::Unchecked));
}

fn passes(guard: &mut ConnectionGuard) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    matches!(guard.poll_allowed(&mut cx), Poll::Ready(Ok(())))
}

/// A time that implies a stall.
fn stopped(live: &ConnectionRegistry) -> Instant {
    let start = live.inner.stall_detector.start();
    start + STALL_THRESHOLD * 2
}

/// A check counts for its own session only, and a failed check for none.
#[tokio::test]
async fn after_a_stall_each_session_is_checked_before_it_forwards() {
    let live = live(10, 10);
    let (seen, other) = (snapshot(&live, 1), snapshot(&live, 2));
    let (mut one, mut two) = (open(&live, &seen), open(&live, &other));
    assert!(passes(&mut one), "it has just begun");
    let resumed = stopped(&live);
    live.heartbeat(resumed, UnixMillis(9));
    assert!(!passes(&mut one), "nobody checked_at");
    live.confirm(&seen.key, &seen.record, UnixMillis(0), resumed - STALL_THRESHOLD);
    assert!(!passes(&mut one), "what was requested_at before is no answer");
    live.confirm(&seen.key, &seen.record, UnixMillis(0), resumed);
    assert!(passes(&mut one));
    assert!(!passes(&mut two), "nobody checked_at at this one");
    live.heartbeat(resumed + STALL_THRESHOLD / 2, UnixMillis(9));
    assert!(passes(&mut one), "a last_heartbeat is no stop");
    live.close_session(&other.key, CloseReason::Unchecked);
    assert_eq!(
        close_reason(&mut two),
        Some(CloseReason::Unchecked),
        "who waits is cut like others"
    );
    let mut new = open(&live, &SessionSnapshot { verified_at: resumed, ..snapshot(&live, 3) });
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
        "not noticed by a last_heartbeat yet"
    );
}

#[test]
fn stalled_since_is_reported_for_two_seconds_after_a_stall() {
    let start = Instant::now();
    let stall_detector = StallDetector::new(start);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(stall_detector.stalled_since(at(9)), None, "it has yet to begin");
    stall_detector.heartbeat(at(1), UnixMillis(1_000));
    assert_eq!(stall_detector.stalled_since(at(2)), None);
    assert_eq!(
        stall_detector.stalled_since(at(61)),
        Some(UnixMillis(1_000)),
        "not noticed by a last_heartbeat yet"
    );
    stall_detector.heartbeat(at(61), UnixMillis(61_000));
    assert_eq!(stall_detector.stalled_since(at(62)), Some(UnixMillis(1_000)));
    stall_detector.heartbeat(at(62), UnixMillis(62_000));
    assert_eq!(
        stall_detector.stalled_since(at(62)),
        Some(UnixMillis(1_000)),
        "a last_heartbeat is no end of it"
    );
    stall_detector.heartbeat(at(63), UnixMillis(63_000));
    assert_eq!(stall_detector.stalled_since(at(63)), None);
}

/// A flood of changes must not hide one of them.
#[test]
fn stale_sessions_are_checked_before_all_others() {
    let live = live(300, 1);
    let all: Vec<SessionSnapshot> = (0..200).map(|id| snapshot(&live, id)).collect();
    let long_ago = Instant::now().checked_sub(HOUR / 2).expect("a time");
    let old = |seen: &SessionSnapshot| SessionSnapshot { verified_at: long_ago, ..seen.clone() };
    let _open: Vec<ConnectionGuard> = all.iter().map(|seen| open(&live, &old(seen))).collect();
    let late = SessionSnapshot { verified_at: Instant::now(), ..snapshot(&live, 250) };
    let _late = open(&live, &late);
    live.mark_stale(&late.key);
    let due = live.due_for_check(UnixMillis(2_000), long_ago + HOUR / 4);
    assert_eq!((due.len(), due[0]), (201, late.key));
    assert_eq!(live.next_stale(), Some(late.key));
    assert_eq!(live.next_stale(), None, "once");
    live.mark_stale(&late.key);
    assert_eq!(live.next_stale(), None, "its answer is not here yet: the next round has it");
}

/// A process may stall between the command and the response.
#[test]
fn a_response_confirms_only_as_of_its_request() {
    let live = live(10, 10);
    let seen = snapshot(&live, 1);
    let _open = open(&live, &seen);
    let requested_at = Instant::now();
    let later = requested_at + STALL_THRESHOLD * 2;
    let wants = |before| live.due_for_check(UnixMillis(2_000), before).contains(&seen.key);
    live.confirm(&seen.key, &seen.record, UnixMillis(0), requested_at);
    assert!(wants(later), "vouched for by an answer that is as old as the question");
    live.mark_stale(&seen.key);
    live.confirm(&seen.key, &seen.record, UnixMillis(0), requested_at);
    assert!(
        wants(requested_at),
        "what was heard after the question is still to be checked_at into"
    );
    live.confirm(&seen.key, &seen.record, UnixMillis(0), later);
    assert!(!wants(later));
}
