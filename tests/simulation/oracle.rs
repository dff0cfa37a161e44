//! What must hold, judged from the outside: from what was sent, answered, lost and when, not from
//! the fields that `decide` keeps for itself.

use std::collections::{HashMap, HashSet};

use doorward::session::{Change, Outcome, Record, Refusal, SessionKey, Standing};

use crate::plan::{Plan, Thief};
use crate::world::{By, Request, Seen};

/// What the simulation knows about one session. Readings are gateway clocks in milliseconds,
/// moments are true time.
pub struct Ghost {
    pub key: SessionKey,
    pub created: u64,
    pub ended: Option<u64>,
    pub revoked: Option<u64>,
    pub crashed_back: bool,
    pub stolen: Option<u64>,
    /// The latest activity that was admitted, as a reading.
    pub activity: u64,
    /// The same as a moment, counted with the clocks' steps forward.
    pub active_at: u64,
    /// The moment at which each generation was confirmed.
    pub confirmations: HashMap<u32, u64>,
    successors: HashMap<u32, [u8; 32]>,
    pub offers: HashMap<u32, Vec<Offered>>,
    active: u64,
}

pub struct Offered {
    pub number: u64,
    pub counted: bool,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    OnItsWay,
    Lost,
    Kept(u64),
    Undone,
}

