//! The invariants of the session core, each as a property over arbitrary records, requests and
//! sequences; and the attack table: one test for each row, that tries the attack.

use std::net::IpAddr;
use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::secret::{KeyRing, random_bytes, sha256};
use doorward::session::record::{Offer, RecordError, Superseded};
use doorward::session::{
    Case, Change, ClientContext, Demand, EndReason, Identity, NotBefore, OnReuse, Outcome, Record,
    Refusal, RoutePolicy, SessionId, SessionKey, SessionPolicy, Standing, Successor, Timing, Token,
    TokenError, UserTag, Verdict, decide, renew_after_action,
};
use proptest::prelude::*;

// ---------------------------------------------------------------------------------------------
// S1–S9

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s1_nothing_extends_the_absolute_timeout(wild in wild(), longer in 0_u64..100_000_000) {
        let stage = wild.stage();
        let verdict = stage.decide();
        let end = stage.record.absolute_end.min(stage.record.created.plus(stage.policy.absolute()));
        if stage.now >= end {
            prop_assert!(refused(&verdict).is_some());
        }
        if let Change::Write(next) = &verdict.change {
            prop_assert_eq!(next.absolute_end, stage.record.absolute_end);
            prop_assert_eq!(next.created, stage.record.created);
            prop_assert_eq!(next.authenticated, stage.record.authenticated);
            let mut later = wild.stage();
            later.record = (**next).clone();
            later.now = end.plus(ms(longer));
            prop_assert!(refused(&later.decide()).is_some());
        }
    }

    #[test]
    fn s1_a_busy_client_is_refused_at_the_absolute_timeout(steps in steps(), restful in any::<bool>()) {
        let mut server = Server::begin(policy(600, 3_000, 120, 20, OnReuse::Revoke));
        let mut jar = server.first.clone();
        for step in steps {
            server.now = server.now.plus(step.pause);
            let timing = if restful { step.timing } else { Timing::Prompt };
            let verdict = server.ask(&jar, Ask { timing, ..Ask::home() });
            if server.now >= server.begun.plus(Duration::from_secs(3_000)) {
                prop_assert!(refused(&verdict).is_some());
            }
            keep(&mut jar, &verdict);
        }
        server.now = server.begun.plus(Duration::from_secs(3_000));
        prop_assert!(refused(&server.ask(&jar, Ask::home())).is_some());
        prop_assert!(server.ended.is_some());
    }

    #[test]
    fn s2_one_successor_per_token(mut wild in wild(), salts in prop::collection::vec(any::<[u8; 16]>(), 1..6)) {
        wild.shown = Shown::Current;
        let mut stage = wild.stage();
        let mut seen: Option<Successor> = None;
        for salt in salts {
            stage.salt = salt;
            stage.context = if salt[0] & 1 == 0 { home() } else { elsewhere() };
            let verdict = stage.decide();
            if let Outcome::Admit(Some(offered)) = &verdict.outcome {
                let first = seen.get_or_insert_with(|| offered.clone());
                prop_assert_eq!(&*first, offered);
            }
            if let Change::Write(next) = verdict.change {
                stage.record = *next;
            }
        }
    }

    #[test]
    fn s2_every_offered_successor_can_be_confirmed(mut wild in wild(), later in 0_u64..5_000) {
        wild.shown = Shown::Current;
        let mut stage = wild.stage();
        let verdict = stage.decide();
        let Outcome::Admit(Some(offered)) = &verdict.outcome else { return Ok(()) };
        if let Change::Write(next) = &verdict.change {
            stage.record = (**next).clone();
        }
        let before = stage.record.clone();
        stage.token = stage.token_of(offered);
        stage.now = stage.now.plus(ms(later));
        let confirmed = stage.decide();
        let over = [Refusal::Idle, Refusal::Absolute, Refusal::Reauthenticate];
        prop_assert!(refused(&confirmed).is_none_or(|why| over.contains(&why)), "{:?}", confirmed);
        if let Change::Write(next) = confirmed.change {
            prop_assert_eq!(next.generation, before.generation + 1);
            prop_assert_eq!(next.current, sha256(&offered.secret));
            prop_assert_eq!(next.previous.as_ref().map(|p| p.hash), Some(before.current));
            prop_assert_eq!(&next.offer, &None);
        }
    }

    #[test]
    fn signals_that_ask_for_a_renewal_make_the_token_due_where_the_route_renews_nothing(mut wild in wild()) {
        wild.shown = Shown::Current;
        let mut stage = wild.stage();
        stage.timing = Timing::Never;
        let salt = || stage.salt;
        let verdict = decide(&Case { demand: Some(Demand::Renew), ..stage.case(&salt) });
        if refused(&verdict).is_some() {
            return Ok(());
        }
        prop_assert_eq!(verdict.outcome, Outcome::Admit(None));
        let Change::Write(next) = verdict.change else { panic!("the place is noted") };
        prop_assert!(next.due);
    }

    #[test]
    fn s7_an_answer_renews_the_token_of_its_request_or_makes_its_successor_due_and_ends_nothing(wild in wild()) {
        let mut stage = wild.stage();
        stage.timing = Timing::Now;
        let renewal = renew_after_action(&stage.case(&|| stage.salt));
        let over = refused(&Stage { route: RoutePolicy::default(), ..wild.stage() }.decide())
            .is_some_and(|why| [Refusal::Idle, Refusal::Absolute, Refusal::Revoked].contains(&why));
        let next = renewal.written.as_deref().unwrap_or(&stage.record);
        prop_assert_eq!(next.due, stage.record.due || !(over || stage.record.frozen));
        // All else is as it was, but for the offer.
        let before = Record { due: next.due, offer: next.offer.clone(), ..stage.record.clone() };
        prop_assert_eq!(next, &before);
        if let Some(offered) = &renewal.next {
            prop_assert_eq!(stage.token.generation, stage.record.generation);
            prop_assert_eq!(next.offer.as_ref().map(|offer| offer.hash), Some(sha256(&offered.secret)));
            let unchanged = stage.record.offer.is_none() || stage.record.offer.as_ref().map(|o| o.hash) == Some(sha256(&offered.secret));
            prop_assert!(unchanged, "one successor per token");
        }
    }

    #[test]
    fn s3_a_superseded_token_never_renews_and_dies_after_grace(mut wild in wild()) {
        wild.shown = Shown::Previous;
        let stage = wild.stage();
        let verdict = stage.decide();
        prop_assert!(!matches!(verdict.outcome, Outcome::Admit(Some(_))));
        prop_assert!(!verdict.touch);
        let Some(previous) = stage.record.previous.as_ref() else { return Ok(()) };
        if stage.seen_now() >= previous.until {
            prop_assert!(refused(&verdict).is_some());
        } else {
            prop_assert!(matches!(verdict.change, Change::Keep | Change::End(EndReason::Idle | EndReason::Absolute | EndReason::Revoked)));
        }
    }

    #[test]
    fn s3_a_superseded_token_stays_dead_when_a_clock_steps_back(back in 0_u64..600, use_after in 31_u64..300) {
        let mut server = Server::begin(policy(1_800, 40_000, 600, 30, OnReuse::Log));
        let old = server.first.clone();
        let fresh = server.renewed(&old);
        server.wait(use_after);
        server.ask(&fresh, Ask::home());
        let dead = server.ask(&old, Ask::home());
        prop_assert!(refused(&dead).is_some());
        server.now = server.now.minus(Duration::from_secs(back));
        let after = server.ask(&old, Ask::home());
        prop_assert!(refused(&after).is_some(), "alive again after a step of {back} s");
    }

    #[test]
    fn s4_a_revocation_is_never_undone(wild in wild(), line in 0_u64..400_000_000, global in any::<bool>()) {
        let mut stage = wild.stage();
        let at = stage.record.created.plus(ms(line));
        let dead = NotBefore { at, except: None };
        if global { stage.standing.everyone = dead } else { stage.standing.not_before = dead }
        for touched in [0, u64::MAX / 2, u64::MAX] {
            stage.standing.touched = UnixMillis(touched);
            let verdict = stage.decide();
            prop_assert_eq!(refused(&verdict), Some(Refusal::Revoked));
            prop_assert_eq!(verdict.change, Change::End(EndReason::Revoked));
            prop_assert!(!verdict.touch);
        }
        let own = NotBefore { at, except: Some(stage.key.id) };
        stage.standing.not_before = own;
        stage.standing.everyone = NotBefore::default();
        prop_assert_ne!(refused(&stage.decide()), Some(Refusal::Revoked));
    }

    #[test]
    fn s4_no_write_moves_time_back(wild in wild()) {
        let stage = wild.stage();
        let verdict = stage.decide();
        if let Change::Write(next) = verdict.change {
            prop_assert!(next.active >= stage.record.active);
            prop_assert!(next.current_since >= stage.record.current_since);
            prop_assert!(next.generation >= stage.record.generation);
            prop_assert!(next.frozen >= stage.record.frozen);
            if let (Some(old), Some(new)) = (&stage.record.offer, &next.offer) {
                prop_assert!(new.last_counted >= old.last_counted && new.counted >= old.counted);
            }
        }
    }

    #[test]
    fn s5_decide_is_total(wild in wild(), numbers in any::<[u64; 8]>(), generations in any::<[u32; 2]>(), end in 0_usize..4) {
        let mut stage = wild.stage();
        let extreme = |n: u64| UnixMillis(if n.is_multiple_of(5) { u64::MAX - n % 3 } else { n });
        stage.record.created = extreme(numbers[0]);
        stage.record.active = extreme(numbers[1]);
        stage.record.absolute_end = extreme(numbers[2]);
        stage.record.current_since = extreme(numbers[3]);
        stage.record.authenticated = extreme(numbers[4]);
        stage.standing.touched = extreme(numbers[5]);
        stage.now = extreme(numbers[6]);
        if let Some(previous) = &mut stage.record.previous { previous.until = extreme(numbers[7]) }
        if let Some(offer) = &mut stage.record.offer { offer.counted = u8::MAX }
        stage.record.generation = generations[0];
        if end & 1 == 1 { stage.record.generation = u32::MAX }
        let near = stage.record.generation.saturating_add_signed(numbers[0] as i32 % 3 - 1);
        let shown = if numbers[1] & 1 == 1 { near } else { generations[1] };
        stage.token = Token::new(stage.token.key_id, stage.key, shown, [7; 32]);
        if numbers[2] & 3 != 0 { prove_all(&mut stage.record, sha256(&[7; 32])) }
        if end & 2 == 2 {
            let end_of_time = Duration::MAX;
            stage.policy = SessionPolicy::new(end_of_time, end_of_time, end_of_time, Duration::from_secs(1), OnReuse::Revoke)
                .expect("long, and in order");
        }
        let (outcome, token_generation) = (stage.decide(), stage.token.generation);
        if let Outcome::Admit(Some(offered)) = outcome.outcome {
            prop_assert_eq!(offered.generation, token_generation + 1);
        }
    }

    #[test]
    fn s7_an_honest_client_is_never_a_thief(steps in steps()) {
        let mut server = Server::begin(policy(100_000, 1_000_000, 120, 20, OnReuse::Revoke));
        let mut jar = server.first.clone();
        let mut lost_in_a_row = 0;
        for step in steps {
            server.now = server.now.plus(step.pause);
            let before = jar.clone();
            let verdict = server.ask(&jar, Ask { timing: step.timing, ..Ask::home() });
            prop_assert_eq!(refused(&verdict), None);
            let offered = matches!(verdict.outcome, Outcome::Admit(Some(_)));
            lost_in_a_row = match (offered, step.lost && lost_in_a_row < 2) {
                (true, true) => lost_in_a_row + 1,
                (true, false) => { keep(&mut jar, &verdict); 0 }
                (false, _) => lost_in_a_row,
            };
            // The successor is confirmed, where there is one. Then a straggler: a request that was
            // sent before the renewal and is decided almost half a grace after it.
            server.ask(&jar, Ask { timing: Timing::Never, ..Ask::home() });
            server.now = server.now.plus(Duration::from_millis(9_999));
            let straggler = server.ask(&before, Ask { timing: Timing::Never, ..Ask::home() });
            prop_assert_eq!(refused(&straggler), None);
        }
    }

    #[test]
    fn s8_a_token_used_after_a_confirmed_renewal_by_the_other_party_ends_the_session(
        thief_confirms in any::<bool>(), more in 0_u32..3, wait in 30_u64..700, reuse in 0_usize..4,
    ) {
        let on_reuse = [OnReuse::Revoke, OnReuse::RevokeAll, OnReuse::Reauthenticate, OnReuse::Log][reuse];
        let mut server = Server::begin(policy(100_000, 1_000_000, 120, 30, on_reuse));
        let stolen = server.first.clone();
        let (ahead, behind) = if thief_confirms { (elsewhere(), home()) } else { (home(), elsewhere()) };
        let mut fresh = server.renewed_from(&stolen, &ahead);
        for _ in 0..more {
            fresh = server.renewed_from(&fresh, &ahead);
        }
        server.wait(wait);
        let verdict = server.ask(&stolen, Ask { context: behind, ..Ask::home() });
        prop_assert_eq!(refused(&verdict), Some(Refusal::Theft));
        let next = refused(&server.ask(&fresh, Ask { context: ahead, ..Ask::home() }));
        match on_reuse {
            OnReuse::Revoke | OnReuse::RevokeAll => {
                let all = on_reuse == OnReuse::RevokeAll;
                let end = if all { Change::EndAllOfUser(EndReason::Theft) } else { Change::End(EndReason::Theft) };
                prop_assert_eq!(verdict.change, end);
                prop_assert!(server.ended.is_some());
            }
            OnReuse::Reauthenticate => prop_assert_eq!(next, Some(Refusal::Reauthenticate)),
            OnReuse::Log => prop_assert_eq!(next, None),
        }
    }

    #[test]
    fn s8_what_proves_nothing_is_never_admitted_and_only_a_replay_ends_a_session(wild in wild(), by in -2_i8..=2, kind in 0_u8..3) {
        let shown = match kind {
            0 => Shown::Forged(by),
            1 => Shown::Future,
            _ => Shown::Older,
        };
        let stage = Wild { shown, ..wild }.stage();
        let verdict = stage.decide();
        let why = refused(&verdict);
        prop_assert!(why.is_some() && !verdict.touch);
        if matches!(why, Some(Refusal::Idle | Refusal::Absolute | Refusal::Revoked)) { return Ok(()) }
        let expected = match shown {
            Shown::Forged(-1 | 0) => Refusal::Mismatch,
            Shown::Forged(1..) | Shown::Future => Refusal::Future,
            Shown::Forged(_) | Shown::Older | Shown::Previous | Shown::Current | Shown::Successor => Refusal::Theft,
        };
        prop_assert_eq!(why, Some(expected));
        if expected != Refusal::Theft { prop_assert_eq!(verdict.change, Change::Keep) }
    }

    #[test]
    fn s9_a_refusal_is_no_activity(wild in wild()) {
        let stage = wild.stage();
        let verdict = stage.decide();
        if refused(&verdict).is_none() { return Ok(()) }
        prop_assert!(!verdict.touch);
        if let Change::Write(next) = verdict.change {
            prop_assert_eq!(next.active, stage.record.active);
        }
    }

    #[test]
    fn s9_idle_is_exact_to_a_sixtieth_and_never_late(
        idle in 60_u64..3_600, pauses in prop::collection::vec(0_u64..100_000, 1..40), activities in any::<u64>(),
    ) {
        let mut server = Server::begin(policy(idle, 10_000_000, 600, 20, OnReuse::Revoke));
        let (limit, exact) = (Duration::from_secs(idle), Duration::from_secs(idle) / 60);
        let (mut jar, mut last) = (server.first.clone(), server.now);
        for (at, pause) in pauses.into_iter().enumerate() {
            server.now = server.now.plus(ms(pause * idle / 60));
            let activity = activities >> (at % 64) & 1 == 1;
            let verdict = server.ask(&jar, Ask { activity, ..Ask::home() });
            let quiet = server.now.since(last);
            match refused(&verdict) {
                Some(why) => {
                    prop_assert_eq!(why, Refusal::Idle);
                    prop_assert_eq!(server.ended, Some(EndReason::Idle));
                    prop_assert!(quiet >= limit - exact, "{quiet:?} of {limit:?}");
                    return Ok(());
                }
                None => prop_assert!(quiet < limit, "{quiet:?} of {limit:?}"),
            }
            if activity { last = server.now }
            keep(&mut jar, &verdict);
        }
    }
}

