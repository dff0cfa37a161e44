//! The event loop: time, gateways, browsers, thief and store, one event at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::secret::KeyRing;
use doorward::session::{
    Case, Change, ClientContext, Identity, Outcome, Record, Refusal, RoutePolicy, SessionId,
    SessionKey, Standing, Successor, Timing, Token, UserTag, Verdict, decide,
};

use crate::browser::{Browser, Cookie, place, thiefs_place};
use crate::oracle::{Fate, Fault, Ghost, Judged, Offered, never_back, no_secret};
use crate::plan::{Plan, Rng, Thief};
use crate::store::{Slot, Store};

/// What gateway clocks show at moment zero.
const START: u64 = 1_700_000_000_000;
const SYNC: u64 = 30_000;
const GATEWAYS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Browser(usize),
    Thief,
    /// A request of the burst test.
    Burst,
}

pub struct Request {
    pub by: By,
    pub cookie: Cookie,
    pub context: ClientContext,
    pub sent_at: u64,
    life: u32,
    gateway: usize,
    timing: Timing,
    activity: bool,
    seen: Option<Seen>,
}

/// One load and what was decided from it.
pub struct Seen {
    pub loaded_at: u64,
    pub now: UnixMillis,
    pub record: Record,
    pub verdict: Verdict,
    /// The latest activity admitted by then.
    pub activity: u64,
    pub active_at: u64,
    /// The moment of the load, counted with the clocks' steps forward.
    pub passed: u64,
    standing: Standing,
    revision: u64,
}

impl Seen {
    /// Time as far as the session has seen it.
    pub fn reading(&self) -> u64 {
        let known = self.record.active.max(self.standing.touched).max(self.record.current_since);
        self.now.max(known).0
    }
}

enum Event {
    Visit { browser: usize, life: u32 },
    Fetch { browser: usize, life: u32, activity: bool },
    Poll { browser: usize, life: u32 },
    Arrive(u64),
    Commit(u64),
    Answer { request: u64, answer: Answer },
    Sync(usize),
    Crash(usize),
    Restart(usize),
    Login { browser: usize, life: u32 },
    Roam(usize),
    Drift,
    StepBack,
    StepForward,
    LogOutEverywhere,
    RotateKeys,
    Steal,
    ThiefActs,
}

/// What comes back, apart from the page.
enum Answer {
    Page(Option<(u64, Cookie)>),
    LoginPage,
}

/// How often what happened; a simulation in which nothing happens proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub admitted: u64,
    pub renewals: u64,
    pub superseded: u64,
    pub lost_swaps: u64,
    pub crashes: u64,
    pub after_crash: u64,
    pub idle: u64,
    pub absolute: u64,
    pub revoked: u64,
    pub not_renewing: u64,
    pub thefts_found: u64,
    pub thief_admitted: u64,
    /// Sessions in which thief and victim held the same token after a renewal: both had asked with
    /// the old one before either confirmed the new one. The token alone cannot tell them apart.
    pub in_step: u64,
    /// Those of them in which the session still lived at the horizon, and nobody was alarmed.
    pub in_step_to_the_end: u64,
    /// Alarms that clocks caused, where clocks may do as they like.
    pub false_alarms: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.admitted += other.admitted;
        self.renewals += other.renewals;
        self.superseded += other.superseded;
        self.lost_swaps += other.lost_swaps;
        self.crashes += other.crashes;
        self.after_crash += other.after_crash;
        self.idle += other.idle;
        self.absolute += other.absolute;
        self.revoked += other.revoked;
        self.not_renewing += other.not_renewing;
        self.thefts_found += other.thefts_found;
        self.thief_admitted += other.thief_admitted;
        self.in_step += other.in_step;
        self.in_step_to_the_end += other.in_step_to_the_end;
        self.false_alarms += other.false_alarms;
    }
}

