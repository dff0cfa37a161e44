//! The checker itself: for each invariant a history that breaks it, and one beside it that does not.

use crate::checker::{Invariant, Terms, check};
use crate::history::{
    Actor, Answer, Asks, Ends, Event, Fate, May, Request, Session, Token, Window,
};

const TERMS: Terms = Terms {
    epoch: 1_000_000,
    scale: 20,
    grace: 3_000,
    known_for: 1_000,
    prompt: 1_000,
    at_worst: 3_000,
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
    assert_eq!(broken(&begun(history)), [invariant]);
}

fn accepts(history: Vec<Event>) {
    assert_eq!(broken(&begun(history)), []);
}

/// After Ada and Bea logged in.
fn begun(history: Vec<Event>) -> Vec<Event> {
    let login = |session, user: &str| {
        let user = user.to_owned();
        Event::Began { session, user, gateway: 0, sent: 5, done: 10 }
    };
    [login(ADAS, "ada"), login(BEAS, "bea")].into_iter().chain(history).collect()
}

fn generation(generation: u32) -> Token {
    Token { session: ADAS, generation, secret: u64::from(generation) }
}

/// Ada's browser, at gateway 0; answered after 5 ms.
fn ask(id: u64, sent: u64, answer: Answer) -> Request {
    Request {
        id,
        by: Actor::Browser(0),
        gateway: 0,
        asks: Asks::Page,
        token: Some(generation(0)),
        sent,
        done: sent + 5,
        fate: Fate::Answered(answer),
    }
}

fn hello(id: u64) -> Answer {
    Answer { status: 200, echo: Some((id, "ada".to_owned())), ..Answer::default() }
}

fn refusal(reason: &str) -> Answer {
    Answer { status: 401, reason: reason.to_owned(), ..Answer::default() }
}

fn away() -> Answer {
    Answer { status: 503, retry_after: true, ..Answer::default() }
}

/// A request that passes, and its arrival at the upstream.
fn pass(request: Request) -> [Event; 2] {
    let (request_id, at) = (request.id, request.sent + 2);
    [Event::Asked(request), Event::Reached { request: request_id, user: "ada".to_owned(), at }]
}

fn passes(id: u64, sent: u64) -> [Event; 2] {
    pass(ask(id, sent, hello(id)))
}

fn refused(id: u64, sent: u64, reason: &str) -> Event {
    Event::Asked(ask(id, sent, refusal(reason)))
}

fn fault(began: u64, ended: u64, may: May) -> Event {
    Event::Fault(Window { fault: "a fault", gateway: None, began, ended, may, blind_until: None })
}

fn outage(began: u64, ended: u64) -> Event {
    fault(began, ended, May { refuse: true, ..May::default() })
}

fn revoked(acked: u64) -> Event {
    ends(Ends::One(ADAS), acked - 5, Some(acked))
}

/// Asked of gateway 0.
fn ends(what: Ends, sent: u64, acked: Option<u64>) -> Event {
    Event::Ended { what, gateway: 0, sent, acked, done: sent + 5 }
}

fn told(absolute_end: u64, at: u64) -> Event {
    Event::Seen { session: ADAS, user: "ada".to_owned(), absolute_end, at }
}

#[test]
fn a_quiet_history_is_accepted() {
    let mut history = vec![told(2_000_000, 50)];
    history.extend((1..50).flat_map(|id| passes(id, id * 100)));
    accepts(history);
}

#[test]
fn identity_flags_another_users_name_at_the_upstream() {
    let mut history = passes(1, 100);
    history[1] = Event::Reached { request: 1, user: "bea".to_owned(), at: 102 };
    flags(Invariant::Identity, history.to_vec());
}

#[test]
fn identity_flags_an_answer_to_somebody_else_or_to_another_request() {
    for echo in [(1, "bea"), (2, "ada")] {
        let echo = Some((echo.0, echo.1.to_owned()));
        let swapped = ask(1, 100, Answer { echo, ..hello(1) });
        flags(Invariant::Identity, vec![Event::Asked(swapped)]);
    }
}

