//! The event loop: time, gateways, browsers, attacker and store, one event at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::secret::KeyRing;
use doorward::session::{
    Change, ClientContext, DecisionInput, Identity, Outcome, Record, Refusal, RotationTiming,
    RoutePolicy, SessionFacts, SessionId, SessionKey, Successor, Token, UserTag, Verdict, decide,
};

use super::browser::{Browser, Cookie, attacker_location, location};
use super::oracle::{
    DecisionCheck, Delivery, Fault, Offered, SessionModel, check_monotonic, check_no_secret,
};
use super::plan::{Attacker, Plan, Rng};
use super::store::{Slot, Store};

/// Reading of the gateways' clocks at moment zero.
const START: u64 = 1_700_000_000_000;
/// Interval at which browsers write their cookies to disk.
const SYNC: u64 = 30_000;
const GATEWAYS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Browser(usize),
    Attacker,
    /// A request of the burst test.
    Burst,
}

pub struct Request {
    pub by: Sender,
    pub cookie: Cookie,
    pub context: ClientContext,
    pub sent_at: u64,
    life: u32,
    gateway: usize,
    timing: RotationTiming,
    activity: bool,
    decision: Option<Decision>,
}

/// A loaded record and the decision on it.
pub struct Decision {
    pub loaded_at: u64,
    pub now: UnixMillis,
    pub record: Record,
    pub verdict: Verdict,
    /// Latest activity admitted so far.
    pub activity: u64,
    pub active_at: u64,
    /// Moment of the load plus the forward steps of the clocks.
    pub passed: u64,
    facts: SessionFacts,
    revision: u64,
}

impl Decision {
    /// Returns the time used by `decide`: never before the latest time in the record.
    pub fn reading(&self) -> u64 {
        let known = self.record.last_active.max(self.facts.touched).max(self.record.current_since);
        self.now.max(known).0
    }
}

enum Event {
    Visit { browser: usize, life: u32 },
    Fetch { browser: usize, life: u32, activity: bool },
    Poll { browser: usize, life: u32 },
    Arrive(u64),
    Commit(u64),
    Response { request: u64, response: Response },
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
    AttackerActs,
}

/// The response to a request.
enum Response {
    Page(Option<(u64, Cookie)>),
    LoginPage,
}

/// Event counts. They prove that the simulation covered every kind of event.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub admitted: u64,
    pub rotations: u64,
    pub superseded: u64,
    pub lost_swaps: u64,
    pub crashes: u64,
    pub after_crash: u64,
    pub idle: u64,
    pub absolute: u64,
    pub revoked: u64,
    pub rotation_ignored: u64,
    pub thefts_found: u64,
    pub attacker_admitted: u64,
    /// Sessions in which attacker and victim had the same token after a rotation, because both used the old
    /// one before either confirmed the new one. The token alone cannot distinguish them.
    pub in_step: u64,
    /// Those of them that were still live and undetected at the horizon.
    pub in_step_to_the_end: u64,
    /// False theft verdicts caused by wild clocks.
    pub false_alarms: u64,
}

impl Statistics {
    pub fn add(&mut self, other: &Statistics) {
        self.admitted += other.admitted;
        self.rotations += other.rotations;
        self.superseded += other.superseded;
        self.lost_swaps += other.lost_swaps;
        self.crashes += other.crashes;
        self.after_crash += other.after_crash;
        self.idle += other.idle;
        self.absolute += other.absolute;
        self.revoked += other.revoked;
        self.rotation_ignored += other.rotation_ignored;
        self.thefts_found += other.thefts_found;
        self.attacker_admitted += other.attacker_admitted;
        self.in_step += other.in_step;
        self.in_step_to_the_end += other.in_step_to_the_end;
        self.false_alarms += other.false_alarms;
    }
}

pub struct World {
    pub plan: Plan,
    pub tracing: bool,
    pub trace: Vec<String>,
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
    models: Vec<SessionModel>,
    secrets: HashSet<[u8; 32]>,
    requests: BTreeMap<u64, Request>,
    /// Number of responses that have not arrived.
    responses_in_flight: usize,
    attacker: AttackerState,
    statistics: Statistics,
}

