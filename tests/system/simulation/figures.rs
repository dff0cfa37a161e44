//! The long form: many users and attackers under several policies. Writes JSON lines to the file in `FIGURES`.

use std::fs::File;
use std::io::Write;
use std::ops::Range;

use doorward::risk::Thresholds;
use doorward::session::SignalsMode;
use serde_json::{Value, json};

use super::attacker::{AttackerLocation, AttackerSoftware, TheftOutcome, TokenUse};
use super::auth_under_test::{Policy, SessionLifetime};
use super::rates;
use super::table::{self, Table};
use super::tally::UserTally;
use super::theft::{self, Outcome, TheftScenario, UseTime};
use super::{ENFORCED, OFF, OUTSIDE, parallel, rules};

const LIFETIMES: [SessionLifetime; 2] = [SessionLifetime::Workday, SessionLifetime::Month];
const LOCATIONS: [AttackerLocation; 5] = [
    AttackerLocation::Abroad,
    AttackerLocation::CloudAbroad,
    AttackerLocation::Country,
    AttackerLocation::Neighbour,
    AttackerLocation::Inside,
];
const SOFTWARE: [AttackerSoftware; 6] = [
    AttackerSoftware::Program,
    AttackerSoftware::OtherBrowser,
    AttackerSoftware::Disguised,
    AttackerSoftware::OtherVersion,
    AttackerSoftware::Newer,
    AttackerSoftware::Same,
];
const TOKEN_USES: [TokenUse; 3] =
    [TokenUse::FollowsRotation, TokenUse::KeepsToken, TokenUse::InStepWithOwner];
const USE_TIMES: [UseTime; 4] =
    [UseTime::Immediately, UseTime::HoursLater, UseTime::DaysLater, UseTime::WhileVictimSleeps];

/// The policies in the table of attackers by location.
const BY_LOCATION: [&str; 3] = ["off", "enforce", "login_at = 40"];

/// Thresholds to plot: every score that a relevant set of signals adds up to.
const LOGIN_AT: [u32; 14] = [10, 15, 20, 25, 35, 40, 45, 50, 55, 60, 65, 75, 85, 100];

/// The attackers in the threshold plot.
const CURVE: [(AttackerLocation, AttackerSoftware); 6] = [
    (AttackerLocation::Abroad, AttackerSoftware::OtherBrowser),
    (AttackerLocation::Abroad, AttackerSoftware::Disguised),
    (AttackerLocation::Abroad, AttackerSoftware::Same),
    (AttackerLocation::Country, AttackerSoftware::Disguised),
    (AttackerLocation::Country, AttackerSoftware::Same),
    (AttackerLocation::Inside, AttackerSoftware::OtherBrowser),
];

/// Fewest users for which the bound on false logins is asserted.
const MIN_USERS: u64 = 600;

pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The output file and the number of lines written. Bounds are asserted along the way.
pub struct Figures(File, usize);

impl Figures {
    pub fn open() -> Figures {
        let path =
            std::env::var("FIGURES").unwrap_or_else(|_| "target/simulation.jsonl".to_owned());
        Figures(File::create(path).expect("a file for the figures"), 0)
    }

    pub fn all(&mut self, users: u64) {
        for rate in rates::ALL {
            let (value, what, why) = (rate.value, rate.what, rate.why);
            self.line(&json!({"figure": "rate", "value": value, "what": what, "why": why}));
        }
        let victims = victims(users);
        self.by_location_and_software(&victims);
        self.by_token_use_and_time(&victims);
        self.outside(&victims);
        self.honest(users);
        self.curve(users);
    }

    /// Writes only the table of attackers by location.
    pub fn attackers_by_location(&mut self, users: u64) {
        self.by_location_and_software(&victims(users));
    }

    fn honest(&mut self, users: u64) {
        for lifetime in LIFETIMES {
            for (name, rules) in policies(lifetime) {
                let tally = parallel::simulate_users(&rules, 0..users);
                self.line(&honest(name, lifetime, &tally));
                // With fewer users, two or three false logins exceed the bound.
                if name == "enforce" && users >= MIN_USERS {
                    super::assert_few_false_logins(&tally);
                }
            }
        }
    }

    fn by_location_and_software(&mut self, victims: &Range<u64>) {
        let (token_use, use_time) = (TokenUse::FollowsRotation, UseTime::Immediately);
        let mut table = Table::new(&BY_LOCATION);
        for (location, software) in
            LOCATIONS.into_iter().flat_map(|location| SOFTWARE.map(|software| (location, software)))
        {
            let scenario = TheftScenario { location, software, token_use, use_time };
            let mut cells = Vec::new();
            for (name, rules) in policies(SessionLifetime::Workday) {
                if BY_LOCATION.contains(&name) {
                    let outcome = theft::simulate_theft(&rules, victims.clone(), scenario);
                    self.line(&attacker("location", name, rules.lifetime, scenario, &outcome));
                    cells.push(table::cell(&outcome));
                }
            }
            table.row(location, software, cells);
        }
        println!("\n{} tries a cell\n\n{table}", victims.end);
    }