#[test]
fn identity_flags_a_session_that_is_listed_under_another_name() {
    let listed =
        Event::Seen { session: BEAS, user: "ada".to_owned(), absolute_end: 2_000_000, at: 50 };
    flags(Invariant::Identity, vec![listed]);
}

#[test]
fn live_flags_a_pass_without_a_cookie() {
    let nobody = Request { token: None, ..ask(1, 100, Answer { echo: None, ..hello(1) }) };
    flags(Invariant::Live, pass(nobody).to_vec());
}

#[test]
fn live_flags_a_session_that_lives_again_after_a_gateway_said_that_it_ended() {
    let stolen = Event::Stolen { session: ADAS, at: 20 };
    let again = |reason: &str, sent| {
        let elsewhere = Request { gateway: 1, ..ask(2, sent, hello(2)) };
        [vec![stolen.clone(), refused(1, 100, reason)], pass(elsewhere).to_vec()].concat()
    };
    flags(Invariant::Live, again("theft", 3_200));
    accepts(again("theft", 3_000));
    // This one asks for a login and ends nothing.
    accepts(again("after-crash", 3_200));
}

#[test]
fn live_flags_a_gateway_that_forgets_what_it_said_itself() {
    let lost = May { lose_writes: true, ..May::default() };
    let again = |fault| {
        let told = [revoked(90), refused(1, 100, "revoked"), fault];
        [told.to_vec(), passes(2, 200).to_vec()].concat()
    };
    flags(Invariant::Live, again(fault(110, 150, lost)));
    accepts(again(fault(110, 150, May { silence: true, ..May::default() })));
}