proptest! {
    // Few cases: each searches every written byte for every token so far.
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s6_no_token_reaches_the_store_or_the_log(steps in steps()) {
        let mut server = Server::begin(policy(600, 30_000, 120, 20, OnReuse::Revoke));
        let mut jar = server.first.clone();
        let mut secrets = vec![jar.secret];
        for step in steps {
            server.now = server.now.plus(step.pause.min(Duration::from_secs(500)));
            let verdict = server.ask(&jar, Ask::home());
            keep(&mut jar, &verdict);
            secrets.push(jar.secret);
            let token = server.token(&jar);
            let text = token.text(&server.keys).expect("the newest key");
            let shown = format!("{verdict:?} {:?} {token:?} {:?} {:?}", server.record, server.key, server.keys);
            let plain = serde_json::to_vec(&server.record).expect("a record");
            for bytes in [server.sealed.as_slice(), &packed(&server.record), &plain, shown.as_bytes()] {
                for secret in &secrets {
                    prop_assert!(!carries(bytes, secret));
                }
                prop_assert!(!has(bytes, &text.as_bytes()[44..]));
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// What the properties lean on, case by case

#[test]
fn a_token_is_offered_when_due_and_not_before() {
    let due = |timing, after| {
        let mut server = Server::begin(usual());
        let first = server.first.clone();
        server.wait(after);
        let verdict = server.ask(&first, Ask { timing, ..Ask::home() });
        matches!(verdict.outcome, Outcome::Admit(Some(_)))
    };
    assert!(!due(Timing::Prompt, 599) && due(Timing::Prompt, 600));
    assert!(!due(Timing::Never, 1_700));
    // Sooner, a late answer could put an older cookie over a newer one.
    assert!(!due(Timing::Now, 59) && due(Timing::Now, 60));
}

#[test]
fn a_sensitive_action_keeps_the_token_due_until_its_successor_is_shown() {
    let mut server = Server::begin(usual());
    let first = server.first.clone();
    let offered = |verdict: Verdict| match verdict.outcome {
        Outcome::Admit(offered) => offered,
        Outcome::Refuse(why) => panic!("{why:?}"),
    };
    let at_once = offered(server.ask(&first, Ask { timing: Timing::Now, ..Ask::home() }));
    assert_eq!(at_once, None, "a token so young stays, and stays due");
    server.wait(60);
    let at_once = offered(server.ask(&first, Ask::home()));
    assert!(at_once.is_some());
    // It was lost: every answer brings it again.
    assert_eq!(offered(server.ask(&first, Ask::home())), at_once);
    let second = at_once.expect("a successor");
    assert_eq!(offered(server.ask(&second, Ask::home())), None, "nothing is due any more");
}

#[test]
fn after_a_sensitive_action_the_old_token_lives_half_a_grace_and_is_theft_after_the_whole() {
    let after = |seconds: u64| {
        let mut server = Server::begin(usual());
        let first = server.first.clone();
        // In use for long enough that no crash explains an older one.
        server.wait(120);
        server.ask(&first, Ask::home());
        let verdict = server.ask(&first, Ask { timing: Timing::Now, ..Ask::home() });
        let Outcome::Admit(Some(second)) = verdict.outcome else { panic!("no successor") };
        server.ask(&second, Ask::home());
        server.wait(seconds);
        server.ask(&first, Ask::away())
    };
    assert_eq!(refused(&after(14)), None);
    assert_eq!(refused(&after(15)), Some(Refusal::Superseded));
    assert_eq!(after(29).change, Change::Keep);
    assert_eq!(refused(&after(30)), Some(Refusal::Theft));
}

#[test]
fn the_grace_starts_at_the_confirmation_and_not_at_the_offer() {
    let mut server = Server::begin(usual());
    let old = server.first.clone();
    server.wait(600);
    let mut fresh = old.clone();
    keep(&mut fresh, &server.ask(&old, Ask::home()));
    server.wait(29);
    server.ask(&fresh, Ask::home());
    server.wait(29);
    assert_eq!(refused(&server.ask(&old, Ask::home())), None);
    server.wait(1);
    assert!(refused(&server.ask(&old, Ask::home())).is_some());
}

#[test]
fn offers_are_counted_a_grace_apart_and_three_may_be_ignored() {
    let mut server = Server::begin(usual());
    let deaf = server.first.clone();
    server.wait(600);
    for second in 0..90 {
        let verdict = server.ask(&deaf, Ask::home());
        let counted = server.record.offer.as_ref().map(|offer| offer.counted);
        assert_eq!(refused(&verdict), None, "second {second}");
        assert_eq!(counted, Some(1 + second / 30), "second {second}");
        server.wait(1);
    }
    let verdict = server.ask(&deaf, Ask::home());
    assert_eq!(refused(&verdict), Some(Refusal::NotRenewing));
    assert_eq!(server.ended, Some(EndReason::NotRenewing));
}

#[test]
fn a_route_that_renews_nothing_never_refuses_for_it() {
    let mut server = Server::begin(usual());
    let script = server.first.clone();
    for _ in 0..100 {
        server.wait(60);
        let never = Ask { timing: Timing::Never, ..Ask::home() };
        assert_eq!(refused(&server.ask(&script, never)), None);
    }
    assert_eq!(server.record.offer, None);
}

#[test]
fn three_ignored_offers_still_pass_on_a_route_that_renews_nothing() {
    let mut server = Server::begin(usual());
    let deaf = server.first.clone();
    server.wait(600);
    for _ in 0..3 {
        server.ask(&deaf, Ask::home());
        server.wait(30);
    }
    let never = Ask { timing: Timing::Never, ..Ask::home() };
    assert_eq!(refused(&server.ask(&deaf, never)), None);
    assert_eq!(refused(&server.ask(&deaf, Ask::home())), Some(Refusal::NotRenewing));
}

#[test]
fn a_superseded_token_passes_neither_a_strict_route_nor_a_frozen_session() {
    let mut server = Server::begin(usual());
    let old = server.first.clone();
    server.renewed(&old);
    let strict =
        RoutePolicy { max_auth_age: Some(Duration::from_secs(60)), ..RoutePolicy::default() };
    let verdict = server.ask(&old, Ask { route: strict, ..Ask::home() });
    assert_eq!(refused(&verdict), Some(Refusal::Reauthenticate));
    assert_eq!(refused(&server.ask(&old, Ask::home())), None);
    server.record.frozen = true;
    assert_eq!(refused(&server.ask(&old, Ask::home())), Some(Refusal::Reauthenticate));
}

#[test]
fn a_burst_over_a_due_renewal_gets_one_successor_and_one_write() {
    let mut server = Server::begin(usual());
    let token = server.first.clone();
    server.wait(600);
    let answers: Vec<_> = (0..64).map(|_| server.ask(&token, Ask::home())).collect();
    assert!(answers.iter().all(|v| v.outcome == answers[0].outcome));
    let writes = answers.iter().filter(|v| matches!(v.change, Change::Write(_)));
    assert_eq!(writes.count(), 1);
}

#[test]
fn activity_is_written_at_most_every_sixtieth_of_the_idle_timeout() {
    let mut server = Server::begin(usual());
    let token = server.first.clone();
    let mut writes = 0;
    for _ in 0..599 {
        server.wait(1);
        let verdict = server.ask(&token, Ask::home());
        writes += u32::from(verdict.touch || matches!(verdict.change, Change::Write(_)));
    }
    // 19 touches and the one write that seasons the token, which notes the activity as well.
    assert!((19..=21).contains(&writes), "{writes} writes in ten minutes");
}

#[test]
fn a_gateway_whose_clock_is_behind_does_not_write_at_every_request() {
    let mut server = Server::begin(usual());
    let mut jar = server.first.clone();
    server.wait(600);
    for _ in 0..2 {
        // Another gateway, five minutes ahead, renews the token of a page that polls.
        let verdict = server.ask(&jar, Ask { activity: false, ..Ask::home() });
        keep(&mut jar, &verdict);
    }
    assert_eq!(server.record.generation, 1);
    server.now = server.now.minus(Duration::from_secs(300));
    let writes = (0..60).filter(|_| {
        server.wait(1);
        server.ask(&jar, Ask::home()).touch
    });
    assert!((1..=3).contains(&writes.count()), "sixty requests in a minute");
}

#[test]
fn a_page_that_polls_keeps_no_session_alive() {
    let mut server = Server::begin(usual());
    let mut jar = server.first.clone();
    let poll = || Ask { activity: false, ..Ask::home() };
    for second in (10..1_800).step_by(10) {
        server.wait(10);
        let verdict = server.ask(&jar, poll());
        assert_eq!(refused(&verdict), None, "second {second}");
        assert!(!verdict.touch);
        keep(&mut jar, &verdict);
    }
    server.wait(10);
    assert_eq!(refused(&server.ask(&jar, poll())), Some(Refusal::Idle));
}

#[test]
fn a_crash_that_brings_the_old_cookie_back_is_no_alarm_within_a_minute_of_use() {
    let crash_after = |used: u64, context: ClientContext| {
        let mut server = Server::begin(usual());
        let old = server.first.clone();
        let fresh = server.renewed(&old);
        server.wait(used);
        server.ask(&fresh, Ask::home());
        server.wait(31);
        let verdict = server.ask(&old, Ask { context, ..Ask::home() });
        (refused(&verdict), server.ended)
    };
    assert_eq!(crash_after(59, home()), (Some(Refusal::AfterCrash), None));
    let theft = (Some(Refusal::Theft), Some(EndReason::Theft));
    assert_eq!(crash_after(60, home()), theft);
    assert_eq!(crash_after(10, elsewhere()), theft);
}

/// A limit, written down: a home has IPv4 and IPv6, a browser takes now one and now the other (RFC 8305), and
/// nothing in a record says that two networks are one home. A browser that renewed over one, crashed before
/// the cookie was on its disk and comes back over the other is taken for a thief. To excuse whoever knows the
/// software and comes by the other family would excuse the owner who finds a thief in his session, too.
#[test]
fn a_crashed_browser_that_comes_back_by_the_other_ip_family_is_taken_for_a_thief() {
    let by = |address: &str| ClientContext::new(address.parse().expect("one"), b"Firefox");
    let (old, new) = (by("192.0.2.7"), by("2001:db8:1::7"));
    let crash = |renews: &ClientContext, returns: &ClientContext| {
        let mut server = Server::begin(usual());
        let first = server.first.clone();
        for context in [&old, &new] {
            server.wait(60);
            server.ask(&first, Ask { context: context.clone(), ..Ask::home() });
        }
        server.renewed_from(&first, renews);
        server.wait(31);
        let back = server.ask(&first, Ask { context: returns.clone(), ..Ask::home() });
        (refused(&back), server.ended)
    };
    for family in [&old, &new] {
        assert_eq!(crash(family, family), (Some(Refusal::AfterCrash), None));
    }
    let theft = (Some(Refusal::Theft), Some(EndReason::Theft));
    assert_eq!((crash(&old, &new), crash(&new, &old)), (theft, theft));
}

#[test]
fn a_stricter_route_refuses_there_and_ends_nothing() {
    let routes: [(RoutePolicy, u64); 3] = [
        (RoutePolicy { idle: Some(Duration::from_secs(60)), ..RoutePolicy::default() }, 60),
        (RoutePolicy { absolute: Some(Duration::from_secs(300)), ..RoutePolicy::default() }, 300),
        (
            RoutePolicy { max_auth_age: Some(Duration::from_secs(200)), ..RoutePolicy::default() },
            200,
        ),
    ];
    for (route, limit) in routes {
        let mut server = Server::begin(usual());
        let token = server.first.clone();
        let strict = || Ask { route: route.clone(), ..Ask::home() };
        server.wait(limit - 1);
        let before = server.record.clone();
        assert_eq!(refused(&server.ask(&token, Ask { activity: false, ..strict() })), None);
        server.wait(1);
        assert_eq!(refused(&server.ask(&token, strict())), Some(Refusal::Reauthenticate));
        assert_eq!(server.record.active, before.active, "a refusal is no activity");
        assert_eq!(refused(&server.ask(&token, Ask::home())), None, "other routes go on");
    }
}

#[test]
fn s2_two_texts_of_one_token_around_a_key_rotation_get_one_successor() {
    // The same token in two texts: two gateways minted it before and after a key rotation.
    let mut server = Server::begin(usual());
    let token = server.first.clone();
    server.wait(600);
    let offered = server.ask(&token, Ask::home());
    server.keys.rotate("later").expect("room");
    let other_text = server.ask(&token, Ask::home());
    let Outcome::Admit(Some(first)) = offered.outcome else { panic!("the first offer") };
    match other_text.outcome {
        Outcome::Admit(Some(second)) => assert_eq!(second, first, "nobody could confirm another"),
        Outcome::Admit(None) => panic!("an honest client is kept waiting until it is refused"),
        Outcome::Refuse(why) => panic!("an honest client was refused: {why:?}"),
    }
}

#[test]
fn durations_at_the_end_of_time_are_refused_or_obeyed_and_never_a_panic() {
    for grace in [Duration::MAX, Duration::MAX / 2 + Duration::from_secs(1)] {
        let built =
            SessionPolicy::new(Duration::MAX, Duration::MAX, Duration::MAX, grace, OnReuse::Revoke);
        assert!(built.is_ok(), "a grace of {grace:?}");
    }
    let mut server = Server::begin(
        SessionPolicy::new(
            Duration::MAX,
            Duration::MAX,
            Duration::MAX,
            Duration::from_secs(1),
            OnReuse::Revoke,
        )
        .expect("long, and in order"),
    );
    let token = server.first.clone();
    assert_eq!(refused(&server.ask(&token, Ask::home())), None);
}

// ---------------------------------------------------------------------------------------------
// The attack table

#[test]
fn attack_with_the_keys_and_the_source_makes_no_live_token() {
    let mut server = Server::begin(usual());
    let mine = server.first.clone();
    server.wait(700);
    server.ask(&mine, Ask::home());
    for generation in [0, 1, 2, 7, u32::MAX] {
        let forged = Successor { generation, secret: random_bytes() };
        let text = server.token(&forged).text(&server.keys).expect("the thief has the keys");
        let parsed = Token::parse(&server.keys, text.as_bytes());
        assert!(parsed.is_ok(), "the MAC alone is no defence here");
        let why = refused(&server.ask(&forged, Ask::home()));
        assert!(matches!(why, Some(Refusal::Mismatch | Refusal::Future)), "{generation}: {why:?}");
    }
    assert_eq!(refused(&server.ask(&mine, Ask::home())), None, "and it hurts nobody");
}

#[test]
fn attack_with_a_copy_of_redis_finds_neither_token_nor_name() {
    let mut server = Server::begin(usual());
    let token = server.first.clone();
    server.wait(700);
    let verdict = server.ask(&token, Ask::home());
    let Outcome::Admit(Some(successor)) = verdict.outcome else { panic!("due") };
    let copy = server.sealed.clone();
    assert!(!carries(&copy, &token.secret) && !carries(&copy, &successor.secret));
    assert!(!carries(&copy, &server.record.current), "not even the hash lies there in clear");
    assert!(!has(&copy, b"alice") && !has(&copy, b"192.0.2") && !has(&copy, b"Firefox"));
    let without_keys = KeyRing::generate("elsewhere");
    assert!(Record::open(&without_keys, &server.key, &copy).is_err());
}

#[test]
fn attack_with_the_keys_and_a_copy_of_redis_still_needs_the_preimage() {
    let mut server = Server::begin(usual());
    let token = server.first.clone();
    server.wait(700);
    server.ask(&token, Ask::home());
    let copy =
        Record::open(&server.keys, &server.key, &server.sealed).expect("the thief has the keys");
    let offer = copy.offer.clone().expect("an offer is out");
    let (_, root) = server.keys.newest();
    // All that he can derive: the hashes as secrets, and the ratchet over the hashes.
    let from_hash = server.token(&Successor { generation: 0, secret: copy.current });
    let ratcheted = from_hash.successor_secret(root.ratchet(), &offer.salt);
    let guesses = [(0, copy.current), (1, offer.hash), (1, ratcheted), (1, sha256(&copy.current))];
    for (generation, secret) in guesses {
        let why = refused(&server.ask(&Successor { generation, secret }, Ask::home()));
        assert!(matches!(why, Some(Refusal::Mismatch | Refusal::Future)), "{why:?}");
    }
}

#[test]
fn attack_by_writing_to_redis_splice_does_not_open() {
    let mut server = Server::begin(usual());
    let young = server.sealed.clone();
    let jar = server.first.clone();
    server.renewed(&jar);
    let old = server.sealed.clone();
    // The head of one generation with the body of another.
    let spliced = [&old[..5], &young[5..]].concat();
    assert!(matches!(Record::open(&server.keys, &server.key, &spliced), Err(RecordError::Open(_))));
    let spliced = [&young[..5], &old[5..]].concat();
    assert!(matches!(Record::open(&server.keys, &server.key, &spliced), Err(RecordError::Open(_))));
}

#[test]
fn attack_by_writing_to_redis_swap_does_not_open() {
    let server = Server::begin(usual());
    let (victim, own) = (server.key, Server::key_of(&server.keys, "mallory"));
    let token = Token::new(server.keys.newest().0, own, 0, random_bytes());
    let record =
        Record { identity: identity("mallory"), current: token.hash(), ..server.record.clone() };
    let sealed = record.seal(&server.keys, &own);
    assert!(Record::open(&server.keys, &own, &sealed).is_ok());
    let same_user = SessionKey { tag: victim.tag, id: own.id };
    let same_id = SessionKey { tag: own.tag, id: victim.id };
    for key in [victim, same_user, same_id] {
        assert!(Record::open(&server.keys, &key, &sealed).is_err(), "{key:?}");
    }
    let as_victim = Record { identity: identity("mallory"), ..server.record.clone() };
    let sealed = as_victim.seal(&server.keys, &victim);
    assert_eq!(Record::open(&server.keys, &victim, &sealed), Err(RecordError::User));
}

#[test]
fn attack_by_writing_to_redis_rollback_is_found_out_by_the_next_honest_request() {
    let mut server = Server::begin(usual());
    let stolen = server.first.clone();
    let (old_record, old_sealed) = (server.record.clone(), server.sealed.clone());
    let fresh = server.renewed(&stolen);
    assert!(Record::open(&server.keys, &server.key, &old_sealed).is_ok());
    server.record = old_record;
    server.wait(10);
    // Without a token of that time the rollback wins nothing; the victim's own one is the alarm.
    let guess = Successor { generation: 0, secret: random_bytes() };
    assert_eq!(refused(&server.ask(&guess, Ask::away())), Some(Refusal::Mismatch));
    assert_eq!(refused(&server.ask(&fresh, Ask::home())), Some(Refusal::Future));
}

#[test]
fn attack_with_a_stolen_current_cookie_thief_first_is_found_out_by_the_victim() {
    let mut server = Server::begin(usual());
    let stolen = server.first.clone();
    server.wait(300);
    assert_eq!(refused(&server.ask(&stolen, Ask::away())), None, "until the renewal");
    let thiefs = server.renewed_from(&stolen, &elsewhere());
    server.wait(31);
    assert_eq!(refused(&server.ask(&stolen, Ask::home())), Some(Refusal::Theft));
    assert_eq!(server.ended, Some(EndReason::Theft));
    assert!(refused(&server.ask(&thiefs, Ask::away())).is_some());
}

#[test]
fn attack_with_a_stolen_current_cookie_victim_first_is_found_out_by_its_use() {
    let mut server = Server::begin(usual());
    let stolen = server.first.clone();
    let fresh = server.renewed(&stolen);
    server.wait(29);
    assert_eq!(refused(&server.ask(&stolen, Ask::away())), None, "within grace, and no cookie");
    server.wait(1);
    assert_eq!(refused(&server.ask(&stolen, Ask::away())), Some(Refusal::Theft));
    assert_eq!(server.ended, Some(EndReason::Theft));
    assert!(refused(&server.ask(&fresh, Ask::home())).is_some());
}

#[test]
fn attack_with_a_stolen_current_cookie_that_ignores_renewal_dies() {
    let mut server = Server::begin(usual());
    let stolen = server.first.clone();
    let (mut alive, dies) = (0, 600 + 3 * 30);
    while server.ended.is_none() {
        server.wait(1);
        alive += 1;
        server.ask(&stolen, Ask::away());
        assert!(alive <= dies, "alive after {alive} s");
    }
    assert_eq!((alive, server.ended), (dies, Some(EndReason::NotRenewing)));
}

#[test]
fn attack_with_a_stolen_old_cookie_ends_the_session_for_both() {
    for renewals in 2..5 {
        let mut server = Server::begin(usual());
        let stolen = server.first.clone();
        let mut fresh = stolen.clone();
        for _ in 0..renewals {
            fresh = server.renewed(&fresh);
        }
        // No grace, and no excuse of a crash, for a token that is two renewals old.
        assert_eq!(refused(&server.ask(&stolen, Ask::home())), Some(Refusal::Theft));
        assert_eq!(server.ended, Some(EndReason::Theft));
        assert!(refused(&server.ask(&fresh, Ask::home())).is_some());
    }
}

/// A limit, written down: whoever shows the same token is given the same successor, so a thief who
/// asks while the token is due and lets the victim confirm stays in step with him. What the client
/// proves beside its cookie must find him: its place, its device.
#[test]
fn attack_in_step_with_the_victim_is_beyond_the_token_and_ends_at_the_absolute_timeout() {
    let mut server = Server::begin(usual());
    let (mut victim, mut thief) = (server.first.clone(), server.first.clone());
    let mut renewals = 0;
    while server.now < server.begun.plus(Duration::from_secs(43_200)) {
        server.wait(300);
        let first = server.ask(&thief, Ask::away());
        let second = server.ask(&victim, Ask::home());
        assert_ne!(refused(&first), Some(Refusal::Theft));
        keep(&mut thief, &first);
        keep(&mut victim, &second);
        renewals += u32::from(matches!(second.outcome, Outcome::Admit(Some(_))));
    }
    assert!(renewals > 10);
    assert_eq!(server.ended, Some(EndReason::Absolute));
}

/// A limit, written down: a record and a token of the same past fit each other. The seal shows
/// splices and swaps; that the whole store went back only the other party's newer token can show.
#[test]
fn attack_by_writing_to_redis_rollback_with_a_stolen_old_cookie_raises_the_alarm_when_the_victim_comes()
 {
    let mut server = Server::begin(usual());
    let stolen = server.first.clone();
    let old_record = server.record.clone();
    let fresh = server.renewed(&stolen);
    server.record = old_record;
    assert_eq!(refused(&server.ask(&stolen, Ask::away())), None, "the past lives again");
    assert_eq!(
        refused(&server.ask(&fresh, Ask::home())),
        Some(Refusal::Future),
        "and is found out"
    );
}

#[test]
fn attack_with_a_forged_cookie_without_the_keys_costs_no_look_up() {
    let server = Server::begin(usual());
    let thiefs_own = KeyRing::generate("elsewhere");
    let forged = server.token(&server.first).text(&thiefs_own).expect("his key 1");
    assert_eq!(Token::parse(&server.keys, forged.as_bytes()).err(), Some(TokenError::Mac));
}

// ---------------------------------------------------------------------------------------------
// One server with one session, driven in sequence

struct Server {
    keys: KeyRing,
    key: SessionKey,
    policy: SessionPolicy,
    begun: UnixMillis,
    now: UnixMillis,
    first: Successor,
    record: Record,
    sealed: Vec<u8>,
    touched: UnixMillis,
    ended: Option<EndReason>,
}

struct Ask {
    context: ClientContext,
    route: RoutePolicy,
    timing: Timing,
    activity: bool,
}

impl Ask {
    fn home() -> Ask {
        let route = RoutePolicy::default();
        Ask { context: home(), route, timing: Timing::Prompt, activity: true }
    }

    fn away() -> Ask {
        Ask { context: elsewhere(), ..Ask::home() }
    }
}

impl Server {
    fn begin(policy: SessionPolicy) -> Server {
        let keys = KeyRing::generate("now");
        let (key, begun) = (Server::key_of(&keys, "alice"), UnixMillis(1_700_000_000_000));
        let first = Successor { generation: 0, secret: random_bytes() };
        let token = Token::new(keys.newest().0, key, 0, first.secret);
        let end = begun.plus(policy.absolute());
        let record = Record::begin(identity("alice"), &token, begun, end, home());
        let (sealed, touched) = (record.seal(&keys, &key), begun);
        Server { keys, key, policy, begun, now: begun, first, record, sealed, touched, ended: None }
    }

    fn key_of(keys: &KeyRing, user: &str) -> SessionKey {
        SessionKey { tag: UserTag(keys.tag_of(user)), id: SessionId(random_bytes()) }
    }

    fn token(&self, held: &Successor) -> Token {
        Token::new(self.keys.newest().0, self.key, held.generation, held.secret)
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// Decides one request and stores what follows. An ended session refuses whatever comes.
    fn ask(&mut self, held: &Successor, ask: Ask) -> Verdict {
        if self.ended.is_some() {
            let outcome = Outcome::Refuse(Refusal::Revoked);
            return Verdict { outcome, change: Change::Keep, touch: false, demanded: false };
        }
        let standing = Standing { touched: self.touched, ..Standing::default() };
        let verdict = decide(&Case {
            record: &self.record,
            standing: &standing,
            presented: &self.token(held),
            keys: &self.keys,
            now: self.now,
            salt: &random_bytes,
            context: &ask.context,
            session: &self.policy,
            route: &ask.route,
            timing: ask.timing,
            activity: ask.activity,
            demand: None,
        });
        self.store(&verdict);
        verdict
    }

    fn store(&mut self, verdict: &Verdict) {
        if verdict.touch {
            self.touched = self.touched.max(self.now);
        }
        match &verdict.change {
            Change::Keep => {}
            Change::Write(next) => {
                self.record = (**next).clone();
                self.sealed = self.record.seal(&self.keys, &self.key);
            }
            Change::End(reason) | Change::EndAllOfUser(reason) => self.ended = Some(*reason),
        }
    }

    fn renewed(&mut self, held: &Successor) -> Successor {
        self.renewed_from(held, &home())
    }

    /// Waits until the token is due, takes the offer and confirms it.
    fn renewed_from(&mut self, held: &Successor, from: &ClientContext) -> Successor {
        self.now = self.now.plus(self.policy.rotate_after());
        let mut fresh = held.clone();
        for _ in 0..2 {
            let verdict = self.ask(&fresh, Ask { context: from.clone(), ..Ask::home() });
            keep(&mut fresh, &verdict);
        }
        assert_eq!(self.record.generation, held.generation + 1);
        fresh
    }
}

/// Makes one secret prove the current token, the one before it and the one offered.
fn prove_all(record: &mut Record, hash: [u8; 32]) {
    record.current = hash;
    record.previous.iter_mut().for_each(|previous| previous.hash = hash);
    record.offer.iter_mut().for_each(|offer| offer.hash = hash);
}

fn keep(jar: &mut Successor, verdict: &Verdict) {
    if let Outcome::Admit(Some(offered)) = &verdict.outcome {
        *jar = offered.clone();
    }
}

fn refused(verdict: &Verdict) -> Option<Refusal> {
    match verdict.outcome {
        Outcome::Admit(_) => None,
        Outcome::Refuse(why) => Some(why),
    }
}

fn identity(user: &str) -> Identity {
    Identity { user: user.to_owned(), ..Identity::default() }
}

fn home() -> ClientContext {
    ClientContext::new(IpAddr::from([192, 0, 2, 7]), b"Firefox")
}

fn elsewhere() -> ClientContext {
    ClientContext::new(IpAddr::from([198, 51, 100, 9]), b"curl")
}

fn usual() -> SessionPolicy {
    policy(1_800, 43_200, 600, 30, OnReuse::Revoke)
}

fn policy(idle: u64, absolute: u64, rotate: u64, grace: u64, reuse: OnReuse) -> SessionPolicy {
    let seconds = Duration::from_secs;
    SessionPolicy::new(seconds(idle), seconds(absolute), seconds(rotate), seconds(grace), reuse)
        .expect("in order")
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Whether `bytes` hold the secret: raw, in hex, in base64 or as a list of numbers.
fn carries(bytes: &[u8], secret: &[u8; 32]) -> bool {
    let list = format!("{secret:?}");
    let numbers = list.trim_matches(['[', ']']);
    has(bytes, secret)
        || has(bytes, data_encoding::HEXLOWER.encode(secret).as_bytes())
        || has(bytes, data_encoding::BASE64.encode(secret).as_bytes())
        || has(bytes, numbers.as_bytes())
        || has(bytes, numbers.replace(", ", ",").as_bytes())
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn packed(record: &Record) -> Vec<u8> {
    postcard::to_allocvec(record).expect("a record")
}

// ---------------------------------------------------------------------------------------------
// Arbitrary input

#[derive(Clone, Debug)]
struct Step {
    pause: Duration,
    timing: Timing,
    lost: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![0_u64..3_000, 3_000_u64..60_000, 60_000_u64..500_000];
    let step = (pause, timing(), any::<bool>());
    let step = step.prop_map(|(pause, timing, lost)| Step { pause: ms(pause), timing, lost });
    prop::collection::vec(step, 1..40)
}

fn timing() -> impl Strategy<Value = Timing> {
    prop_oneof![
        8 => Just(Timing::Prompt),
        4 => Just(Timing::Never),
        1 => Just(Timing::Now),
    ]
}

/// What the client shows.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Current,
    Successor,
    Previous,
    Older,
    Future,
    Forged(i8),
}

fn shown() -> impl Strategy<Value = Shown> {
    prop_oneof![
        3 => Just(Shown::Current),
        2 => Just(Shown::Successor),
        2 => Just(Shown::Previous),
        1 => Just(Shown::Older),
        1 => Just(Shown::Future),
        1 => (-2_i8..=2).prop_map(Shown::Forged),
    ]
}

/// Any record that a store may hold, and any request for it. Times are milliseconds after the
/// session began, except for `back`, by which the clock is behind.
#[derive(Clone, Debug)]
struct Wild {
    shown: Shown,
    times: [u64; 6],
    back: u64,
    flags: [bool; 6],
    offer: Option<(u8, [u8; 16])>,
    durations: [u64; 4],
    route: [Option<u64>; 3],
    timing: Timing,
    salt: [u8; 16],
    reuse: usize,
}

fn wild() -> impl Strategy<Value = Wild> {
    let limit = || prop::option::weighted(0.2, 60_u64..4_000);
    let who = (shown(), any::<[bool; 6]>(), timing(), any::<[u8; 16]>(), 0_usize..4);
    let when = (prop::array::uniform6(0_u64..3_000_000), prop_oneof![Just(0), 0_u64..400_000]);
    let offer = prop::option::of((0_u8..=4, any::<[u8; 16]>()));
    let durations = (60_u64..4_000, 0_u64..10_000, 0_u64..1_000, 1_u64..60);
    let durations = durations.prop_map(|(a, b, c, d)| [a, b, c, d]);
    let route = (limit(), limit(), limit()).prop_map(|(a, b, c)| [a, b, c]);
    (who, when, offer, durations, route).prop_map(|(who, when, offer, durations, route)| {
        let (shown, flags, timing, salt, reuse) = who;
        let (times, back) = when;
        Wild { shown, times, back, flags, offer, durations, route, timing, salt, reuse }
    })
}

/// A case with its owner.
struct Stage {
    keys: KeyRing,
    key: SessionKey,
    record: Record,
    standing: Standing,
    token: Token,
    now: UnixMillis,
    salt: [u8; 16],
    context: ClientContext,
    policy: SessionPolicy,
    route: RoutePolicy,
    timing: Timing,
    activity: bool,
}

const GENERATION: u32 = 5;

impl Wild {
    fn stage(&self) -> Stage {
        let server = Server::begin(self.policy());
        let begun = server.begun;
        let at = |n: usize| begun.plus(ms(self.times[n]));
        let [seasoned, frozen, away, activity, touched, behind] = self.flags;
        let secrets: [[u8; 32]; 3] = [[1; 32], [2; 32], [3; 32]];
        let current = server.token(&Successor { generation: GENERATION, secret: secrets[2] });
        let salt = self.offer.map_or([9; 16], |(_, salt)| salt);
        let successor = current.successor_secret(server.keys.newest().1.ratchet(), &salt);
        let latest = at(0).max(at(1));
        let now =
            if behind { latest.minus(ms(self.back)) } else { latest.plus(ms(self.times[2] / 8)) };
        let record = Record {
            absolute_end: begun.plus(ms(self.times[3] * 5)),
            active: at(0),
            current_since: at(1),
            generation: GENERATION,
            current: sha256(&secrets[2]),
            seasoned,
            frozen: frozen && away,
            previous: Some(Superseded {
                hash: sha256(&secrets[1]),
                until: at(1).plus(self.policy().grace()),
                alarm: at(1).plus(self.policy().grace()),
            }),
            offer: self.offer.map(|(counted, salt)| Offer {
                ratchet: server.keys.newest().0,
                salt,
                hash: sha256(&successor),
                counted,
                last_counted: at(1).plus(ms(self.times[4] / 8)),
            }),
            ..server.record.clone()
        };
        let held = |generation, secret| Successor { generation, secret };
        let shown = match self.shown {
            Shown::Current => held(GENERATION, secrets[2]),
            Shown::Successor => held(GENERATION + 1, successor),
            Shown::Previous => held(GENERATION - 1, secrets[1]),
            Shown::Older => held(GENERATION - 2, secrets[0]),
            Shown::Future => held(GENERATION + 2, successor),
            Shown::Forged(by) => held(GENERATION.saturating_add_signed(by.into()), [77; 32]),
        };
        let limit = |n: usize| self.route[n].map(Duration::from_secs);
        Stage {
            token: server.token(&shown),
            keys: server.keys,
            key: server.key,
            record,
            standing: Standing {
                touched: if touched { at(5) } else { UnixMillis(0) },
                ..Standing::default()
            },
            now,
            salt: self.salt,
            context: if away { elsewhere() } else { home() },
            policy: server.policy,
            route: RoutePolicy {
                idle: limit(0),
                absolute: limit(1),
                max_auth_age: limit(2),
                ..RoutePolicy::default()
            },
            timing: self.timing,
            activity,
        }
    }

    fn policy(&self) -> SessionPolicy {
        let [idle, more, rotate, grace] = self.durations;
        let reuse = [OnReuse::Revoke, OnReuse::RevokeAll, OnReuse::Reauthenticate, OnReuse::Log];
        policy(idle, idle + more, rotate + 2 * grace, grace, reuse[self.reuse])
    }
}

impl Stage {
    fn decide(&self) -> Verdict {
        decide(&self.case(&|| self.salt))
    }

    fn case<'a>(&'a self, salt: &'a dyn Fn() -> [u8; 16]) -> Case<'a> {
        Case {
            record: &self.record,
            standing: &self.standing,
            presented: &self.token,
            keys: &self.keys,
            now: self.now,
            salt,
            context: &self.context,
            session: &self.policy,
            route: &self.route,
            timing: self.timing,
            activity: self.activity,
            demand: None,
        }
    }

    fn token_of(&self, held: &Successor) -> Token {
        Token::new(self.keys.newest().0, self.key, held.generation, held.secret)
    }

    /// Time as far as the session has seen it.
    fn seen_now(&self) -> UnixMillis {
        self.now.max(self.record.active).max(self.standing.touched).max(self.record.current_since)
    }
}
