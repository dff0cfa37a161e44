//! The invariants, checked from the outside: from requests, responses, losses and their times, not from
//! the record fields that `decide` maintains.

use std::collections::{HashMap, HashSet};

use doorward::session::{Change, Outcome, Record, Refusal, SessionFacts, SessionKey};

use super::plan::{Attacker, Plan};
use super::world::{Decision, Request, Sender};

/// The simulation's model of one session. A reading is the time on a gateway's clock; a moment is true
/// time. Both are in milliseconds.
pub struct SessionModel {
    pub key: SessionKey,
    pub created: u64,
    pub ended: Option<u64>,
    pub revoked: Option<u64>,
    /// Whether a crash restored one of its cookies, or lost one.
    pub crashed_back: bool,
    pub stolen: Option<u64>,
    /// Latest admitted activity, as a reading.
    pub activity: u64,
    /// The same as a moment plus the forward steps of the clocks.
    pub active_at: u64,
    /// Moment at which each generation was confirmed.
    pub confirmations: HashMap<u32, u64>,
    successors: HashMap<u32, [u8; 32]>,
    pub offers: HashMap<u32, Vec<Offered>>,
    active: u64,
}

/// One offer of a successor.
pub struct Offered {
    pub number: u64,
    pub counted: bool,
    pub delivery: Delivery,
}

/// What happens to a response that carries a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    InFlight,
    Lost,
    /// Stored in the cookie jar at this moment.
    Stored(u64),
    /// Lost again in a crash.
    Undone,
}

impl SessionModel {
    pub fn new(key: SessionKey, created: u64, active_at: u64) -> SessionModel {
        SessionModel {
            key,
            created,
            ended: None,
            revoked: None,
            crashed_back: false,
            stolen: None,
            activity: created,
            active_at,
            confirmations: HashMap::new(),
            successors: HashMap::new(),
            offers: HashMap::new(),
            active: created,
        }
    }
}

pub type Fault = Result<(), String>;

/// One finished decision with everything needed to check it.
pub struct DecisionCheck<'a> {
    pub plan: &'a Plan,
    pub request: &'a Request,
    pub decision: &'a Decision,
    pub stepped_back: u64,
    /// Moment of the attacker's first request.
    pub attacker_since: Option<u64>,
    /// Longest interval between two requests of the attacker.
    pub attacker_every: u64,
}

