//! Tests of the checker: for each invariant a history that violates it and a similar one that does not.

use crate::chaos::checker::{Bounds, Invariant, check};
use crate::chaos::history::{
    Actor, AllowedEffects, EndTarget, Event, FaultWindow, RecordedResponse, Request, RequestKind,
    RequestOutcome, Session, Token,
};

const TERMS: Bounds = Bounds {
    epoch: 1_000_000,
    scale: 20,
    grace: 3_000,
    serve_stale_for: 1_000,
    revocation_bound: 1_000,
    revocation_bound_in_fault: 3_000,
    deadline: 3_000,
    recovery: 2_000,
    slack: 100,
};

const ADAS: Session = Session(1);
const BEAS: Session = Session(2);

fn broken(history: &[Event]) -> Vec<Invariant> {
    let mut all: Vec<_> =
        check(history, &TERMS).violations.iter().map(|violation| violation.invariant).collect();
    all.dedup();
    all
}

fn flags(invariant: Invariant, history: Vec<Event>) {
    assert_eq!(broken(&after_logins(history)), [invariant]);
}

fn accepts(history: Vec<Event>) {
    assert_eq!(broken(&after_logins(history)), []);
}

/// A history in which Ada and Bea have logged in.
fn after_logins(history: Vec<Event>) -> Vec<Event> {
    let login = |session, user: &str| {
        let user = user.to_owned();
        Event::LoggedIn { session, user, gateway: 0, sent: 5, done: 10 }
    };
    [login(ADAS, "ada"), login(BEAS, "bea")].into_iter().chain(history).collect()
}

fn generation(generation: u32) -> Token {
    Token { session: ADAS, generation, secret: u64::from(generation) }
}

/// A request of Ada's browser at gateway 0 with a response after 5 ms.
fn request_to_0(id: u64, sent: u64, response: RecordedResponse) -> Request {
    Request {
        id,
        actor: Actor::Browser(0),
        gateway: 0,
        kind: RequestKind::Page,
        token: Some(generation(0)),
        sent,
        done: sent + 5,
        outcome: RequestOutcome::Response(response),
    }
}

fn hello(id: u64) -> RecordedResponse {
    RecordedResponse {
        status: 200,
        echo: Some((id, "ada".to_owned())),
        ..RecordedResponse::default()
    }
}

fn refusal(reason: &str) -> RecordedResponse {
    RecordedResponse { status: 401, reason: reason.to_owned(), ..RecordedResponse::default() }
}

fn away() -> RecordedResponse {
    RecordedResponse { status: 503, retry_after: true, ..RecordedResponse::default() }
}

/// An allowed request and its arrival at the upstream.
fn pass(request: Request) -> [Event; 2] {
    let (request_id, at) = (request.id, request.sent + 2);
    [
        Event::Requested(request),
        Event::ReachedUpstream { request: request_id, user: "ada".to_owned(), at },
    ]
}

fn passes(id: u64, sent: u64) -> [Event; 2] {
    pass(request_to_0(id, sent, hello(id)))
}

fn refused(id: u64, sent: u64, reason: &str) -> Event {
    Event::Requested(request_to_0(id, sent, refusal(reason)))
}

fn fault(began: u64, ended: u64, allowed: AllowedEffects) -> Event {
    Event::Fault(FaultWindow {
        fault: "a fault",
        gateway: None,
        began,
        ended,
        allowed,
        store_silent_until: None,
    })
}

fn outage(began: u64, ended: u64) -> Event {
    fault(began, ended, AllowedEffects { unavailable: true, ..AllowedEffects::default() })
}

fn revoked(acked: u64) -> Event {
    ends(EndTarget::Session(ADAS), acked - 5, Some(acked))
}

/// Sent to gateway 0.
fn ends(what: EndTarget, sent: u64, acked: Option<u64>) -> Event {
    Event::Ended { what, gateway: 0, sent, acked, done: sent + 5 }
}

fn listing(absolute_end: u64, at: u64) -> Event {
    Event::Listed { session: ADAS, user: "ada".to_owned(), absolute_end, at }
}

#[test]
fn an_uneventful_history_is_accepted() {
    let mut history = vec![listing(2_000_000, 50)];
    history.extend((1..50).flat_map(|id| passes(id, id * 100)));
    accepts(history);
}

#[test]
fn identity_flags_a_wrong_user_at_the_upstream() {
    let mut history = passes(1, 100);
    history[1] = Event::ReachedUpstream { request: 1, user: "bea".to_owned(), at: 102 };
    flags(Invariant::Identity, history.to_vec());
}