/// The state of the attacker.
struct AttackerState {
    cookie: Option<Cookie>,
    /// Generation of the copied token.
    copied: u32,
    first_used: Option<u64>,
    /// Longest interval between two requests.
    every: u64,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let attacker = AttackerState {
            cookie: None,
            copied: 0,
            first_used: None,
            every: rng.between(1_000, 45_000),
        };
        let browsers = (0..plan.browsers).map(Browser::new).collect();
        World {
            rng,
            attacker,
            browsers,
            plan,
            tracing: false,
            trace: Vec::new(),
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
            models: Vec::new(),
            secrets: HashSet::new(),
            requests: BTreeMap::new(),
            responses_in_flight: 0,
            statistics: Statistics::default(),
        }
    }

    /// Runs to the horizon, or to the first broken invariant.
    pub fn run(&mut self) -> Result<Statistics, String> {
        self.prepare();
        while let Some(event) = self.next_event() {
            if self.now > self.plan.horizon {
                break;
            }
            self.handle(event).map_err(|fault| format!("at {} ms: {fault}", self.now))?;
        }
        let alive = self
            .models
            .iter()
            .any(|model| model.stolen.is_some() && model.ended.or(model.revoked).is_none());
        self.statistics.in_step_to_the_end = if alive { self.statistics.in_step } else { 0 };
        Ok(self.statistics.clone())
    }

    /// Sends `count` parallel requests with one due token through both gateways. Returns the number of
    /// admitted requests.
    pub fn burst(&mut self, count: usize) -> Result<usize, String> {
        self.log_in(0);
        let cookie = self.browsers[0].jar.clone().ok_or("no login")?;
        self.now = self.plan.rotate + 1;
        for number in 0..count {
            let context = self.browsers[0].context.clone();
            let id =
                self.send(Sender::Burst, cookie.clone(), context, RotationTiming::WhenDue, true);
            if let Some(request) = self.requests.get_mut(&id) {
                request.gateway = number % GATEWAYS;
            }
            let pause = self.rng.between(0, 30);
            self.schedule(pause, Event::Arrive(id));
        }
        while let Some(event) = self.next_event() {
            self.handle(event)?;
        }
        let confirmed = self.store.load(&self.models[0].key);
        let Some((Slot::Live { revision: 2, .. }, _)) = confirmed else {
            return Err("the number of writes is not one".to_owned());
        };
        Ok(self.statistics.admitted as usize)
    }

    fn prepare(&mut self) {
        for browser in 0..self.browsers.len() {
            self.log_in(browser);
            let pause = self.rng.between(0, SYNC);
            self.schedule(pause, Event::Sync(browser));
            self.open_tabs(browser);
            self.schedule_within(self.plan.crashes, 12, Event::Crash(browser));
            self.schedule_within(self.plan.roams, 10, Event::Roam(browser));
        }
        self.schedule_within(self.plan.skew > 0, 1, Event::Drift);
        self.schedule_within(self.plan.steps_back, 20, Event::StepBack);
        self.schedule_within(self.plan.steps_forward, 20, Event::StepForward);
        self.schedule_within(self.plan.logs_out, 40, Event::LogOutEverywhere);
        self.schedule_within(self.plan.rotates_keys, 30, Event::RotateKeys);
        self.schedule_within(self.plan.attacker.is_some(), 10, Event::Steal);
    }

    fn open_tabs(&mut self, browser: usize) {
        let life = self.browsers[browser].life;
        let pause = self.rng.between(0, 3_000);
        self.schedule(pause, Event::Visit { browser, life });
        if self.plan.polls {
            self.schedule(pause + 10_000, Event::Poll { browser, life });
        }
    }

    /// Schedules `event` at a random time within `minutes`, if the plan includes it.
    fn schedule_within(&mut self, wanted: bool, minutes: u64, event: Event) {
        if wanted {
            let pause = self.rng.between(1, minutes * 60_000);
            self.schedule(pause, event);
        }
    }

    fn schedule(&mut self, pause: u64, event: Event) {
        self.serial += 1;
        self.events.insert(self.serial, event);
        self.queue.push(Reverse((self.now + pause, self.serial)));
    }

    fn next_event(&mut self) -> Option<Event> {
        let Reverse((at, serial)) = self.queue.pop()?;
        self.now = at;
        self.events.remove(&serial)
    }

    fn handle(&mut self, event: Event) -> Fault {
        match event {
            Event::Visit { browser, life } => self.visit(browser, life),
            Event::Fetch { browser, life, activity } => self.fetch(browser, life, activity),
            Event::Poll { browser, life } => self.poll(browser, life),
            Event::Arrive(request) => self.arrive(request)?,
            Event::Commit(request) => self.commit(request)?,
            Event::Response { request, response } => self.on_response(request, response),
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
            Event::AttackerActs => self.attacker_acts(),
        }
        Ok(())
    }

    fn log(&mut self, message: impl FnOnce() -> String) {
        if self.tracing {
            self.trace.push(format!("{:>9} {}", self.now, message()));
        }
    }

    fn reading(&self, gateway: usize) -> UnixMillis {
        let reading = START as i64 + self.now as i64 + self.common + self.offsets[gateway];
        UnixMillis(reading as u64)
    }

    fn any_gateway(&mut self) -> usize {
        self.rng.between(0, GATEWAYS as u64 - 1) as usize
    }

    // --- browsers ---------------------------------------------------------------------------

    /// Loads a page with its subresources; then the user reads.
    fn visit(&mut self, browser: usize, life: u32) {
        if self.browsers[browser].life != life {
            return;
        }
        for part in 0..self.rng.between(1, 6) {
            let pause = if part == 0 { 0 } else { self.rng.between(20, 1_500) };
            self.schedule(pause, Event::Fetch { browser, life, activity: true });
        }
        let reading = match self.rng.between(0, 99) {
            0..60 => self.rng.between(1_000, 20_000),
            60..90 => self.rng.between(20_000, 120_000),
            90..98 => self.rng.between(120_000, 900_000),
            98.. => self.rng.between(900_000, 2_400_000),
        };
        self.schedule(reading, Event::Visit { browser, life });
    }

    fn poll(&mut self, browser: usize, life: u32) {
        if self.browsers[browser].life != life {
            return;
        }
        self.schedule(0, Event::Fetch { browser, life, activity: false });
        let pause = self.rng.between(10_000, 40_000);
        self.schedule(pause, Event::Poll { browser, life });
    }

    fn fetch(&mut self, browser: usize, life: u32, activity: bool) {
        let it = &self.browsers[browser];
        let (Some(cookie), true) = (it.jar.clone(), it.life == life && !it.logging_in) else {
            return;
        };
        let context = it.context.clone();
        // Some requests are sensitive actions.
        let timing =
            if self.rng.percent(3) { RotationTiming::Now } else { RotationTiming::WhenDue };
        let id = self.send(Sender::Browser(browser), cookie, context, timing, activity);
        let late = self.rng.percent(10);
        let pause = self.rng.between(5, if late { self.plan.uplink } else { 150 });
        self.schedule(pause, Event::Arrive(id));
    }

    fn send(
        &mut self,
        by: Sender,
        cookie: Cookie,
        context: ClientContext,
        timing: RotationTiming,
        activity: bool,
    ) -> u64 {
        self.serial += 1;
        let life = match by {
            Sender::Browser(browser) => self.browsers[browser].life,
            Sender::Attacker | Sender::Burst => 0,
        };
        let gateway = self.any_gateway();
        let sent_at = self.now;
        let request = Request {
            by,
            cookie,
            context,
            sent_at,
            life,
            gateway,
            timing,
            activity,
            decision: None,
        };
        self.requests.insert(self.serial, request);
        self.serial
    }

    fn sync(&mut self, browser: usize) {
        let it = &mut self.browsers[browser];
        if it.running {
            it.disk = it.jar.clone();
        }
        self.schedule(SYNC, Event::Sync(browser));
    }

    fn crash(&mut self, browser: usize) {
        self.statistics.crashes += 1;
        let lost = self.browsers[browser].crash();
        let back = self.browsers[browser].jar.clone();
        self.log(|| format!("browser {browser} crashes: lost {lost:?}, back to {back:?}"));
        if let Some(lost) = lost {
            self.undo(&lost, back.as_ref());
        }
        let pause = self.rng.between(500, 40_000);
        self.schedule(pause, Event::Restart(browser));
        self.schedule_within(true, 12, Event::Crash(browser));
    }

    /// Marks the offers whose tokens the crash lost.
    fn undo(&mut self, lost: &Cookie, back: Option<&Cookie>) {
        for cookie in std::iter::once(lost).chain(back) {
            self.models[cookie.session].crashed_back = true;
        }
        let same = back.filter(|back| back.session == lost.session);
        let kept = same.map_or(0, |back| back.generation);
        for (generation, offers) in &mut self.models[lost.session].offers {
            for offer in offers.iter_mut().filter(|_| *generation >= kept) {
                if matches!(offer.delivery, Delivery::Stored(_)) {
                    offer.delivery = Delivery::Undone;
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

    /// Creates a new session. The new cookie replaces the old one.
    fn log_in(&mut self, browser: usize) {
        let user = format!("user-{browser}");
        let tag = UserTag(self.keys.user_tag(&user));
        let key = SessionKey { tag, id: SessionId(self.rng.bytes()) };
        let gateway = self.any_gateway();
        let cutoff = self.store.cutoff(&tag).at.plus(Duration::from_millis(1));
        let at = self.reading(gateway).max(cutoff);
        let first = Successor { generation: 0, secret: self.rng.bytes() };
        let token = Token::new(self.keys.signing_key().0, key, 0, first.secret);
        let end = at.plus(self.plan.policy.absolute());
        let identity = Identity { user, ..Identity::default() };
        let record = Record::new(identity, &token, at, end, self.browsers[browser].context.clone());
        self.store.create(key, record.seal(&self.keys, &key));
        self.models.push(SessionModel::new(key, at.0, self.now + self.stepped_forward));
        let cookie = self.sign(self.models.len() - 1, &first);
        self.log(|| format!("browser {browser} logs in: session {}", cookie.session));
        self.browsers[browser].jar = Some(cookie);
        self.browsers[browser].logging_in = false;
    }

    fn sign(&mut self, session: usize, made: &Successor) -> Cookie {
        let key = self.models[session].key;
        self.secrets.insert(made.secret);
        let token = Token::new(self.keys.signing_key().0, key, made.generation, made.secret);
        let text = token.encode(&self.keys).expect("the signing key is in the ring");
        Cookie { text: Rc::from(text.as_str()), session, generation: made.generation }
    }

    fn roam(&mut self, browser: usize) {
        let moved = self.rng.between(0, 200) as u8;
        self.browsers[browser].context = location(browser as u8, moved);
        self.schedule_within(true, 10, Event::Roam(browser));
    }

    // --- gateways ---------------------------------------------------------------------------

    /// Loads the record and decides.
    fn arrive(&mut self, id: u64) -> Fault {
        let Some(mut request) = self.requests.remove(&id) else {
            return Ok(());
        };
        let Ok(token) = Token::parse(&self.keys, request.cookie.text.as_bytes()) else {
            return Err("cannot parse a token that the simulation signed".to_owned());
        };
        let Some((slot, facts)) = self.store.load(&token.key) else {
            return Err("a session is missing".to_owned());
        };
        let Slot::Live { revision, sealed } = slot else {
            self.finish_refused(id, &request, "ended");
            return Ok(());
        };
        let record = Record::open(&self.keys, &token.key, &sealed)
            .map_err(|error| format!("cannot open a record: {error}"))?;
        request.decision = Some(self.decide(&request, &token, record, facts, revision));
        self.requests.insert(id, request);
        let pause = if self.rng.percent(90) { self.rng.between(0, 20) } else { 300 };
        self.schedule(pause, Event::Commit(id));
        Ok(())
    }

    fn decide(
        &mut self,
        request: &Request,
        token: &Token,
        record: Record,
        facts: SessionFacts,
        revision: u64,
    ) -> Decision {
        let now = self.reading(request.gateway);
        let salt = self.rng.bytes();
        let verdict = decide(&DecisionInput {
            record: &record,
            facts: &facts,
            token,
            keys: &self.keys,
            now,
            random_salt: &|| salt,
            client: &request.context,
            policy: &self.plan.policy,
            route: &RoutePolicy::default(),
            timing: request.timing,
            activity: request.activity,
            risk: None,
        });
        let model = &self.models[request.cookie.session];
        let (activity, active_at) = (model.activity, model.active_at);
        let passed = self.now + self.stepped_forward;
        Decision {
            loaded_at: self.now,
            now,
            record,
            verdict,
            activity,
            active_at,
            passed,
            facts,
            revision,
        }
    }

    /// Commits a decision by compare-and-swap. If it fails, the request is decided again.
    fn commit(&mut self, id: u64) -> Fault {
        let Some(mut request) = self.requests.remove(&id) else {
            return Ok(());
        };
        let Some(decision) = request.decision.take() else {
            return Ok(());
        };
        let key = self.models[request.cookie.session].key;
        let mut won = true;
        match &decision.verdict.change {
            Change::Keep => {}
            Change::Write(next) => won = self.swap(&request, &decision, next)?,
            Change::End(reason) => self.store.end(key, *reason),
            Change::EndAllOfUser(_) => return Err("no plan ends all sessions of a user".to_owned()),
        }
        if !won {
            self.statistics.lost_swaps += 1;
            self.requests.insert(id, request);
            let pause = self.rng.between(0, 5);
            self.schedule(pause, Event::Arrive(id));
            return Ok(());
        }
        if decision.verdict.touch {
            self.store.touch(key, decision.now);
        }
        self.check_decision(&request, &decision)?;
        self.finish(id, request, decision);
        Ok(())
    }

    fn swap(
        &mut self,
        request: &Request,
        decision: &Decision,
        next: &Record,
    ) -> Result<bool, String> {
        let session = request.cookie.session;
        let key = self.models[session].key;
        let sealed = next.seal(&self.keys, &key);
        let plain = postcard::to_allocvec(next).map_err(|error| error.to_string())?;
        let offered = match &decision.verdict.outcome {
            Outcome::Admit(offered) => offered.as_ref(),
            Outcome::Refuse(_) => None,
        };
        self.secrets.extend(offered.map(|offered| offered.secret));
        check_no_secret(&self.secrets, &sealed, &plain)?;
        if !self.store.commit(&key, decision.revision, sealed) {
            return Ok(false);
        }
        let (_, facts) = self.store.load(&key).ok_or("just written, and absent")?;
        check_monotonic(&mut self.models[session], &decision.record, &facts, next)?;
        if next.generation > decision.record.generation {
            self.statistics.rotations += 1;
            self.models[session].confirmations.insert(next.generation, self.now);
        }
        Ok(true)
    }

    fn check_decision(&mut self, request: &Request, decision: &Decision) -> Fault {
        let summary = |verdict: &Verdict| format!("{:?} {:?}", verdict.outcome, change(verdict));
        self.log(|| {
            format!(
                "{:?} sent at {} generation {} of session {} to gateway {} ({:?}); record at {}: {}",
                request.by,
                request.sent_at,
                request.cookie.generation,
                request.cookie.session,
                request.gateway,
                request.timing,
                decision.record.generation,
                summary(&decision.verdict)
            )
        });
        let decision_check = DecisionCheck {
            plan: &self.plan,
            request,
            decision,
            stepped_back: self.stepped_back,
            attacker_since: self.attacker.first_used,
            attacker_every: self.attacker.every,
        };
        let model = &mut self.models[request.cookie.session];
        decision_check.check(model)?;
        if matches!(decision.verdict.change, Change::End(_)) {
            model.ended.get_or_insert(self.now);
        }
        let current = request.cookie.generation >= decision.record.generation;
        let admitted = matches!(decision.verdict.outcome, Outcome::Admit(_));
        if admitted && current && request.activity {
            model.activity = model.activity.max(decision.reading());
            model.active_at = model.active_at.max(decision.passed);
        }
        self.count(request, decision);
        Ok(())
    }

    fn count(&mut self, request: &Request, decision: &Decision) {
        let behind = request.cookie.generation < decision.record.generation;
        let stolen = self.models[request.cookie.session].stolen.is_some();
        let statistics = &mut self.statistics;
        match &decision.verdict.outcome {
            Outcome::Admit(_) => {
                statistics.admitted += 1;
                statistics.superseded += u64::from(behind);
                statistics.attacker_admitted += u64::from(request.by == Sender::Attacker);
            }
            Outcome::Refuse(Refusal::Theft) if stolen => statistics.thefts_found += 1,
            Outcome::Refuse(Refusal::Theft) => statistics.false_alarms += 1,
            Outcome::Refuse(Refusal::RestoredAfterCrash) => statistics.after_crash += 1,
            Outcome::Refuse(Refusal::Idle) => statistics.idle += 1,
            Outcome::Refuse(Refusal::Absolute) => statistics.absolute += 1,
            Outcome::Refuse(Refusal::Revoked) => statistics.revoked += 1,
            Outcome::Refuse(Refusal::RotationIgnored) => statistics.rotation_ignored += 1,
            Outcome::Refuse(
                Refusal::UnknownGeneration
                | Refusal::SecretMismatch
                | Refusal::Reauthenticate
                | Refusal::Superseded,
            ) => {}
        }
        let stolen = self.attacker.cookie.as_ref();
        let is_same = stolen.is_some_and(|stolen| {
            let is_rotated = stolen.generation > self.attacker.copied;
            is_rotated && request.by != Sender::Attacker && request.cookie == *stolen
        });
        self.statistics.in_step |= u64::from(is_same);
    }

    fn finish(&mut self, id: u64, request: Request, decision: Decision) {
        match decision.verdict.outcome.clone() {
            Outcome::Refuse(why) => self.finish_refused(id, &request, why.as_str()),
            Outcome::Admit(offered) => {
                let counted = counts_offer(&decision);
                let set = offered.map(|made| {
                    let cookie = self.sign(request.cookie.session, &made);
                    let offers = &mut self.models[request.cookie.session].offers;
                    let offers = offers.entry(request.cookie.generation).or_default();
                    offers.push(Offered { number: id, counted, delivery: Delivery::InFlight });
                    (id, cookie)
                });
                self.reply(id, &request, Response::Page(set));
            }
        }
        self.requests.insert(id, request);
    }

    fn finish_refused(&mut self, id: u64, request: &Request, why: &str) {
        self.log(|| format!("{:?} session {}: refused, {why}", request.by, request.cookie.session));
        self.reply(id, request, Response::LoginPage);
        // The response needs the request again.
        let again = Request {
            by: request.by,
            cookie: request.cookie.clone(),
            context: request.context.clone(),
            decision: None,
            ..*request
        };
        self.requests.insert(id, again);
    }

    fn reply(&mut self, request: u64, to: &Request, response: Response) {
        let late = self.rng.percent(15);
        let pause = match to.by {
            Sender::Browser(_) if late => self.rng.between(50, self.plan.downlink),
            Sender::Browser(_) | Sender::Attacker | Sender::Burst => self.rng.between(5, 200),
        };
        self.responses_in_flight += 1;
        self.schedule(pause, Event::Response { request, response });
    }

    fn on_response(&mut self, id: u64, response: Response) {
        self.responses_in_flight -= 1;
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        match request.by {
            Sender::Burst => {}
            Sender::Attacker => self.on_attacker_response(response),
            Sender::Browser(browser) => self.on_browser_response(browser, &request, response),
        }
    }

    fn on_browser_response(&mut self, browser: usize, request: &Request, response: Response) {
        let gone = self.browsers[browser].life != request.life;
        let lost = gone || self.rng.percent(self.plan.lost_percent);
        match response {
            Response::Page(None) => {}
            Response::Page(Some((number, cookie))) => {
                let delivery = if lost { Delivery::Lost } else { Delivery::Stored(self.now) };
                let offers = self.models[cookie.session].offers.get_mut(&request.cookie.generation);
                let offer = offers.into_iter().flatten().find(|offer| offer.number == number);
                offer.into_iter().for_each(|offer| offer.delivery = delivery);
                self.log(|| {
                    format!(
                        "browser {browser} receives generation {} of session {}: {delivery:?}",
                        cookie.generation, cookie.session
                    )
                });
                if !lost {
                    self.browsers[browser].jar = Some(cookie);
                }
            }
            Response::LoginPage => self.on_login_page(browser, request, lost),
        }
    }

    fn on_login_page(&mut self, browser: usize, request: &Request, lost: bool) {
        let it = &mut self.browsers[browser];
        let still = it.jar.as_ref().is_some_and(|jar| jar.session == request.cookie.session);
        if lost || it.logging_in || !still {
            return;
        }
        it.logging_in = true;
        let life = it.life;
        let pause = self.rng.between(1_000, 20_000);
        self.schedule(pause, Event::Login { browser, life });
    }

    // --- clocks and operators ---------------------------------------------------------------

    fn drift(&mut self) {
        let gateway = self.any_gateway();
        let skew = self.plan.skew;
        self.offsets[gateway] = self.rng.between(0, 2 * skew) as i64 - skew as i64;
        let offsets = self.offsets;
        self.log(|| format!("the gateways' clocks are {offsets:?} off"));
        self.schedule_within(true, if self.plan.wild_clocks { 15 } else { 3 }, Event::Drift);
    }

    fn step_back(&mut self) {
        let by = self.rng.between(1_000, 300_000);
        self.common -= by as i64;
        self.stepped_back += by;
        self.log(|| format!("both clocks step back by {by}"));
        self.schedule_within(true, 30, Event::StepBack);
    }

    fn step_forward(&mut self) {
        if self.responses_in_flight > 0 || !self.requests.is_empty() {
            return self.schedule(1_000, Event::StepForward);
        }
        let by = self.rng.between(1_000, 300_000);
        self.common += by as i64;
        self.stepped_forward += by;
        self.log(|| format!("both clocks step forward by {by}"));
        self.schedule_within(true, 30, Event::StepForward);
    }

    fn log_out_everywhere(&mut self) {
        let browser = self.rng.between(0, self.browsers.len() as u64 - 1) as usize;
        let tag = UserTag(self.keys.user_tag(&format!("user-{browser}")));
        let gateway = self.any_gateway();
        // As in the stores: a cutoff is never before the creation of an existing session.
        let sessions = self.models.iter().filter(|model| model.key.tag == tag);
        let latest = sessions.map(|model| model.created).max().unwrap_or_default();
        let at = self.reading(gateway).max(UnixMillis(latest));
        self.store.revoke_user(tag, at);
        for model in self.models.iter_mut().filter(|model| model.key.tag == tag) {
            model.revoked = Some(self.now);
        }
        self.log(|| format!("user {browser} logs out everywhere"));
        self.schedule_within(true, 60, Event::LogOutEverywhere);
    }

    // --- the attacker --------------------------------------------------------------------------

    fn steal(&mut self) {
        let Some(cookie) = self.browsers[0].jar.clone() else {
            return self.schedule(5_000, Event::Steal);
        };
        self.log(|| {
            format!(
                "the attacker copies generation {} of session {}",
                cookie.generation, cookie.session
            )
        });
        self.models[cookie.session].stolen = Some(self.now);
        self.attacker.copied = cookie.generation;
        self.attacker.cookie = Some(cookie);
        let wait = match self.plan.attacker {
            Some(Attacker::Old) => 2 * self.plan.rotate + self.rng.between(0, 300_000),
            Some(Attacker::Ignores | Attacker::Follows) | None => self.rng.between(0, 20_000),
        };
        self.schedule(wait, Event::AttackerActs);
    }

    fn attacker_acts(&mut self) {
        let Some(cookie) = self.attacker.cookie.clone() else {
            return;
        };
        self.attacker.first_used.get_or_insert(self.now);
        let id =
            self.send(Sender::Attacker, cookie, attacker_location(), RotationTiming::WhenDue, true);
        let pause = self.rng.between(5, 200);
        self.schedule(pause, Event::Arrive(id));
        let every = self.rng.between(self.attacker.every / 2, self.attacker.every);
        self.schedule(every.max(500), Event::AttackerActs);
    }

    fn on_attacker_response(&mut self, response: Response) {
        let follows = self.plan.attacker == Some(Attacker::Follows);
        match response {
            Response::Page(Some((_, cookie))) if follows => self.attacker.cookie = Some(cookie),
            Response::Page(_) => {}
            Response::LoginPage => {
                // The attacker retries a few times, because an ended session must stay ended.
                if self.rng.percent(30) {
                    self.attacker.cookie = None;
                }
            }
        }
    }
}

/// Returns whether the write of this decision counts an offer.
fn counts_offer(decision: &Decision) -> bool {
    let counted = |record: &Record| record.offer.as_ref().map_or(0, |offer| offer.count);
    match &decision.verdict.change {
        Change::Write(next) if next.generation > decision.record.generation => counted(next) > 0,
        Change::Write(next) => counted(next) > counted(&decision.record),
        Change::Keep | Change::End(_) | Change::EndAllOfUser(_) => false,
    }
}

fn change(verdict: &Verdict) -> String {
    match &verdict.change {
        Change::Keep => "keep".to_owned(),
        Change::Write(next) => format!(
            "write generation {} offer {:?}",
            next.generation,
            next.offer.as_ref().map(|o| o.count)
        ),
        Change::End(reason) | Change::EndAllOfUser(reason) => format!("end: {}", reason.as_str()),
    }
}