impl DecisionCheck<'_> {
    /// Checks S1 to S4 and S7 to S9 for one decision.
    pub fn check(&self, model: &mut SessionModel) -> Fault {
        match &self.decision.verdict.outcome {
            Outcome::Admit(_) => self.check_admitted(model)?,
            Outcome::Refuse(why) => self.check_refused(model, *why)?,
        }
        self.check_replay()?;
        self.check_one_successor(model)?;
        self.check_superseded()
    }

    fn check_admitted(&self, model: &SessionModel) -> Fault {
        let (now, at) = (self.decision.now.0, self.decision.loaded_at);
        let policy = &self.plan.policy;
        let absolute = model.created + policy.absolute().as_millis() as u64;
        check(now < absolute, "S1: admitted after the absolute timeout")?;
        let idle = policy.idle().as_millis() as u64;
        check(now < self.decision.activity + idle, "S9: admitted after the idle timeout")?;
        let is_past = |moment: Option<u64>| moment.is_some_and(|moment| moment < at);
        check(!is_past(model.ended), "S4: admitted after the end")?;
        check(!is_past(model.revoked), "S4: admitted after the user logged out everywhere")?;
        self.check_grace(model)?;
        self.check_rotation_ignored(model)
    }

    /// Checks S3 in true time, if the clocks did not step.
    fn check_grace(&self, model: &SessionModel) -> Fault {
        let plan = self.plan;
        let stepped = plan.steps_back || plan.wild_clocks;
        let next = self.request.cookie.generation + 1;
        let Some(confirmed) = model.confirmations.get(&next).filter(|_| !stepped) else {
            return Ok(());
        };
        let end = confirmed + plan.grace + 2 * plan.skew + 1;
        check(
            self.decision.loaded_at <= end,
            "S3: a superseded token is admitted after the grace period",
        )
    }

    /// Checks that an attacker who ignores every successor is refused in time. If the victim confirms at the
    /// last moment, the attacker's token becomes a superseded one, which S3 bounds.
    fn check_rotation_ignored(&self, model: &SessionModel) -> Fault {
        if model.confirmations.contains_key(&(self.request.cookie.generation + 1)) {
            return Ok(());
        }
        if self.request.by != Sender::Attacker || self.plan.attacker != Some(Attacker::Ignores) {
            return Ok(());
        }
        let plan = self.plan;
        let since = self.attacker_since.unwrap_or(self.decision.loaded_at);
        let counted = 3 * (plan.grace + self.attacker_every) + self.attacker_every;
        let bound = plan.rotate + counted + 2 * plan.skew + self.stepped_back + 1_000;
        check(
            self.decision.loaded_at <= since + bound,
            "S8: an attacker who ignores rotation is still admitted",
        )
    }

    fn check_refused(&self, model: &SessionModel, why: Refusal) -> Fault {
        match why {
            Refusal::Idle => self.check_not_early(),
            Refusal::Absolute => self.check_absolute(model),
            Refusal::Revoked => {
                check(model.revoked.is_some(), "refused as revoked without a revocation")
            }
            Refusal::Reauthenticate => Err("no route requires reauthentication".to_owned()),
            Refusal::SecretMismatch => {
                self.check_false_alarm(model, "S7: an honest token has a wrong secret")
            }
            Refusal::UnknownGeneration => {
                self.check_false_alarm(model, "S7: an honest token has an unknown generation")
            }
            Refusal::Theft => self.check_false_alarm(model, "S7: an honest client is an attacker"),
            Refusal::Superseded => self.check_past_grace(),
            Refusal::RestoredAfterCrash => self.check_crash(model),
            Refusal::RotationIgnored => self.check_lost_offers(model),
        }
    }

    fn check_not_early(&self) -> Fault {
        let policy = &self.plan.policy;
        let exact = (policy.idle() - policy.touch_interval()).as_millis() as u64;
        let idle_time =
            self.decision.passed.saturating_sub(self.decision.active_at) + 2 * self.plan.skew;
        check(idle_time >= exact, "S9: idle more than a sixtieth early")
    }

    fn check_absolute(&self, model: &SessionModel) -> Fault {
        let end = model.created + self.plan.policy.absolute().as_millis() as u64;
        check(self.decision.reading() >= end, "S1: the absolute timeout came early")
    }

    fn check_false_alarm(&self, model: &SessionModel, what: &str) -> Fault {
        let is_theft = what.ends_with("attacker");
        // If clocks differ by more than a grace period, a late request looks like a replay.
        let excused = model.stolen.is_some() || (is_theft && self.plan.wild_clocks);
        check(excused, what)
    }

    /// Checks that only the previous token is refused as superseded, and only between the shortened and
    /// the full grace period.
    fn check_past_grace(&self) -> Fault {
        let previous = self.decision.record.previous.as_ref();
        let (grace_until, theft_after) =
            previous.map_or((0, 0), |previous| (previous.grace_until.0, previous.theft_after.0));
        let behind = self.decision.record.generation - self.request.cookie.generation;
        let reading = self.decision.reading();
        let is_between = grace_until <= reading && reading < theft_after;
        check(behind == 1 && is_between, "S3: refused as superseded outside of that time")
    }

    fn check_crash(&self, model: &SessionModel) -> Fault {
        let is_honest = self.request.by != Sender::Attacker;
        check(is_honest, "S8: an attacker at another location is treated as a crash")?;
        let excused = model.crashed_back || model.stolen.is_some() || self.plan.wild_clocks;
        check(excused, "S7: after-crash without a crash")
    }

    fn check_lost_offers(&self, model: &SessionModel) -> Fault {
        if model.stolen.is_some() || self.plan.wild_clocks {
            return Ok(());
        }
        let offers = model.offers.get(&self.request.cookie.generation);
        let counted: Vec<_> = offers.into_iter().flatten().filter(|offer| offer.counted).collect();
        check(counted.len() >= 3, "not-renewing before three offers")?;
        let all_lost = counted.iter().all(|offer| self.is_lost_or_ignored(offer.delivery));
        check(all_lost, "S7: not-renewing although the browser stored a successor")
    }

    fn is_lost_or_ignored(&self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::Lost | Delivery::Undone => true,
            Delivery::InFlight => !self.plan.short,
            Delivery::Stored(at) => !self.plan.short && at > self.request.sent_at,
        }
    }

    /// Checks S8: an authentic old token after the grace period ends the session, unless a crash explains
    /// it.
    fn check_replay(&self) -> Fault {
        let (record, presented) = (&self.decision.record, self.request.cookie.generation);
        let has_expired = matches!(
            self.decision.verdict.outcome,
            Outcome::Refuse(Refusal::Revoked | Refusal::Absolute | Refusal::Idle)
        );
        if presented >= record.generation || has_expired {
            return Ok(());
        }
        let grace_until = record.previous.as_ref().map_or(0, |previous| previous.grace_until.0);
        let behind = record.generation - presented;
        if behind == 1 && self.decision.reading() < grace_until {
            return Ok(());
        }
        if behind == 1 && self.decision.verdict.outcome == Outcome::Refuse(Refusal::Superseded) {
            return self.check_past_grace();
        }
        let same_location = record.rotated_from.is_same_location(&self.request.context);
        if behind == 1
            && same_location
            && self.decision.verdict.outcome == Outcome::Refuse(Refusal::RestoredAfterCrash)
        {
            return Ok(());
        }
        let ended = matches!(self.decision.verdict.change, Change::End(_));
        check(ended, "S8: a replay did not end the session")
    }

    fn check_one_successor(&self, model: &mut SessionModel) -> Fault {
        let Outcome::Admit(Some(offered)) = &self.decision.verdict.outcome else {
            return Ok(());
        };
        let known = model.successors.entry(offered.generation).or_insert(offered.secret);
        check(*known == offered.secret, "S2: two successors of one token")
    }

    fn check_superseded(&self) -> Fault {
        let verdict = &self.decision.verdict;
        if self.request.cookie.generation >= self.decision.record.generation {
            return Ok(());
        }
        let changes = verdict.touch || matches!(verdict.change, Change::Write(_));
        let rotates = matches!(verdict.outcome, Outcome::Admit(Some(_)));
        check(!changes && !rotates, "S3: a superseded token rotates, touches or writes")
    }
}

/// Checks S4: no write and no touch moves the session back.
pub fn check_monotonic(
    model: &mut SessionModel,
    before: &Record,
    facts: &SessionFacts,
    next: &Record,
) -> Fault {
    let active = next.last_active.max(facts.touched).0;
    check(active >= model.active, "S4: activity moved back")?;
    model.active = active;
    check(next.generation >= before.generation, "S4: a generation moved back")?;
    check(next.absolute_end == before.absolute_end, "S1: the absolute end moved")?;
    check(next.created == before.created, "S1: the creation time moved")
}

/// Checks S6: no 32 stored bytes are the secret of any token.
pub fn check_no_secret(secrets: &HashSet<[u8; 32]>, sealed: &[u8], plain: &[u8]) -> Fault {
    let leaks = |bytes: &[u8]| bytes.windows(32).any(|window| secrets.contains(window));
    check(!leaks(sealed) && !leaks(plain), "S6: the store contains a token")
}

fn check(condition: bool, what: &str) -> Fault {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}