#[test]
fn identity_flags_a_response_to_another_request() {
    for echo in [(1, "bea"), (2, "ada")] {
        let echo = Some((echo.0, echo.1.to_owned()));
        let swapped = request_to_0(1, 100, RecordedResponse { echo, ..hello(1) });
        flags(Invariant::Identity, vec![Event::Requested(swapped)]);
    }
}

#[test]
fn identity_flags_a_session_listed_under_another_user() {
    let listed =
        Event::Listed { session: BEAS, user: "ada".to_owned(), absolute_end: 2_000_000, at: 50 };
    flags(Invariant::Identity, vec![listed]);
}

#[test]
fn live_flags_access_without_a_cookie() {
    let anonymous = Request {
        token: None,
        ..request_to_0(1, 100, RecordedResponse { echo: None, ..hello(1) })
    };
    flags(Invariant::Live, pass(anonymous).to_vec());
}

#[test]
fn live_flags_a_session_revived_after_its_end() {
    let stolen = Event::Stolen { session: ADAS, at: 20 };
    let again = |reason: &str, sent| {
        let at_other_gateway = Request { gateway: 1, ..request_to_0(2, sent, hello(2)) };
        [vec![stolen.clone(), refused(1, 100, reason)], pass(at_other_gateway).to_vec()].concat()
    };
    flags(Invariant::Live, again("theft", 3_200));
    accepts(again("theft", 3_000));
    // This reason requires a login and does not end the session.
    accepts(again("after-crash", 3_200));
}

#[test]
fn live_flags_a_gateway_that_loses_its_own_revocation() {
    let lost = AllowedEffects { data_loss: true, ..AllowedEffects::default() };
    let again = |fault| {
        let listing = [revoked(90), refused(1, 100, "revoked"), fault];
        [listing.to_vec(), passes(2, 200).to_vec()].concat()
    };
    flags(Invariant::Live, again(fault(110, 150, lost)));
    accepts(again(fault(
        110,
        150,
        AllowedEffects { gateway_down: true, ..AllowedEffects::default() },
    )));
}

