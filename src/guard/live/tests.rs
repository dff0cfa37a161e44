use std::net::IpAddr;
use std::task::{Context, Poll};

use super::*;
use crate::session::{ClientContext, Identity, OnReuse, SessionId, Token};

const HOUR: Duration = Duration::from_hours(1);

fn live(total: usize, per_session: usize) -> Live {
    let second = Duration::from_secs(1);
    let policy = SessionPolicy::new(HOUR, HOUR * 2, second * 600, second * 30, OnReuse::Revoke);
    let limits = LiveLimits { total, per_session, unchecked_for: HOUR };
    Live::new(limits, &policy.expect("a policy"), Metrics::default())
}

fn sight(live: &Live, id: u8) -> Sight {
    let key = SessionKey { tag: UserTag([1; 8]), id: SessionId([id; 16]) };
    let token = Token::new(1, key, 0, [7; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    let (begun, end) = (UnixMillis(1_000), UnixMillis(1_000).plus(HOUR * 2));
    let record = Arc::new(Record::begin(Identity::default(), &token, begun, end, from));
    Sight {
        key,
        record,
        touched: begun,
        mark: live.mark(),
        checked: Instant::now(),
        unasked: false,
    }
}

fn is_cut(watched: &mut Watched) -> Option<Cut> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match watched.poll_on(&mut cx) {
        Poll::Ready(Err(why)) => Some(why),
        Poll::Ready(Ok(())) | Poll::Pending => None,
    }
}

fn open(live: &Live, sight: &Sight) -> Watched {
    live.watch(sight, Terms::default()).expect("a place")
}

#[test]
fn an_end_between_the_check_and_the_registration_cuts_at_once() {
    let live = live(10, 10);
    let (seen, other) = (sight(&live, 1), sight(&live, 2));
    live.ended(&seen.key);
    assert_eq!(is_cut(&mut open(&live, &seen)), Some(Cut::SessionEnded));
    assert_eq!(is_cut(&mut open(&live, &other)), None, "another session");
    let line = NotBefore { at: UnixMillis(1_000), except: Some(other.key.id) };
    live.ended_by_line(Some(UserTag([1; 8])), line);
    let third = Sight { mark: other.mark, ..sight(&live, 3) };
    assert_eq!(is_cut(&mut open(&live, &third)), Some(Cut::SessionEnded), "a line of its user");
    assert_eq!(is_cut(&mut open(&live, &other)), None, "the line excepts it");
}

#[test]
fn an_end_before_the_check_is_the_checks_own_matter() {
    let live = live(10, 10);
    let key = sight(&live, 1).key;
    live.ended(&key);
    assert_eq!(is_cut(&mut open(&live, &sight(&live, 1))), None);
}

#[test]
fn who_missed_more_ends_than_are_kept_is_looked_at_again() {
    let live = live(10, 10);
    let seen = sight(&live, 1);
    for _ in 0..=ends::KEPT {
        live.ended(&sight(&live, 2).key);
    }
    let _watched = open(&live, &seen);
    let long_ago = seen.checked.checked_sub(HOUR).expect("a time");
    assert_eq!(live.wanting(UnixMillis(2_000), long_ago), [seen.key]);
    live.vouched(&seen.key, &seen.record, UnixMillis(0), Instant::now());
    assert_eq!(live.wanting(UnixMillis(2_000), long_ago), []);
}

#[test]
fn every_end_cuts_what_is_registered_and_nothing_else() {
    let live = live(10, 10);
    let (first, second) = (sight(&live, 1), sight(&live, 2));
    let (mut a, mut b, mut other) =
        (open(&live, &first), open(&live, &first), open(&live, &second));
    live.ended(&first.key);
    assert_eq!(is_cut(&mut a).and(is_cut(&mut b)), Some(Cut::SessionEnded));
    assert_eq!(is_cut(&mut other), None);
    live.ended_by_line(None, NotBefore { at: UnixMillis(999), except: None });
    assert_eq!(is_cut(&mut other), None, "it began after the line");
    live.ended_by_line(None, NotBefore { at: UnixMillis(1_000), except: None });
    assert_eq!(is_cut(&mut other), Some(Cut::SessionEnded));
}

#[test]
fn places_are_counted_in_all_and_of_a_session_and_given_back() {
    let live = live(3, 2);
    let (first, second) = (sight(&live, 1), sight(&live, 2));
    let (a, _b) = (open(&live, &first), open(&live, &first));
    assert_eq!(live.watch(&first, Terms::default()).err(), Some(Full::Session));
    let _c = open(&live, &second);
    assert_eq!(live.watch(&second, Terms::default()).err(), Some(Full::Total));
    assert_eq!(live.open(), 3);
    drop(a);
    assert_eq!(live.open(), 2);
    open(&live, &second);
}

#[test]
fn time_cuts_without_a_store_and_a_route_may_be_stricter() {
    let live = live(10, 10);
    let seen = sight(&live, 1);
    let long_ago = seen.checked.checked_sub(HOUR).expect("a time");
    let strict = RoutePolicy { absolute: Some(HOUR / 2), ..RoutePolicy::default() };
    let terms = Terms { policy: Some(&strict), max_age: None };
    let mut strictly = live.watch(&seen, terms).expect("a place");
    let mut usually = open(&live, &seen);
    let half = seen.record.created.plus(HOUR / 2);
    assert_eq!(live.wanting(half, long_ago), [seen.key], "due by its route");
    live.cut_by_route(&seen.key, half);
    assert_eq!(is_cut(&mut strictly), Some(Cut::SessionEnded));
    assert_eq!(is_cut(&mut usually), None);
    drop(strictly);
    assert_eq!(live.wanting(half, long_ago), []);
    assert_eq!(live.wanting(seen.record.created.plus(HOUR), long_ago), [seen.key], "idle");
    live.vouched(&seen.key, &seen.record, half, Instant::now());
    assert_eq!(live.wanting(seen.record.created.plus(HOUR), long_ago), [], "used elsewhere");
    live.wanting(seen.record.absolute_end, long_ago);
    assert_eq!(is_cut(&mut usually), Some(Cut::SessionEnded), "the absolute end needs no store");
}

#[test]
fn age_and_a_silent_store_cut_for_their_own_reasons() {
    let live = live(10, 10);
    let seen = sight(&live, 1);
    let terms = Terms { policy: None, max_age: Some(Duration::ZERO) };
    let mut old = live.watch(&seen, terms).expect("a place");
    live.wanting(UnixMillis(2_000), seen.checked);
    assert_eq!(is_cut(&mut old), Some(Cut::TooOld));
    let unseen =
        Sight { checked: seen.checked.checked_sub(HOUR).expect("a time"), ..sight(&live, 2) };
    let mut unchecked = open(&live, &unseen);
    live.wanting(UnixMillis(2_000), seen.checked);
    assert_eq!(is_cut(&mut unchecked), Some(Cut::Unchecked));
}

fn passes(watched: &mut Watched) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    matches!(watched.poll_on(&mut cx), Poll::Ready(Ok(())))
}