    fn by_token_use_and_time(&mut self, victims: &Range<u64>) {
        let (location, software) = (AttackerLocation::Inside, AttackerSoftware::Same);
        for lifetime in LIFETIMES {
            for (token_use, use_time) in pairs() {
                let scenario = TheftScenario { location, software, token_use, use_time };
                let outcome = theft::simulate_theft(
                    &rules(SignalsMode::Off, lifetime),
                    victims.clone(),
                    scenario,
                );
                match (token_use, use_time) {
                    (TokenUse::FollowsRotation, UseTime::Immediately) => {
                        super::assert_detected_at_next_request(&outcome, &scenario);
                    }
                    (TokenUse::KeepsToken, _) => {
                        super::assert_denied_after_grace(&outcome, &scenario)
                    }
                    (TokenUse::FollowsRotation | TokenUse::InStepWithOwner, _) => {
                        assert_eq!(outcome.undetected_forks, 0, "{scenario:?}: {outcome:?}");
                    }
                }
                self.line(&attacker("token_use", "off", lifetime, scenario, &outcome));
            }
        }
    }

    fn outside(&mut self, victims: &Range<u64>) {
        let some = 0..(victims.end / 3).max(12);
        for (location, software) in OUTSIDE {
            for (token_use, use_time) in pairs() {
                let scenario = TheftScenario { location, software, token_use, use_time };
                let outcome = theft::simulate_theft(&ENFORCED, some.clone(), scenario);
                super::assert_stopped_at_first_request(&outcome, &scenario);
                self.line(&attacker(
                    "outside",
                    "enforce",
                    SessionLifetime::Workday,
                    scenario,
                    &outcome,
                ));
            }
        }
    }

    /// Writes false logins and stopped attackers by login threshold.
    fn curve(&mut self, users: u64) {
        for login_at in LOGIN_AT {
            let rules = with_login_at(ENFORCED, login_at);
            let tally = parallel::simulate_users(&rules, 0..users);
            let text = honest("curve", SessionLifetime::Workday, &tally);
            self.line(&json!({"figure": "threshold", "login_at": login_at, "honest": text}));
            for (location, software) in CURVE {
                let (token_use, use_time) = (TokenUse::FollowsRotation, UseTime::Immediately);
                let scenario = TheftScenario { location, software, token_use, use_time };
                let outcome = theft::simulate_theft(&rules, 0..40, scenario);
                let stopped = outcome.share(TheftOutcome::AtFirstRequest);
                let (location, software) = (format!("{location:?}"), format!("{software:?}"));
                self.line(&json!({"figure": "stopped", "login_at": login_at, "location": location,
                    "software": software, "share": stopped}));
            }
        }
    }

    fn line(&mut self, value: &Value) {
        writeln!(self.0, "{value}").expect("the file of the figures");
        self.1 += 1;
        eprint!("\r{} figures", self.1);
        if std::env::var("LOUD").is_ok() {
            println!("{value}");
        }
    }
}

fn victims(users: u64) -> Range<u64> {
    0..(users / 4).max(12)
}

fn pairs() -> impl Iterator<Item = (TokenUse, UseTime)> {
    TOKEN_USES.into_iter().flat_map(|token_use| USE_TIMES.map(|use_time| (token_use, use_time)))
}

fn policies(lifetime: SessionLifetime) -> [(&'static str, Policy); 7] {
    let enforced = Policy { lifetime, ..ENFORCED };
    let end = Thresholds { end: Some(100), ..ENFORCED.thresholds };
    [
        ("off", Policy { lifetime, ..OFF }),
        ("monitor", Policy { mode: SignalsMode::Monitor, ..enforced }),
        ("enforce", enforced),
        ("end_at = 100", Policy { thresholds: end, ..enforced }),
        ("login_at = 50", with_login_at(enforced, 50)),
        ("login_at = 40", with_login_at(enforced, 40)),
        ("login_at = 10", with_login_at(enforced, 10)),
    ]
}

/// Sets the login threshold and caps the lower ones at it.
fn with_login_at(rules: Policy, login_at: u32) -> Policy {
    let at_most = |score: Option<u32>| score.map(|score| score.min(login_at));
    let Thresholds { log, rotate: renew, end, .. } = rules.thresholds;
    let thresholds = Thresholds {
        log: at_most(log),
        rotate: at_most(renew),
        reauthenticate: Some(login_at),
        end,
    };
    Policy { thresholds, ..rules }
}

fn honest(policy: &str, lifetime: SessionLifetime, tally: &UserTally) -> Value {
    json!({
        "figure": "honest",
        "policy": policy,
        "lasting": format!("{lifetime:?}"),
        "days": tally.days,
        "requests": tally.requests,
        "logins": tally.logins,
        "crashes": tally.crashes,
        "false": tally.false_logins,
        "false_each_thousand": tally.per_thousand(tally.all_false()),
        "ends_each_thousand": tally.per_thousand(tally.false_ends()),
        "moves": tally.location_changes,
    })
}

fn attacker(
    table: &str,
    policy: &str,
    lifetime: SessionLifetime,
    scenario: TheftScenario,
    outcome: &Outcome,
) -> Value {
    let middle = outcome.tried / 2;
    json!({
        "figure": "attacker",
        "table": table,
        "policy": policy,
        "lasting": format!("{lifetime:?}"),
        "location": format!("{:?}", scenario.location),
        "software": format!("{:?}", scenario.software),
        "token_use": format!("{:?}", scenario.token_use),
        "moment": format!("{:?}", scenario.use_time),
        "tried": outcome.tried,
        "outcomes": outcome.outcomes,
        "refused": outcome.refused,
        "requests": [outcome.requests.get(middle), outcome.requests.last()],
        "seconds": [outcome.used.get(middle).map(|ms| ms / 1000), outcome.used.last().map(|ms| ms / 1000)],
        "detected_after_seconds": [outcome.detected_after.get(outcome.detected_after.len() / 2).map(|ms| ms / 1000), outcome.detected_after.last().map(|ms| ms / 1000)],
        "missed": outcome.undetected_forks,
        "caught": outcome.detected_forks,
    })
}