#[test]
fn revoked_flags_access_a_second_after_a_healthy_end() {
    let late = |sent| [vec![revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(1_101));
    accepts(late(1_100));
}

#[test]
fn revoked_flags_access_after_three_seconds_in_any_case() {
    let late = |sent| [vec![outage(50, 3_500), revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(3_101));
    accepts(late(3_100));
}

#[test]
fn revoked_flags_a_fault_of_another_gateway_as_excuse() {
    let with_fault = || {
        let allowed = AllowedEffects { unavailable: true, ..AllowedEffects::default() };
        let fault = "fault at another gateway";
        let window = FaultWindow {
            fault,
            gateway: Some(1),
            began: 50,
            ended: 3_500,
            allowed,
            store_silent_until: None,
        };
        vec![Event::Fault(window), revoked(100)]
    };
    flags(Invariant::Revoked, [with_fault(), passes(1, 1_101).to_vec()].concat());
    let there = Request { gateway: 1, ..request_to_0(1, 1_101, hello(1)) };
    accepts([with_fault(), pass(there).to_vec()].concat());
}

#[test]
fn revoked_flags_an_end_not_restored_after_a_failover() {
    let failover = fault(
        150,
        6_000,
        AllowedEffects { data_loss: true, unavailable: true, ..AllowedEffects::default() },
    );
    let late = |sent| [vec![failover.clone(), revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(7_001));
    accepts(late(7_000));
}

#[test]
fn revoked_covers_user_wide_and_global_cutoffs() {
    let end = |what| ends(what, 95, Some(100));
    for what in [EndTarget::User("ada".to_owned()), EndTarget::All] {
        flags(Invariant::Revoked, [vec![end(what)], passes(1, 1_500).to_vec()].concat());
    }
    for what in [EndTarget::User("bea".to_owned()), EndTarget::Session(BEAS)] {
        accepts([vec![end(what)], passes(1, 1_500).to_vec()].concat());
    }
}

#[test]
fn revoked_ignores_unacknowledged_ends() {
    let in_doubt = ends(EndTarget::Session(ADAS), 95, None);
    let at_other_gateway = Request { gateway: 1, ..request_to_0(2, 110, hello(2)) };
    accepts([vec![in_doubt, refused(1, 100, "revoked")], pass(at_other_gateway).to_vec()].concat());
}

fn stream_line(written_at: u64) -> Event {
    Event::StreamLine { session: ADAS, gateway: 0, user: "ada".to_owned(), written_at }
}

#[test]
fn revoked_flags_a_stream_that_continues() {
    flags(Invariant::Revoked, vec![revoked(100), stream_line(1_201)]);
    accepts(vec![revoked(100), stream_line(1_200)]);
    // No gateway can receive the revocation while Redis is unavailable.
    accepts(vec![outage(50, 5_000), revoked(100), stream_line(8_100)]);
    flags(Invariant::Revoked, vec![outage(50, 5_000), revoked(100), stream_line(8_101)]);
}

#[test]
fn identity_flags_a_stream_for_another_user() {
    let listing =
        Event::StreamLine { session: ADAS, gateway: 0, user: "bea".to_owned(), written_at: 50 };
    flags(Invariant::Identity, vec![listing]);
}

#[test]
fn honest_flags_a_stream_cut_without_a_reason() {
    let cut = || Event::StreamCut { session: ADAS, gateway: 0, at: 100 };
    flags(Invariant::Honest, vec![listing(2_000_000, 50), cut()]);
    flags(Invariant::Honest, vec![listing(2_000_000, 50), outage(50, 150), cut()]);
    let restart =
        fault(50, 150, AllowedEffects { gateway_down: true, ..AllowedEffects::default() });
    accepts(vec![listing(2_000_000, 50), restart, cut()]);
    accepts(vec![listing(2_000_000, 50), revoked(90), cut()]);
}

#[test]
fn absolute_flags_a_moving_end() {
    for moved in [1_900_000, 2_100_000] {
        flags(Invariant::Absolute, vec![listing(2_000_000, 50), listing(moved, 60)]);
    }
}

#[test]
fn absolute_flags_access_after_the_end() {
    // The absolute end is 1,000,000 + 20 * 50,000; the slack is 100 ms.
    let late = |sent| [vec![listing(2_000_000, 50)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Absolute, late(50_101));
    accepts(late(50_099));
}

#[test]
fn successor_flags_two_successors_of_one_token() {
    let offered = |id, secret| {
        let new_token = Some(Token { secret, ..generation(1) });
        Event::Requested(request_to_0(id, 100 * id, RecordedResponse { new_token, ..hello(id) }))
    };
    flags(Invariant::Successor, vec![offered(1, 7), offered(2, 8)]);
    accepts(vec![offered(1, 7), offered(2, 7)]);
    let lost = fault(150, 160, AllowedEffects { data_loss: true, ..AllowedEffects::default() });
    accepts(vec![offered(1, 7), lost, offered(2, 8)]);
}

#[test]
fn successor_flags_a_foreign_token_or_skipped_generation() {
    for offered in [generation(2), Token { session: BEAS, ..generation(1) }] {
        let response = RecordedResponse { new_token: Some(offered), ..hello(1) };
        flags(Invariant::Successor, vec![Event::Requested(request_to_0(1, 100, response))]);
    }
}

#[test]
fn grace_flags_late_use_of_a_superseded_token() {
    let shown = Request { token: Some(generation(1)), ..request_to_0(1, 100, hello(1)) };
    let late = |sent| [pass(shown.clone()), passes(2, sent)].concat();
    flags(Invariant::Grace, late(3_300));
    accepts(late(3_200));
}

#[test]
fn honest_flags_every_unexplained_rejection() {
    for reason in
        ["theft", "after-crash", "not-rotating", "unknown-session", "idle", "generation-ahead"]
    {
        flags(Invariant::Honest, vec![refused(1, 100, reason)]);
        // A restart or an outage is no excuse.
        let restart = fault(
            80,
            90,
            AllowedEffects { gateway_down: true, unavailable: true, ..AllowedEffects::default() },
        );
        flags(Invariant::Honest, vec![restart, refused(1, 100, reason)]);
    }
}

#[test]
fn honest_accepts_explained_ends_and_lost_data() {
    let ended = ends(EndTarget::Session(ADAS), 50, None);
    accepts(vec![ended, refused(1, 100, "revoked")]);
    accepts(vec![Event::Stolen { session: ADAS, at: 50 }, refused(1, 100, "theft")]);
    let flushed = fault(80, 90, AllowedEffects { data_loss: true, ..AllowedEffects::default() });
    accepts(vec![flushed, refused(1, 100, "unknown-session")]);
}

#[test]
fn honest_flags_a_global_cutoff_before_the_login_as_excuse() {
    let session = Session(3);
    let user = || "ada".to_owned();
    let login = |sent| Event::LoggedIn { session, user: user(), gateway: 0, sent, done: 80 };
    let token = Some(Token { session, ..generation(0) });
    let out = || Event::Requested(Request { token, ..request_to_0(1, 100, refusal("revoked")) });
    for what in [EndTarget::User(user()), EndTarget::All] {
        let end = || ends(what.clone(), 50, Some(60));
        accepts(vec![end(), login(55), out()]);
        flags(Invariant::Honest, vec![end(), login(61), out()]);
        accepts(vec![ends(what.clone(), 50, None), login(61), out()]);
    }
}

#[test]
fn honest_flags_another_users_revocation_as_excuse() {
    let ended = ends(EndTarget::Session(BEAS), 50, Some(60));
    flags(Invariant::Honest, vec![ended, refused(1, 100, "revoked")]);
    let later = Event::Stolen { session: ADAS, at: 500 };
    flags(Invariant::Honest, vec![refused(1, 100, "theft"), later]);
}

#[test]
fn honest_flags_an_early_absolute_end() {
    let early = |sent| vec![listing(2_000_000, 50), refused(1, sent, "absolute")];
    flags(Invariant::Honest, early(49_000));
    accepts(early(49_990));
}

#[test]
fn deadline_flags_slow_missing_and_invalid_responses() {
    let slow = Request { done: 3_101, ..request_to_0(1, 100, hello(1)) };
    flags(Invariant::Deadline, vec![Event::Requested(slow)]);
    let none = Request {
        outcome: RequestOutcome::NoResponse("reset".to_owned()),
        ..request_to_0(1, 100, hello(1))
    };
    flags(Invariant::Deadline, vec![Event::Requested(none.clone())]);
    let restart = fault(50, 90, AllowedEffects { gateway_down: true, ..AllowedEffects::default() });
    accepts(vec![restart, Event::Requested(none)]);
    let strange =
        request_to_0(1, 100, RecordedResponse { status: 502, ..RecordedResponse::default() });
    flags(Invariant::Deadline, vec![Event::Requested(strange)]);
    let silent = request_to_0(1, 100, RecordedResponse { retry_after: false, ..away() });
    flags(Invariant::Deadline, vec![outage(50, 150), Event::Requested(silent)]);
}

#[test]
fn recovery_flags_a_503_without_an_outage() {
    let gone = |sent| Event::Requested(request_to_0(1, sent, away()));
    flags(Invariant::Recovery, vec![gone(100)]);
    flags(Invariant::Recovery, vec![outage(50, 150), gone(2_151)]);
    accepts(vec![outage(50, 150), gone(2_150)]);
    let Event::Fault(window) = outage(50, 150) else { return };
    let at_other_gateway = Event::Fault(FaultWindow { gateway: Some(1), ..window });
    flags(Invariant::Recovery, vec![at_other_gateway, gone(100)]);
}

#[test]
fn cookie_flags_a_response_that_deletes_it() {
    let cleared = request_to_0(1, 100, RecordedResponse { deletes_cookie: true, ..away() });
    flags(Invariant::Cookie, vec![outage(50, 150), Event::Requested(cleared)]);
}

#[test]
fn wrong_clock_excuses_only_its_own_clients() {
    let there = |sent| Event::Requested(Request { gateway: 1, ..request_to_0(1, sent, hello(1)) });
    let out = || refused(2, 5_000, "idle");
    accepts(vec![wrong_clock(100, 200), there(150), out()]);
    let at_other_gateway = Event::Requested(request_to_0(1, 150, hello(1)));
    flags(Invariant::Honest, vec![wrong_clock(100, 200), at_other_gateway, out()]);
    flags(Invariant::Honest, vec![wrong_clock(100, 200), there(1_000), out()]);
    let page = Event::OwnPage { session: ADAS, gateway: 1, sent: 150, done: 160 };
    accepts(vec![wrong_clock(100, 200), page, out()]);
    let stream =
        Event::StreamLine { session: ADAS, gateway: 1, user: "ada".to_owned(), written_at: 150 };
    accepts(vec![wrong_clock(100, 200), stream, out()]);
}

#[test]
fn wrong_clock_excuses_only_sessions_before_its_cutoff() {
    let session = Session(3);
    let user = || "ada".to_owned();
    let login = || Event::LoggedIn { session, user: user(), gateway: 0, sent: 300, done: 310 };
    let token = Some(Token { session, ..generation(0) });
    let out = || Event::Requested(Request { token, ..request_to_0(1, 5_000, refusal("idle")) });
    let drawn = |gateway, user: &str| {
        let what = EndTarget::User(user.to_owned());
        Event::Ended { what, gateway, sent: 150, acked: Some(155), done: 155 }
    };
    accepts(vec![wrong_clock(100, 200), drawn(1, "ada"), login(), out()]);
    for drawn in [drawn(0, "ada"), drawn(1, "bea")] {
        flags(Invariant::Honest, vec![wrong_clock(100, 200), drawn, login(), out()]);
    }
}

#[test]
fn absolute_allows_late_access_only_at_a_wrong_clock() {
    let late = |gateway, sent| {
        let late = Request { gateway, ..request_to_0(1, sent, hello(1)) };
        [vec![listing(2_000_000, 50), wrong_clock(49_000, 55_000)], pass(late).to_vec()].concat()
    };
    accepts(late(1, 50_500));
    flags(Invariant::Absolute, late(0, 50_500));
    flags(Invariant::Absolute, late(1, 55_200));
}

/// A fault of gateway 1.
fn wrong_clock(began: u64, ended: u64) -> Event {
    let allowed = AllowedEffects { wrong_clock: true, ..AllowedEffects::default() };
    let fault = "a wrong clock";
    Event::Fault(FaultWindow {
        fault,
        gateway: Some(1),
        began,
        ended,
        allowed,
        store_silent_until: None,
    })
}

/// A fault during which the store sends nothing.
fn affected(began: u64, ended: u64) -> Event {
    let allowed = AllowedEffects { unavailable: true, ..AllowedEffects::default() };
    let (fault, store_silent_until) = ("an outage", Some(ended));
    Event::Fault(FaultWindow { fault, gateway: None, began, ended, allowed, store_silent_until })
}

fn stale_read(sent: u64) -> Request {
    let response = RecordedResponse { is_stale: true, ..hello(1) };
    Request { kind: RequestKind::StaleReadable, ..request_to_0(1, sent, response) }
}

#[test]
fn known_flags_access_three_seconds_into_an_outage() {
    let late = |sent| [vec![affected(100, 9_000)], passes(1, sent).to_vec()].concat();
    flags(Invariant::StaleRead, late(3_201));
    accepts(late(3_200));
    // The fault can have ended before the store was queried.
    accepts(late(8_996));
}

#[test]
fn known_flags_stale_reads_beyond_the_routes_limit() {
    let late = |sent| [vec![affected(100, 9_000)], pass(stale_read(sent)).to_vec()].concat();
    flags(Invariant::StaleRead, late(4_201));
    accepts(late(4_200));
}

#[test]
fn known_flags_stale_reads_without_an_outage_or_for_writes() {
    accepts([vec![affected(50, 900)], pass(stale_read(100)).to_vec()].concat());
    flags(Invariant::StaleRead, pass(stale_read(100)).to_vec());
    for kind in [RequestKind::Page, RequestKind::Write] {
        let other = Request { kind, ..stale_read(100) };
        flags(Invariant::StaleRead, [vec![affected(50, 900)], pass(other).to_vec()].concat());
    }
}

#[test]
fn known_flags_a_rotation_during_an_outage() {
    let response = RecordedResponse { is_stale: true, new_token: Some(generation(1)), ..hello(1) };
    let rotated = Request { kind: RequestKind::StaleReadable, ..request_to_0(1, 100, response) };
    flags(Invariant::StaleRead, [vec![affected(50, 900)], pass(rotated).to_vec()].concat());
}

#[test]
fn known_flags_a_session_with_a_failed_revocation() {
    let tried = |what, then| [vec![affected(50, 900), ends(what, 90, None)], pass(then).to_vec()];
    let ada = || EndTarget::User("ada".to_owned());
    for what in [EndTarget::Session(ADAS), ada(), EndTarget::All] {
        flags(Invariant::StaleRead, tried(what, stale_read(100)).concat());
    }
    accepts(tried(EndTarget::Session(BEAS), stale_read(100)).concat());
    accepts(tried(ada(), stale_read(95)).concat());
    accepts(tried(ada(), stale_read(896)).concat());
    accepts(tried(ada(), Request { gateway: 1, ..stale_read(100) }).concat());
}

#[test]
fn revoked_allows_bounded_stale_reads() {
    let late =
        |sent| [vec![affected(50, 9_000), revoked(100)], pass(stale_read(sent)).to_vec()].concat();
    accepts(late(4_050));
    flags(Invariant::Revoked, late(4_101));
}