/// Long enough ago to be no beat of a process that runs.
fn stopped(live: &Live) -> Instant {
    let start = live.inner.pulse.start();
    start + pulse::STILL * 2
}

/// One session's look says nothing of another's, and a round that found the store silent nothing of any.
#[tokio::test]
async fn a_process_that_stood_still_passes_on_nothing_of_a_session_before_a_look_at_it() {
    let live = live(10, 10);
    let (seen, other) = (sight(&live, 1), sight(&live, 2));
    let (mut one, mut two) = (open(&live, &seen), open(&live, &other));
    assert!(passes(&mut one), "it has just begun");
    let resumed = stopped(&live);
    live.beat(resumed, UnixMillis(9));
    assert!(!passes(&mut one), "nobody looked");
    live.vouched(&seen.key, &seen.record, UnixMillis(0), resumed - pulse::STILL);
    assert!(!passes(&mut one), "what was asked before is no answer");
    live.vouched(&seen.key, &seen.record, UnixMillis(0), resumed);
    assert!(passes(&mut one));
    assert!(!passes(&mut two), "nobody looked at this one");
    live.beat(resumed + pulse::STILL / 2, UnixMillis(9));
    assert!(passes(&mut one), "a beat is no stop");
    live.cut(&other.key, Cut::Unchecked);
    assert_eq!(is_cut(&mut two), Some(Cut::Unchecked), "who waits is cut like others");
    let mut new = open(&live, &Sight { checked: resumed, ..sight(&live, 3) });
    assert!(passes(&mut new));
}