pub struct World {
    pub plan: Plan,
    pub tell: bool,
    pub story: Vec<String>,
    rng: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    serial: u64,
    keys: KeyRing,
    store: Store,
    common: i64,
    offsets: [i64; GATEWAYS],
    stepped_back: u64,
    stepped_forward: u64,
    browsers: Vec<Browser>,
    ghosts: Vec<Ghost>,
    secrets: HashSet<[u8; 32]>,
    requests: BTreeMap<u64, Request>,
    /// Answers that have not arrived.
    answers: usize,
    thief: Robber,
    tally: Tally,
}

/// What the thief has and how he uses it.
struct Robber {
    cookie: Option<Cookie>,
    /// The generation that he copied.
    copied: u32,
    first_used: Option<u64>,
    every: u64,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let thief =
            Robber { cookie: None, copied: 0, first_used: None, every: rng.between(1_000, 45_000) };
        let browsers = (0..plan.browsers).map(Browser::new).collect();
        World {
            rng,
            thief,
            browsers,
            plan,
            tell: false,
            story: Vec::new(),
            now: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            serial: 0,
            keys: KeyRing::generate("start"),
            store: Store::default(),
            common: 0,
            offsets: [0; GATEWAYS],
            stepped_back: 0,
            stepped_forward: 0,
            ghosts: Vec::new(),
            secrets: HashSet::new(),
            requests: BTreeMap::new(),
            answers: 0,
            tally: Tally::default(),
        }
    }

    /// Runs to the horizon; the first broken invariant stops it.
    pub fn run(&mut self) -> Result<Tally, String> {
        self.prepare();
        while let Some(event) = self.next_event() {
            if self.now > self.plan.horizon {
                break;
            }
            self.happen(event).map_err(|fault| format!("at {} ms: {fault}", self.now))?;
        }
        let alive = self
            .ghosts
            .iter()
            .any(|ghost| ghost.stolen.is_some() && ghost.ended.or(ghost.revoked).is_none());
        self.tally.in_step_to_the_end = if alive { self.tally.in_step } else { 0 };
        Ok(self.tally.clone())
    }

    /// `count` parallel requests with one token that is due, through both gateways: how many were
    /// admitted.
    pub fn burst(&mut self, count: usize) -> Result<usize, String> {
        self.log_in(0);
        let cookie = self.browsers[0].jar.clone().ok_or("no login")?;
        self.now = self.plan.rotate + 1;
        for number in 0..count {
            let context = self.browsers[0].context.clone();
            let id = self.send(By::Burst, cookie.clone(), context, Timing::Prompt, true);
            if let Some(request) = self.requests.get_mut(&id) {
                request.gateway = number % GATEWAYS;
            }
            let pause = self.rng.between(0, 30);
            self.after(pause, Event::Arrive(id));
        }
        while let Some(event) = self.next_event() {
            self.happen(event)?;
        }
        let confirmed = self.store.load(&self.ghosts[0].key);
        let Some((Slot::Live { revision: 2, .. }, _)) = confirmed else {
            return Err("not one write, but more or less".to_owned());
        };
        Ok(self.tally.admitted as usize)
    }

    fn prepare(&mut self) {
        for browser in 0..self.browsers.len() {
            self.log_in(browser);
            let pause = self.rng.between(0, SYNC);
            self.after(pause, Event::Sync(browser));
            self.open_tabs(browser);
            self.sometimes(self.plan.crashes, 12, Event::Crash(browser));
            self.sometimes(self.plan.roams, 10, Event::Roam(browser));
        }
        self.sometimes(self.plan.skew > 0, 1, Event::Drift);
        self.sometimes(self.plan.steps_back, 20, Event::StepBack);
        self.sometimes(self.plan.steps_forward, 20, Event::StepForward);
        self.sometimes(self.plan.logs_out, 40, Event::LogOutEverywhere);
        self.sometimes(self.plan.rotates_keys, 30, Event::RotateKeys);
        self.sometimes(self.plan.thief.is_some(), 10, Event::Steal);
    }

    fn open_tabs(&mut self, browser: usize) {
        let life = self.browsers[browser].life;
        let pause = self.rng.between(0, 3_000);
        self.after(pause, Event::Visit { browser, life });
        if self.plan.polls {
            self.after(pause + 10_000, Event::Poll { browser, life });
        }
    }

    /// Schedules `event` within some `minutes`, if the plan has it.
    fn sometimes(&mut self, wanted: bool, minutes: u64, event: Event) {
        if wanted {
            let pause = self.rng.between(1, minutes * 60_000);
            self.after(pause, event);
        }
    }

    fn after(&mut self, pause: u64, event: Event) {
        self.serial += 1;
        self.events.insert(self.serial, event);
        self.queue.push(Reverse((self.now + pause, self.serial)));
    }

    fn next_event(&mut self) -> Option<Event> {
        let Reverse((at, serial)) = self.queue.pop()?;
        self.now = at;
        self.events.remove(&serial)
    }

    fn happen(&mut self, event: Event) -> Fault {
        match event {
            Event::Visit { browser, life } => self.visit(browser, life),
            Event::Fetch { browser, life, activity } => self.fetch(browser, life, activity),
            Event::Poll { browser, life } => self.poll(browser, life),
            Event::Arrive(request) => self.arrive(request)?,
            Event::Commit(request) => self.commit(request)?,
            Event::Answer { request, answer } => self.answered(request, answer),
            Event::Sync(browser) => self.sync(browser),
            Event::Crash(browser) => self.crash(browser),
            Event::Restart(browser) => self.restart(browser),
            Event::Login { browser, life } => self.login_page(browser, life),
            Event::Roam(browser) => self.roam(browser),
            Event::Drift => self.drift(),
            Event::StepBack => self.step_back(),
            Event::StepForward => self.step_forward(),
            Event::LogOutEverywhere => self.log_out_everywhere(),
            Event::RotateKeys => drop(self.keys.rotate("later")),
            Event::Steal => self.steal(),
            Event::ThiefActs => self.thief_acts(),
        }
        Ok(())
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tell {
            self.story.push(format!("{:>9} {}", self.now, line()));
        }
    }

    fn reading(&self, gateway: usize) -> UnixMillis {
        let shown = START as i64 + self.now as i64 + self.common + self.offsets[gateway];
        UnixMillis(shown as u64)
    }

    fn any_gateway(&mut self) -> usize {
        self.rng.between(0, GATEWAYS as u64 - 1) as usize
    }

    // --- browsers ---------------------------------------------------------------------------

    /// A page: one navigation and what it embeds; then the user reads.
    fn visit(&mut self, browser: usize, life: u32) {
        if self.browsers[browser].life != life {
            return;
        }
        for part in 0..self.rng.between(1, 6) {
            let pause = if part == 0 { 0 } else { self.rng.between(20, 1_500) };
            self.after(pause, Event::Fetch { browser, life, activity: true });
        }
        let reading = match self.rng.between(0, 99) {
            0..60 => self.rng.between(1_000, 20_000),
            60..90 => self.rng.between(20_000, 120_000),
            90..98 => self.rng.between(120_000, 900_000),
            98.. => self.rng.between(900_000, 2_400_000),
        };
        self.after(reading, Event::Visit { browser, life });
    }

    fn poll(&mut self, browser: usize, life: u32) {
        if self.browsers[browser].life != life {
            return;
        }
        self.after(0, Event::Fetch { browser, life, activity: false });
        let pause = self.rng.between(10_000, 40_000);
        self.after(pause, Event::Poll { browser, life });
    }

    fn fetch(&mut self, browser: usize, life: u32, activity: bool) {
        let it = &self.browsers[browser];
        let (Some(cookie), true) = (it.jar.clone(), it.life == life && !it.logging_in) else {
            return;
        };
        let context = it.context.clone();
        // Now and then a sensitive action.
        let timing = if self.rng.percent(3) { Timing::Now } else { Timing::Prompt };
        let id = self.send(By::Browser(browser), cookie, context, timing, activity);
        let late = self.rng.percent(10);
        let pause = self.rng.between(5, if late { self.plan.uplink } else { 150 });
        self.after(pause, Event::Arrive(id));
    }

    fn send(
        &mut self,
        by: By,
        cookie: Cookie,
        context: ClientContext,
        timing: Timing,
        activity: bool,
    ) -> u64 {
        self.serial += 1;
        let life = match by {
            By::Browser(browser) => self.browsers[browser].life,
            By::Thief | By::Burst => 0,
        };
        let gateway = self.any_gateway();
        let sent_at = self.now;
        let request =
            Request { by, cookie, context, sent_at, life, gateway, timing, activity, seen: None };
        self.requests.insert(self.serial, request);
        self.serial
    }

    fn sync(&mut self, browser: usize) {
        let it = &mut self.browsers[browser];
        if it.running {
            it.disk = it.jar.clone();
        }
        self.after(SYNC, Event::Sync(browser));
    }

    fn crash(&mut self, browser: usize) {
        self.tally.crashes += 1;
        let lost = self.browsers[browser].crash();
        let back = self.browsers[browser].jar.clone();
        self.note(|| format!("browser {browser} crashes: lost {lost:?}, back to {back:?}"));
        if let Some(lost) = lost {
            self.undo(&lost, back.as_ref());
        }
        let pause = self.rng.between(500, 40_000);
        self.after(pause, Event::Restart(browser));
        self.sometimes(true, 12, Event::Crash(browser));
    }

    /// Offers whose token is gone with the crash.
    fn undo(&mut self, lost: &Cookie, back: Option<&Cookie>) {
        for cookie in std::iter::once(lost).chain(back) {
            self.ghosts[cookie.session].crashed_back = true;
        }
        let same = back.filter(|back| back.session == lost.session);
        let kept = same.map_or(0, |back| back.generation);
        for (asked, offers) in &mut self.ghosts[lost.session].offers {
            for offer in offers.iter_mut().filter(|_| *asked >= kept) {
                if matches!(offer.fate, Fate::Kept(_)) {
                    offer.fate = Fate::Undone;
                }
            }
        }
    }

    fn restart(&mut self, browser: usize) {
        self.browsers[browser].running = true;
        if self.browsers[browser].jar.is_none() {
            self.log_in(browser);
        }
        self.open_tabs(browser);
    }

    fn login_page(&mut self, browser: usize, life: u32) {
        if self.browsers[browser].life == life {
            self.log_in(browser);
        }
    }

    /// A new session with a new id; the old cookie is overwritten.
    fn log_in(&mut self, browser: usize) {
        let user = format!("user-{browser}");
        let tag = UserTag(self.keys.tag_of(&user));
        let key = SessionKey { tag, id: SessionId(self.rng.bytes()) };
        let gateway = self.any_gateway();
        let line = self.store.line(&tag).at.plus(Duration::from_millis(1));
        let at = self.reading(gateway).max(line);
        let first = Successor { generation: 0, secret: self.rng.bytes() };
        let token = Token::new(self.keys.newest().0, key, 0, first.secret);
        let end = at.plus(self.plan.policy.absolute());
        let identity = Identity { user, ..Identity::default() };
        let record =
            Record::begin(identity, &token, at, end, self.browsers[browser].context.clone());
        self.store.create(key, record.seal(&self.keys, &key));
        self.ghosts.push(Ghost::new(key, at.0, self.now + self.stepped_forward));
        let cookie = self.mint(self.ghosts.len() - 1, &first);
        self.note(|| format!("browser {browser} logs in: session {}", cookie.session));
        self.browsers[browser].jar = Some(cookie);
        self.browsers[browser].logging_in = false;
    }

    fn mint(&mut self, session: usize, made: &Successor) -> Cookie {
        let key = self.ghosts[session].key;
        self.secrets.insert(made.secret);
        let token = Token::new(self.keys.newest().0, key, made.generation, made.secret);
        let text = token.text(&self.keys).expect("the newest key is in the ring");
        Cookie { text: Rc::from(text.as_str()), session, generation: made.generation }
    }

    fn roam(&mut self, browser: usize) {
        let moved = self.rng.between(0, 200) as u8;
        self.browsers[browser].context = place(browser as u8, moved);
        self.sometimes(true, 10, Event::Roam(browser));
    }

    // --- gateways ---------------------------------------------------------------------------

    /// Load and decide.
    fn arrive(&mut self, id: u64) -> Fault {
        let Some(mut request) = self.requests.remove(&id) else {
            return Ok(());
        };
        let Ok(token) = Token::parse(&self.keys, request.cookie.text.as_bytes()) else {
            return Err("a token of ours does not read back".to_owned());
        };
        let Some((slot, standing)) = self.store.load(&token.key) else {
            return Err("a session is absent".to_owned());
        };
        let Slot::Live { revision, sealed } = slot else {
            self.finish_refused(id, &request, "ended");
            return Ok(());
        };
        let record = Record::open(&self.keys, &token.key, &sealed)
            .map_err(|error| format!("a record does not open: {error}"))?;
        request.seen = Some(self.decide(&request, &token, record, standing, revision));
        self.requests.insert(id, request);
        let pause = if self.rng.percent(90) { self.rng.between(0, 20) } else { 300 };
        self.after(pause, Event::Commit(id));
        Ok(())
    }

    fn decide(
        &mut self,
        request: &Request,
        token: &Token,
        record: Record,
        standing: Standing,
        revision: u64,
    ) -> Seen {
        let now = self.reading(request.gateway);
        let salt = self.rng.bytes();
        let verdict = decide(&Case {
            record: &record,
            standing: &standing,
            presented: token,
            keys: &self.keys,
            now,
            salt: &|| salt,
            context: &request.context,
            session: &self.plan.policy,
            route: &RoutePolicy::default(),
            timing: request.timing,
            activity: request.activity,
            demand: None,
        });
        let ghost = &self.ghosts[request.cookie.session];
        let (activity, active_at) = (ghost.activity, ghost.active_at);
        let passed = self.now + self.stepped_forward;
        Seen {
            loaded_at: self.now,
            now,
            record,
            verdict,
            activity,
            active_at,
            passed,
            standing,
            revision,
        }
    }

    /// Compare and swap; whoever loses loads and decides again.
    fn commit(&mut self, id: u64) -> Fault {
        let Some(mut request) = self.requests.remove(&id) else {
            return Ok(());
        };
        let Some(seen) = request.seen.take() else {
            return Ok(());
        };
        let key = self.ghosts[request.cookie.session].key;
        let mut won = true;
        match &seen.verdict.change {
            Change::Keep => {}
            Change::Write(next) => won = self.swap(&request, &seen, next)?,
            Change::End(reason) => self.store.end(key, *reason),
            Change::EndAllOfUser(_) => return Err("no plan asks for it".to_owned()),
        }
        if !won {
            self.tally.lost_swaps += 1;
            self.requests.insert(id, request);
            let pause = self.rng.between(0, 5);
            self.after(pause, Event::Arrive(id));
            return Ok(());
        }
        if seen.verdict.touch {
            self.store.touch(key, seen.now);
        }
        self.judge(&request, &seen)?;
        self.finish(id, request, seen);
        Ok(())
    }

    fn swap(&mut self, request: &Request, seen: &Seen, next: &Record) -> Result<bool, String> {
        let session = request.cookie.session;
        let key = self.ghosts[session].key;
        let sealed = next.seal(&self.keys, &key);
        let plain = postcard::to_allocvec(next).map_err(|error| error.to_string())?;
        let offered = match &seen.verdict.outcome {
            Outcome::Admit(offered) => offered.as_ref(),
            Outcome::Refuse(_) => None,
        };
        self.secrets.extend(offered.map(|offered| offered.secret));
        no_secret(&self.secrets, &sealed, &plain)?;
        if !self.store.commit(&key, seen.revision, sealed) {
            return Ok(false);
        }
        let (_, standing) = self.store.load(&key).ok_or("just written, and absent")?;
        never_back(&mut self.ghosts[session], &seen.record, &standing, next)?;
        if next.generation > seen.record.generation {
            self.tally.renewals += 1;
            self.ghosts[session].confirmations.insert(next.generation, self.now);
        }
        Ok(true)
    }

    fn judge(&mut self, request: &Request, seen: &Seen) -> Fault {
        let line = |verdict: &Verdict| format!("{:?} {:?}", verdict.outcome, change(verdict));
        self.note(|| {
            format!(
                "{:?} sent at {} generation {} of session {} to gateway {} ({:?}); record at {}: {}",
                request.by,
                request.sent_at,
                request.cookie.generation,
                request.cookie.session,
                request.gateway,
                request.timing,
                seen.record.generation,
                line(&seen.verdict)
            )
        });
        let judged = Judged {
            plan: &self.plan,
            request,
            seen,
            stepped_back: self.stepped_back,
            thief_since: self.thief.first_used,
            thief_every: self.thief.every,
        };
        let ghost = &mut self.ghosts[request.cookie.session];
        judged.check(ghost)?;
        if matches!(seen.verdict.change, Change::End(_)) {
            ghost.ended.get_or_insert(self.now);
        }
        let current = request.cookie.generation >= seen.record.generation;
        let admitted = matches!(seen.verdict.outcome, Outcome::Admit(_));
        if admitted && current && request.activity {
            ghost.activity = ghost.activity.max(seen.reading());
            ghost.active_at = ghost.active_at.max(seen.passed);
        }
        self.count(request, seen);
        Ok(())
    }

    fn count(&mut self, request: &Request, seen: &Seen) {
        let behind = request.cookie.generation < seen.record.generation;
        let stolen = self.ghosts[request.cookie.session].stolen.is_some();
        let tally = &mut self.tally;
        match &seen.verdict.outcome {
            Outcome::Admit(_) => {
                tally.admitted += 1;
                tally.superseded += u64::from(behind);
                tally.thief_admitted += u64::from(request.by == By::Thief);
            }
            Outcome::Refuse(Refusal::Theft) if stolen => tally.thefts_found += 1,
            Outcome::Refuse(Refusal::Theft) => tally.false_alarms += 1,
            Outcome::Refuse(Refusal::AfterCrash) => tally.after_crash += 1,
            Outcome::Refuse(Refusal::Idle) => tally.idle += 1,
            Outcome::Refuse(Refusal::Absolute) => tally.absolute += 1,
            Outcome::Refuse(Refusal::Revoked) => tally.revoked += 1,
            Outcome::Refuse(Refusal::NotRenewing) => tally.not_renewing += 1,
            Outcome::Refuse(
                Refusal::Future | Refusal::Mismatch | Refusal::Reauthenticate | Refusal::Superseded,
            ) => {}
        }
        let thiefs = self.thief.cookie.as_ref();
        let same = thiefs.is_some_and(|thiefs| {
            let renewed = thiefs.generation > self.thief.copied;
            renewed && request.by != By::Thief && request.cookie == *thiefs
        });
        self.tally.in_step |= u64::from(same);
    }

    fn finish(&mut self, id: u64, request: Request, seen: Seen) {
        match seen.verdict.outcome.clone() {
            Outcome::Refuse(why) => self.finish_refused(id, &request, why.word()),
            Outcome::Admit(offered) => {
                let counted = counts(&seen);
                let set = offered.map(|made| {
                    let cookie = self.mint(request.cookie.session, &made);
                    let offers = &mut self.ghosts[request.cookie.session].offers;
                    let offers = offers.entry(request.cookie.generation).or_default();
                    offers.push(Offered { number: id, counted, fate: Fate::OnItsWay });
                    (id, cookie)
                });
                self.reply(id, &request, Answer::Page(set));
            }
        }
        self.requests.insert(id, request);
    }

    fn finish_refused(&mut self, id: u64, request: &Request, why: &str) {
        self.note(|| {
            format!("{:?} session {}: refused, {why}", request.by, request.cookie.session)
        });
        self.reply(id, request, Answer::LoginPage);
        // The answer needs to know whose it is.
        let again = Request {
            by: request.by,
            cookie: request.cookie.clone(),
            context: request.context.clone(),
            seen: None,
            ..*request
        };
        self.requests.insert(id, again);
    }

    fn reply(&mut self, request: u64, to: &Request, answer: Answer) {
        let late = self.rng.percent(15);
        let pause = match to.by {
            By::Browser(_) if late => self.rng.between(50, self.plan.downlink),
            By::Browser(_) | By::Thief | By::Burst => self.rng.between(5, 200),
        };
        self.answers += 1;
        self.after(pause, Event::Answer { request, answer });
    }

    fn answered(&mut self, id: u64, answer: Answer) {
        self.answers -= 1;
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        match request.by {
            By::Burst => {}
            By::Thief => self.thief_hears(answer),
            By::Browser(browser) => self.browser_hears(browser, &request, answer),
        }
    }

    fn browser_hears(&mut self, browser: usize, request: &Request, answer: Answer) {
        let gone = self.browsers[browser].life != request.life;
        let lost = gone || self.rng.percent(self.plan.lost_percent);
        match answer {
            Answer::Page(None) => {}
            Answer::Page(Some((number, cookie))) => {
                let fate = if lost { Fate::Lost } else { Fate::Kept(self.now) };
                let offers = self.ghosts[cookie.session].offers.get_mut(&request.cookie.generation);
                let offer = offers.into_iter().flatten().find(|offer| offer.number == number);
                offer.into_iter().for_each(|offer| offer.fate = fate);
                self.note(|| {
                    format!(
                        "browser {browser} is answered with generation {} of session {}: {fate:?}",
                        cookie.generation, cookie.session
                    )
                });
                if !lost {
                    self.browsers[browser].jar = Some(cookie);
                }
            }
            Answer::LoginPage => self.asked_to_log_in(browser, request, lost),
        }
    }

    fn asked_to_log_in(&mut self, browser: usize, request: &Request, lost: bool) {
        let it = &mut self.browsers[browser];
        let still = it.jar.as_ref().is_some_and(|jar| jar.session == request.cookie.session);
        if lost || it.logging_in || !still {
            return;
        }
        it.logging_in = true;
        let life = it.life;
        let pause = self.rng.between(1_000, 20_000);
        self.after(pause, Event::Login { browser, life });
    }

    // --- clocks and operators ---------------------------------------------------------------

    fn drift(&mut self) {
        let gateway = self.any_gateway();
        let skew = self.plan.skew;
        self.offsets[gateway] = self.rng.between(0, 2 * skew) as i64 - skew as i64;
        let offsets = self.offsets;
        self.note(|| format!("the gateways' clocks are {offsets:?} off"));
        self.sometimes(true, if self.plan.wild_clocks { 15 } else { 3 }, Event::Drift);
    }

    fn step_back(&mut self) {
        let by = self.rng.between(1_000, 300_000);
        self.common -= by as i64;
        self.stepped_back += by;
        self.note(|| format!("both clocks step back by {by}"));
        self.sometimes(true, 30, Event::StepBack);
    }

    fn step_forward(&mut self) {
        if self.answers > 0 || !self.requests.is_empty() {
            return self.after(1_000, Event::StepForward);
        }
        let by = self.rng.between(1_000, 300_000);
        self.common += by as i64;
        self.stepped_forward += by;
        self.note(|| format!("both clocks step forward by {by}"));
        self.sometimes(true, 30, Event::StepForward);
    }

    fn log_out_everywhere(&mut self) {
        let browser = self.rng.between(0, self.browsers.len() as u64 - 1) as usize;
        let tag = UserTag(self.keys.tag_of(&format!("user-{browser}")));
        let gateway = self.any_gateway();
        // As the stores do it: never before a session that has begun.
        let begun = self.ghosts.iter().filter(|ghost| ghost.key.tag == tag);
        let latest = begun.map(|ghost| ghost.created).max().unwrap_or_default();
        let at = self.reading(gateway).max(UnixMillis(latest));
        self.store.revoke_user(tag, at);
        for ghost in self.ghosts.iter_mut().filter(|ghost| ghost.key.tag == tag) {
            ghost.revoked = Some(self.now);
        }
        self.note(|| format!("user {browser} logs out everywhere"));
        self.sometimes(true, 60, Event::LogOutEverywhere);
    }

    // --- the thief --------------------------------------------------------------------------

    fn steal(&mut self) {
        let Some(cookie) = self.browsers[0].jar.clone() else {
            return self.after(5_000, Event::Steal);
        };
        self.note(|| {
            format!(
                "the thief copies generation {} of session {}",
                cookie.generation, cookie.session
            )
        });
        self.ghosts[cookie.session].stolen = Some(self.now);
        self.thief.copied = cookie.generation;
        self.thief.cookie = Some(cookie);
        let wait = match self.plan.thief {
            Some(Thief::Old) => 2 * self.plan.rotate + self.rng.between(0, 300_000),
            Some(Thief::Ignores | Thief::Follows) | None => self.rng.between(0, 20_000),
        };
        self.after(wait, Event::ThiefActs);
    }

    fn thief_acts(&mut self) {
        let Some(cookie) = self.thief.cookie.clone() else {
            return;
        };
        self.thief.first_used.get_or_insert(self.now);
        let id = self.send(By::Thief, cookie, thiefs_place(), Timing::Prompt, true);
        let pause = self.rng.between(5, 200);
        self.after(pause, Event::Arrive(id));
        let every = self.rng.between(self.thief.every / 2, self.thief.every);
        self.after(every.max(500), Event::ThiefActs);
    }

    fn thief_hears(&mut self, answer: Answer) {
        let follows = self.plan.thief == Some(Thief::Follows);
        match answer {
            Answer::Page(Some((_, cookie))) if follows => self.thief.cookie = Some(cookie),
            Answer::Page(_) => {}
            Answer::LoginPage => {
                // He tries what he has a few times more: an end must stay an end.
                if self.rng.percent(30) {
                    self.thief.cookie = None;
                }
            }
        }
    }
}

/// Whether the write of this decision counts an offer.
fn counts(seen: &Seen) -> bool {
    let counted = |record: &Record| record.offer.as_ref().map_or(0, |offer| offer.counted);
    match &seen.verdict.change {
        Change::Write(next) if next.generation > seen.record.generation => counted(next) > 0,
        Change::Write(next) => counted(next) > counted(&seen.record),
        Change::Keep | Change::End(_) | Change::EndAllOfUser(_) => false,
    }
}

fn change(verdict: &Verdict) -> String {
    match &verdict.change {
        Change::Keep => "keep".to_owned(),
        Change::Write(next) => format!(
            "write generation {} offer {:?}",
            next.generation,
            next.offer.as_ref().map(|o| o.counted)
        ),
        Change::End(reason) | Change::EndAllOfUser(reason) => format!("end: {}", reason.word()),
    }
}