#[test]
fn revoked_flags_a_pass_a_second_after_the_answer_when_all_is_well() {
    let late = |sent| [vec![revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(1_101));
    accepts(late(1_100));
}

#[test]
fn revoked_flags_a_pass_after_three_seconds_whatever_is_broken() {
    let late = |sent| [vec![outage(50, 3_500), revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(3_101));
    accepts(late(3_100));
}

#[test]
fn revoked_flags_another_gateways_trouble_as_the_excuse() {
    let trouble = || {
        let may = May { refuse: true, ..May::default() };
        let fault = "trouble elsewhere";
        let window =
            Window { fault, gateway: Some(1), began: 50, ended: 3_500, may, blind_until: None };
        vec![Event::Fault(window), revoked(100)]
    };
    flags(Invariant::Revoked, [trouble(), passes(1, 1_101).to_vec()].concat());
    let there = Request { gateway: 1, ..ask(1, 1_101, hello(1)) };
    accepts([trouble(), pass(there).to_vec()].concat());
}

#[test]
fn revoked_flags_an_end_that_is_not_written_again_a_second_after_a_failover() {
    let failover = fault(150, 6_000, May { lose_writes: true, refuse: true, ..May::default() });
    let late = |sent| [vec![failover.clone(), revoked(100)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Revoked, late(7_001));
    accepts(late(7_000));
}

#[test]
fn revoked_knows_whom_a_user_wide_and_a_general_end_mean() {
    let end = |what| ends(what, 95, Some(100));
    for what in [Ends::User("ada".to_owned()), Ends::Everybody] {
        flags(Invariant::Revoked, [vec![end(what)], passes(1, 1_500).to_vec()].concat());
    }
    for what in [Ends::User("bea".to_owned()), Ends::One(BEAS)] {
        accepts([vec![end(what)], passes(1, 1_500).to_vec()].concat());
    }
}

#[test]
fn revoked_does_not_bind_what_nobody_acknowledged() {
    let in_doubt = ends(Ends::One(ADAS), 95, None);
    let elsewhere = Request { gateway: 1, ..ask(2, 110, hello(2)) };
    accepts([vec![in_doubt, refused(1, 100, "revoked")], pass(elsewhere).to_vec()].concat());
}

fn heard(told: u64) -> Event {
    Event::Heard { session: ADAS, gateway: 0, user: "ada".to_owned(), told }
}

#[test]
fn revoked_flags_a_stream_that_goes_on() {
    flags(Invariant::Revoked, vec![revoked(100), heard(1_201)]);
    accepts(vec![revoked(100), heard(1_200)]);
    // Nobody can hear of it while Redis is away.
    accepts(vec![outage(50, 5_000), revoked(100), heard(8_100)]);
    flags(Invariant::Revoked, vec![outage(50, 5_000), revoked(100), heard(8_101)]);
}

#[test]
fn identity_flags_a_stream_for_another_user() {
    let told = Event::Heard { session: ADAS, gateway: 0, user: "bea".to_owned(), told: 50 };
    flags(Invariant::Identity, vec![told]);
}

#[test]
fn honest_flags_a_stream_cut_by_an_outage_or_by_nothing() {
    let cut = || Event::Cut { session: ADAS, gateway: 0, at: 100 };
    flags(Invariant::Honest, vec![told(2_000_000, 50), cut()]);
    flags(Invariant::Honest, vec![told(2_000_000, 50), outage(50, 150), cut()]);
    let restart = fault(50, 150, May { silence: true, ..May::default() });
    accepts(vec![told(2_000_000, 50), restart, cut()]);
    accepts(vec![told(2_000_000, 50), revoked(90), cut()]);
}

#[test]
fn absolute_flags_an_end_that_moves() {
    for moved in [1_900_000, 2_100_000] {
        flags(Invariant::Absolute, vec![told(2_000_000, 50), told(moved, 60)]);
    }
}

#[test]
fn absolute_flags_a_pass_after_the_end() {
    // 1,000,000 + 20 * 50,000 is the end; 100 ms are slack.
    let late = |sent| [vec![told(2_000_000, 50)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Absolute, late(50_101));
    accepts(late(50_099));
}

#[test]
fn successor_flags_two_successors_of_one_token() {
    let offered = |id, secret| {
        let offered = Some(Token { secret, ..generation(1) });
        Event::Asked(ask(id, 100 * id, Answer { offered, ..hello(id) }))
    };
    flags(Invariant::Successor, vec![offered(1, 7), offered(2, 8)]);
    accepts(vec![offered(1, 7), offered(2, 7)]);
    let lost = fault(150, 160, May { lose_writes: true, ..May::default() });
    accepts(vec![offered(1, 7), lost, offered(2, 8)]);
}

#[test]
fn successor_flags_a_token_of_another_session_or_a_jump() {
    for offered in [generation(2), Token { session: BEAS, ..generation(1) }] {
        let answer = Answer { offered: Some(offered), ..hello(1) };
        flags(Invariant::Successor, vec![Event::Asked(ask(1, 100, answer))]);
    }
}

#[test]
fn grace_flags_a_token_that_passes_long_after_its_successor_was_shown() {
    let shown = Request { token: Some(generation(1)), ..ask(1, 100, hello(1)) };
    let late = |sent| [pass(shown.clone()), passes(2, sent)].concat();
    flags(Invariant::Grace, late(3_300));
    accepts(late(3_200));
}

#[test]
fn honest_flags_every_refusal_without_a_reason() {
    for reason in ["theft", "after-crash", "not-renewing", "unknown", "idle", "future-generation"] {
        flags(Invariant::Honest, vec![refused(1, 100, reason)]);
        // A restart or an outage is none.
        let restart = fault(80, 90, May { silence: true, refuse: true, ..May::default() });
        flags(Invariant::Honest, vec![restart, refused(1, 100, reason)]);
    }
}

#[test]
fn honest_accepts_what_somebody_did_or_a_store_that_lost_its_memory() {
    let ended = ends(Ends::One(ADAS), 50, None);
    accepts(vec![ended, refused(1, 100, "revoked")]);
    accepts(vec![Event::Stolen { session: ADAS, at: 50 }, refused(1, 100, "theft")]);
    let flushed = fault(80, 90, May { lose_writes: true, ..May::default() });
    accepts(vec![flushed, refused(1, 100, "unknown")]);
}

#[test]
fn honest_flags_an_end_of_all_that_was_done_before_the_login_as_the_excuse() {
    let session = Session(3);
    let user = || "ada".to_owned();
    let login = |sent| Event::Began { session, user: user(), gateway: 0, sent, done: 80 };
    let token = Some(Token { session, ..generation(0) });
    let out = || Event::Asked(Request { token, ..ask(1, 100, refusal("revoked")) });
    for what in [Ends::User(user()), Ends::Everybody] {
        let end = || ends(what.clone(), 50, Some(60));
        accepts(vec![end(), login(55), out()]);
        flags(Invariant::Honest, vec![end(), login(61), out()]);
        accepts(vec![ends(what.clone(), 50, None), login(61), out()]);
    }
}

#[test]
fn honest_flags_a_revocation_or_a_theft_of_somebody_else_as_the_excuse() {
    let ended = ends(Ends::One(BEAS), 50, Some(60));
    flags(Invariant::Honest, vec![ended, refused(1, 100, "revoked")]);
    let later = Event::Stolen { session: ADAS, at: 500 };
    flags(Invariant::Honest, vec![refused(1, 100, "theft"), later]);
}

#[test]
fn honest_flags_an_absolute_end_that_comes_early() {
    let early = |sent| vec![told(2_000_000, 50), refused(1, sent, "absolute")];
    flags(Invariant::Honest, early(49_000));
    accepts(early(49_990));
}

#[test]
fn deadline_flags_slow_answers_no_answers_and_strange_answers() {
    let slow = Request { done: 3_101, ..ask(1, 100, hello(1)) };
    flags(Invariant::Deadline, vec![Event::Asked(slow)]);
    let none = Request { fate: Fate::NoAnswer("reset".to_owned()), ..ask(1, 100, hello(1)) };
    flags(Invariant::Deadline, vec![Event::Asked(none.clone())]);
    let restart = fault(50, 90, May { silence: true, ..May::default() });
    accepts(vec![restart, Event::Asked(none)]);
    let strange = ask(1, 100, Answer { status: 502, ..Answer::default() });
    flags(Invariant::Deadline, vec![Event::Asked(strange)]);
    let silent = ask(1, 100, Answer { retry_after: false, ..away() });
    flags(Invariant::Deadline, vec![outage(50, 150), Event::Asked(silent)]);
}

#[test]
fn recovery_flags_a_503_without_an_outage_two_seconds_after_it_and_at_another_gateway() {
    let gone = |sent| Event::Asked(ask(1, sent, away()));
    flags(Invariant::Recovery, vec![gone(100)]);
    flags(Invariant::Recovery, vec![outage(50, 150), gone(2_151)]);
    accepts(vec![outage(50, 150), gone(2_150)]);
    let Event::Fault(window) = outage(50, 150) else { return };
    let elsewhere = Event::Fault(Window { gateway: Some(1), ..window });
    flags(Invariant::Recovery, vec![elsewhere, gone(100)]);
}

#[test]
fn cookie_flags_an_answer_that_deletes_it() {
    let cleared = ask(1, 100, Answer { cleared: true, ..away() });
    flags(Invariant::Cookie, vec![outage(50, 150), Event::Asked(cleared)]);
}

#[test]
fn the_excuse_of_a_wrong_clock_is_for_those_who_came_to_it() {
    let there = |sent| Event::Asked(Request { gateway: 1, ..ask(1, sent, hello(1)) });
    let out = || refused(2, 5_000, "idle");
    accepts(vec![wrong_clock(100, 200), there(150), out()]);
    let elsewhere = Event::Asked(ask(1, 150, hello(1)));
    flags(Invariant::Honest, vec![wrong_clock(100, 200), elsewhere, out()]);
    flags(Invariant::Honest, vec![wrong_clock(100, 200), there(1_000), out()]);
    let page = Event::Came { session: ADAS, gateway: 1, sent: 150, done: 160 };
    accepts(vec![wrong_clock(100, 200), page, out()]);
    let stream = Event::Heard { session: ADAS, gateway: 1, user: "ada".to_owned(), told: 150 };
    accepts(vec![wrong_clock(100, 200), stream, out()]);
}

#[test]
fn the_excuse_of_a_wrong_clock_is_for_those_behind_its_line() {
    let session = Session(3);
    let user = || "ada".to_owned();
    let login = || Event::Began { session, user: user(), gateway: 0, sent: 300, done: 310 };
    let token = Some(Token { session, ..generation(0) });
    let out = || Event::Asked(Request { token, ..ask(1, 5_000, refusal("idle")) });
    let drawn = |gateway, user: &str| {
        let what = Ends::User(user.to_owned());
        Event::Ended { what, gateway, sent: 150, acked: Some(155), done: 155 }
    };
    accepts(vec![wrong_clock(100, 200), drawn(1, "ada"), login(), out()]);
    for drawn in [drawn(0, "ada"), drawn(1, "bea")] {
        flags(Invariant::Honest, vec![wrong_clock(100, 200), drawn, login(), out()]);
    }
}

#[test]
fn absolute_flags_a_pass_after_the_end_anywhere_but_at_a_wrong_clock() {
    let late = |gateway, sent| {
        let late = Request { gateway, ..ask(1, sent, hello(1)) };
        [vec![told(2_000_000, 50), wrong_clock(49_000, 55_000)], pass(late).to_vec()].concat()
    };
    accepts(late(1, 50_500));
    flags(Invariant::Absolute, late(0, 50_500));
    flags(Invariant::Absolute, late(1, 55_200));
}

/// Of gateway 1.
fn wrong_clock(began: u64, ended: u64) -> Event {
    let may = May { bend_time: true, ..May::default() };
    let fault = "a wrong clock";
    Event::Fault(Window { fault, gateway: Some(1), began, ended, may, blind_until: None })
}

/// Nothing comes from the store.
fn blind(began: u64, ended: u64) -> Event {
    let may = May { refuse: true, ..May::default() };
    let (fault, blind_until) = ("an outage", Some(ended));
    Event::Fault(Window { fault, gateway: None, began, ended, may, blind_until })
}

fn unasked(sent: u64) -> Request {
    let answer = Answer { unasked: true, ..hello(1) };
    Request { asks: Asks::Known, ..ask(1, sent, answer) }
}

#[test]
fn known_flags_whoever_passes_more_than_three_seconds_into_an_outage() {
    let late = |sent| [vec![blind(100, 9_000)], passes(1, sent).to_vec()].concat();
    flags(Invariant::Known, late(3_201));
    accepts(late(3_200));
    // It may have been asked when that was over.
    accepts(late(8_996));
}

#[test]
fn known_flags_who_is_served_for_longer_than_the_route_says() {
    let late = |sent| [vec![blind(100, 9_000)], pass(unasked(sent)).to_vec()].concat();
    flags(Invariant::Known, late(4_201));
    accepts(late(4_200));
}

#[test]
fn known_flags_an_unasked_pass_without_an_outage_on_another_route_or_of_a_write() {
    accepts([vec![blind(50, 900)], pass(unasked(100)).to_vec()].concat());
    flags(Invariant::Known, pass(unasked(100)).to_vec());
    for asks in [Asks::Page, Asks::Change] {
        let other = Request { asks, ..unasked(100) };
        flags(Invariant::Known, [vec![blind(50, 900)], pass(other).to_vec()].concat());
    }
}

#[test]
fn known_flags_a_renewal_that_nobody_can_have_written() {
    let answer = Answer { unasked: true, offered: Some(generation(1)), ..hello(1) };
    let renewed = Request { asks: Asks::Known, ..ask(1, 100, answer) };
    flags(Invariant::Known, [vec![blind(50, 900)], pass(renewed).to_vec()].concat());
}

#[test]
fn known_flags_a_session_that_somebody_failed_to_end_there() {
    let tried = |what, then| [vec![blind(50, 900), ends(what, 90, None)], pass(then).to_vec()];
    let ada = || Ends::User("ada".to_owned());
    for what in [Ends::One(ADAS), ada(), Ends::Everybody] {
        flags(Invariant::Known, tried(what, unasked(100)).concat());
    }
    accepts(tried(Ends::One(BEAS), unasked(100)).concat());
    accepts(tried(ada(), unasked(95)).concat());
    accepts(tried(ada(), unasked(896)).concat());
    accepts(tried(ada(), Request { gateway: 1, ..unasked(100) }).concat());
}

#[test]
fn revoked_waits_for_who_is_served_unasked_and_no_longer() {
    let late = |sent| [vec![blind(50, 9_000), revoked(100)], pass(unasked(sent)).to_vec()].concat();
    accepts(late(4_050));
    flags(Invariant::Revoked, late(4_101));
}