#[test]
fn a_process_without_a_beat_passes_on_nothing() {
    let start = Instant::now();
    let (pulse, looked) = (pulse::Pulse::new(start), pulse::Looked::default());
    pulse.looked(&looked, start);
    assert!(!pulse.has_missed(&looked, start + pulse::STILL));
    assert!(pulse.has_missed(&looked, start + pulse::STILL * 2), "not noticed by a beat yet");
}

#[test]
fn what_lay_unread_is_as_old_as_the_stop_for_two_seconds_after_it() {
    let start = Instant::now();
    let pulse = pulse::Pulse::new(start);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(pulse.unread_since(at(9)), None, "it has yet to begin");
    pulse.beat(at(1), UnixMillis(1_000));
    assert_eq!(pulse.unread_since(at(2)), None);
    assert_eq!(pulse.unread_since(at(61)), Some(UnixMillis(1_000)), "not noticed by a beat yet");
    pulse.beat(at(61), UnixMillis(61_000));
    assert_eq!(pulse.unread_since(at(62)), Some(UnixMillis(1_000)));
    pulse.beat(at(62), UnixMillis(62_000));
    assert_eq!(pulse.unread_since(at(62)), Some(UnixMillis(1_000)), "a beat is no end of it");
    pulse.beat(at(63), UnixMillis(63_000));
    assert_eq!(pulse.unread_since(at(63)), None);
}

/// A flood of changes must not hide one among them.
#[test]
fn who_is_doubted_goes_before_all_who_were_not_asked_about_for_long() {
    let live = live(300, 1);
    let all: Vec<Sight> = (0..200).map(|id| sight(&live, id)).collect();
    let long_ago = Instant::now().checked_sub(HOUR / 2).expect("a time");
    let old = |seen: &Sight| Sight { checked: long_ago, ..seen.clone() };
    let _open: Vec<Watched> = all.iter().map(|seen| open(&live, &old(seen))).collect();
    let late = Sight { checked: Instant::now(), ..sight(&live, 250) };
    let _late = open(&live, &late);
    live.doubt(&late.key);
    let wanting = live.wanting(UnixMillis(2_000), long_ago + HOUR / 4);
    assert_eq!((wanting.len(), wanting[0]), (201, late.key));
    assert_eq!(live.next_doubted(), Some(late.key));
    assert_eq!(live.next_doubted(), None, "once");
    live.doubt(&late.key);
    assert_eq!(live.next_doubted(), None, "its answer is not here yet: the next round has it");
}

/// A process may stand still between the two, and the answer be as old as that.
#[test]
fn an_answer_to_what_was_asked_before_is_no_look_and_settles_no_later_doubt() {
    let live = live(10, 10);
    let seen = sight(&live, 1);
    let _open = open(&live, &seen);
    let asked = Instant::now();
    let later = asked + pulse::STILL * 2;
    let wants = |before| live.wanting(UnixMillis(2_000), before).contains(&seen.key);
    live.vouched(&seen.key, &seen.record, UnixMillis(0), asked);
    assert!(wants(later), "vouched for by an answer that is as old as the question");
    live.doubt(&seen.key);
    live.vouched(&seen.key, &seen.record, UnixMillis(0), asked);
    assert!(wants(asked), "what was heard after the question is still to be looked into");
    live.vouched(&seen.key, &seen.record, UnixMillis(0), later);
    assert!(!wants(later));
}