impl Ghost {
    pub fn new(key: SessionKey, created: u64, active_at: u64) -> Ghost {
        Ghost {
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

/// Everything about one finished decision.
pub struct Judged<'a> {
    pub plan: &'a Plan,
    pub request: &'a Request,
    pub seen: &'a Seen,
    pub stepped_back: u64,
    /// When the thief first used what he has.
    pub thief_since: Option<u64>,
    pub thief_every: u64,
}

impl Judged<'_> {
    /// S1 to S4, S7 to S9 for one decision.
    pub fn check(&self, ghost: &mut Ghost) -> Fault {
        match &self.seen.verdict.outcome {
            Outcome::Admit(_) => self.admitted(ghost)?,
            Outcome::Refuse(why) => self.refused(ghost, *why)?,
        }
        self.replayed()?;
        self.one_successor(ghost)?;
        self.superseded()
    }

    fn admitted(&self, ghost: &Ghost) -> Fault {
        let (now, at) = (self.seen.now.0, self.seen.loaded_at);
        let policy = &self.plan.policy;
        let absolute = ghost.created + policy.absolute().as_millis() as u64;
        holds(now < absolute, "S1: admitted after the absolute timeout")?;
        let idle = policy.idle().as_millis() as u64;
        holds(now < self.seen.activity + idle, "S9: admitted after the idle timeout")?;
        let over = |moment: Option<u64>| moment.is_some_and(|moment| moment < at);
        holds(!over(ghost.ended), "S4: admitted after the end")?;
        holds(!over(ghost.revoked), "S4: admitted after the user logged out everywhere")?;
        self.dead_after_grace(ghost)?;
        self.starves(ghost)
    }

    /// S3 in true time, where the clocks did not step.
    fn dead_after_grace(&self, ghost: &Ghost) -> Fault {
        let plan = self.plan;
        let stepped = plan.steps_back || plan.wild_clocks;
        let next = self.request.cookie.generation + 1;
        let Some(confirmed) = ghost.confirmations.get(&next).filter(|_| !stepped) else {
            return Ok(());
        };
        let dead = confirmed + plan.grace + 2 * plan.skew + 1;
        holds(self.seen.loaded_at <= dead, "S3: a superseded token lives after grace")
    }

    /// A thief who takes no new token is refused in time. When the victim confirms at the last moment,
    /// his token is a superseded one from then on, and S3 bounds it by one grace more.
    fn starves(&self, ghost: &Ghost) -> Fault {
        if ghost.confirmations.contains_key(&(self.request.cookie.generation + 1)) {
            return Ok(());
        }
        if self.request.by != By::Thief || self.plan.thief != Some(Thief::Ignores) {
            return Ok(());
        }
        let plan = self.plan;
        let since = self.thief_since.unwrap_or(self.seen.loaded_at);
        let counted = 3 * (plan.grace + self.thief_every) + self.thief_every;
        let bound = plan.rotate + counted + 2 * plan.skew + self.stepped_back + 1_000;
        holds(self.seen.loaded_at <= since + bound, "S8: a thief who ignores renewal lives on")
    }

    fn refused(&self, ghost: &Ghost, why: Refusal) -> Fault {
        match why {
            Refusal::Idle => self.not_early(),
            Refusal::Absolute => self.absolute_reached(ghost),
            Refusal::Revoked => holds(ghost.revoked.is_some(), "revoked by nobody"),
            Refusal::Reauthenticate => Err("no route asked for it".to_owned()),
            Refusal::Mismatch => self.false_alarm(ghost, "S7: an honest token is a forgery"),
            Refusal::Future => self.false_alarm(ghost, "S7: an honest token is from the future"),
            Refusal::Theft => self.false_alarm(ghost, "S7: an honest client is a thief"),
            Refusal::Superseded => self.too_late(),
            Refusal::AfterCrash => self.crashed(ghost),
            Refusal::NotRenewing => self.offers_were_lost(ghost),
        }
    }

    fn not_early(&self) -> Fault {
        let policy = &self.plan.policy;
        let exact = (policy.idle() - policy.touch_every()).as_millis() as u64;
        let quiet = self.seen.passed.saturating_sub(self.seen.active_at) + 2 * self.plan.skew;
        holds(quiet >= exact, "S9: idle more than a sixtieth early")
    }

    fn absolute_reached(&self, ghost: &Ghost) -> Fault {
        let end = ghost.created + self.plan.policy.absolute().as_millis() as u64;
        holds(self.seen.reading() >= end, "S1: the absolute timeout came early")
    }

    fn false_alarm(&self, ghost: &Ghost, what: &str) -> Fault {
        let theft = what.ends_with("thief");
        // Clocks apart by more than a grace cannot tell a straggler from a replay.
        let excused = ghost.stolen.is_some() || (theft && self.plan.wild_clocks);
        holds(excused, what)
    }

    /// Only between the short grace of a sensitive action and the whole one, and only the token before.
    fn too_late(&self) -> Fault {
        let previous = self.seen.record.previous.as_ref();
        let (until, alarm) = previous.map_or((0, 0), |it| (it.until.0, it.alarm.0));
        let behind = self.seen.record.generation - self.request.cookie.generation;
        let within = until <= self.seen.reading() && self.seen.reading() < alarm;
        holds(behind == 1 && within, "S3: superseded, and neither late nor a replay")
    }

    fn crashed(&self, ghost: &Ghost) -> Fault {
        let honest = self.request.by != By::Thief;
        holds(honest, "S8: a thief from elsewhere is taken for a crash")?;
        let excused = ghost.crashed_back || ghost.stolen.is_some() || self.plan.wild_clocks;
        holds(excused, "S7: after-crash without a crash")
    }

    fn offers_were_lost(&self, ghost: &Ghost) -> Fault {
        if ghost.stolen.is_some() || self.plan.wild_clocks {
            return Ok(());
        }
        let offers = ghost.offers.get(&self.request.cookie.generation);
        let counted: Vec<_> = offers.into_iter().flatten().filter(|offer| offer.counted).collect();
        holds(counted.len() >= 3, "not-renewing before three offers")?;
        let lost = counted.iter().all(|offer| self.ignored(offer.fate));
        holds(lost, "S7: not-renewing although an offer was kept")
    }

    fn ignored(&self, fate: Fate) -> bool {
        match fate {
            Fate::Lost | Fate::Undone => true,
            Fate::OnItsWay => !self.plan.short,
            Fate::Kept(at) => !self.plan.short && at > self.request.sent_at,
        }
    }

    /// S8: whoever shows an authentic old token after grace ends the session, unless a crash
    /// explains it.
    fn replayed(&self) -> Fault {
        let (record, shown) = (&self.seen.record, self.request.cookie.generation);
        let over = matches!(
            self.seen.verdict.outcome,
            Outcome::Refuse(Refusal::Revoked | Refusal::Absolute | Refusal::Idle)
        );
        if shown >= record.generation || over {
            return Ok(());
        }
        let until = record.previous.as_ref().map_or(0, |previous| previous.until.0);
        let behind = record.generation - shown;
        if behind == 1 && self.seen.reading() < until {
            return Ok(());
        }
        if behind == 1 && self.seen.verdict.outcome == Outcome::Refuse(Refusal::Superseded) {
            return self.too_late();
        }
        let place = record.renewed_from.same_place(&self.request.context);
        if behind == 1 && place && self.seen.verdict.outcome == Outcome::Refuse(Refusal::AfterCrash)
        {
            return Ok(());
        }
        let ended = matches!(self.seen.verdict.change, Change::End(_));
        holds(ended, "S8: a replay did not end the session")
    }

    fn one_successor(&self, ghost: &mut Ghost) -> Fault {
        let Outcome::Admit(Some(offered)) = &self.seen.verdict.outcome else {
            return Ok(());
        };
        let known = ghost.successors.entry(offered.generation).or_insert(offered.secret);
        holds(*known == offered.secret, "S2: two successors of one token")
    }

    fn superseded(&self) -> Fault {
        let verdict = &self.seen.verdict;
        if self.request.cookie.generation >= self.seen.record.generation {
            return Ok(());
        }
        let quiet = !verdict.touch && !matches!(verdict.change, Change::Write(_));
        let renews = matches!(verdict.outcome, Outcome::Admit(Some(_)));
        holds(quiet && !renews, "S3: a superseded token renews, touches or writes")
    }
}

/// S4: no write and no touch moves the session back.
pub fn never_back(ghost: &mut Ghost, before: &Record, standing: &Standing, next: &Record) -> Fault {
    let active = next.active.max(standing.touched).0;
    holds(active >= ghost.active, "S4: activity moved back")?;
    ghost.active = active;
    holds(next.generation >= before.generation, "S4: a generation moved back")?;
    holds(next.absolute_end == before.absolute_end, "S1: the absolute end moved")?;
    holds(next.created == before.created, "S1: the beginning moved")
}

/// S6: no 32 bytes that lie in the store are the secret of any token.
pub fn no_secret(secrets: &HashSet<[u8; 32]>, sealed: &[u8], plain: &[u8]) -> Fault {
    let leaks = |bytes: &[u8]| bytes.windows(32).any(|window| secrets.contains(window));
    holds(!leaks(sealed) && !leaks(plain), "S6: a token lies in the store")
}

fn holds(condition: bool, what: &str) -> Fault {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}
