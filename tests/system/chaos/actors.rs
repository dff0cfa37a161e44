//! Actors that revoke sessions, steal cookies and poll the admin API.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request as HttpRequest};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::browsers::{Profile, RequestSource, Scenario, Tab};
use crate::chaos::client::{Jar, parse_token};
use crate::chaos::history::{Actor, EndTarget, Event, RequestKind, Session};
use test_support::seeded_rng::SeededRng;

/// Longest wait for a response on the admin socket.
const TIMEOUT: Duration = Duration::from_secs(8);
/// How long the cookie of an ended session is probed at all gateways; longer than every bound.
const PROBE_FOR: Duration = Duration::from_millis(4_500);

/// How long a session is probed at a gateway that failed to end it.
const PROBE_FAILED_END_FOR: Duration = Duration::from_millis(1_500);

const LATE_PROBE_DELAY: Duration = Duration::from_secs(4);
/// Longer than the grace period.
const AFTER_GRACE: Duration = Duration::from_millis(3_700);

/// Ends sessions in every way and probes their cookies afterwards.
pub async fn revoke(scenario: Arc<Scenario>, mut chance: SeededRng) {
    let mut probes = JoinSet::new();
    let mut turn = 0;
    while !scenario.is_finished() {
        turn += 1;
        let [least, most] = pauses(&scenario);
        tokio::time::sleep(chance.between(least, most)).await;
        let victim = chance.choose(&scenario.profiles).number;
        let gateway = usize::try_from(chance.below(scenario.fleet.len() as u64)).unwrap_or(0);
        let end = match chance.below(16) {
            0..8 => end_one(&scenario, victim, gateway).await,
            8..11 => log_out(&scenario, victim, chance.clone()).await,
            11..15 => end_user(&scenario, victim, gateway).await,
            _ => end_all(&scenario, gateway).await,
        };
        for (owner, cookie) in end.cookies {
            let probe = Probe::new(&scenario, owner, cookie, &mut chance, turn);
            match end.is_acked {
                true => probes.spawn(probe.at_all_gateways(&mut chance)),
                false => probes.spawn(probe.at_gateway(gateway)),
            };
        }
    }
    probes.join_all().await;
}

/// Returns the shortest and longest pause between two ends. Real-time histories need short pauses: cache errors
/// show only if a session ends and its owner does not return at once.
fn pauses(scenario: &Scenario) -> [Duration; 2] {
    match scenario.time.scale {
        1 => [400, 1_000].map(Duration::from_millis),
        _ => [1_000, 2_500].map(Duration::from_millis),
    }
}

/// The result of one attempt to end sessions.
#[derive(Default)]
struct EndAttempt {
    /// Cookies of the sessions with the numbers of their profiles.
    cookies: Vec<(usize, String)>,
    is_acked: bool,
}

async fn end_one(scenario: &Scenario, victim: usize, gateway: usize) -> EndAttempt {
    let profile = &scenario.profiles[victim];
    let (Some(cookie), Some(session)) = (profile.cookie(), profile.session()) else {
        return EndAttempt::default();
    };
    let query = format!("session={session}");
    let is_acked = end(scenario, gateway, EndTarget::Session(session), &query).await;
    EndAttempt { cookies: vec![(victim, cookie)], is_acked }
}

async fn end_user(scenario: &Scenario, victim: usize, gateway: usize) -> EndAttempt {
    let user = scenario.profiles[victim].user.clone();
    let cookies = cookies(scenario, |profile| profile.user == user);
    let query = format!("user={user}");
    EndAttempt { cookies, is_acked: end(scenario, gateway, EndTarget::User(user), &query).await }
}

async fn end_all(scenario: &Scenario, gateway: usize) -> EndAttempt {
    let cookies = cookies(scenario, |_| true);
    EndAttempt { cookies, is_acked: end(scenario, gateway, EndTarget::All, "all=1").await }
}

fn cookies(scenario: &Scenario, of: impl Fn(&Profile) -> bool) -> Vec<(usize, String)> {
    let owners = scenario.profiles.iter().filter(|profile| of(profile));
    owners.filter_map(|owner| Some((owner.number, owner.cookie()?))).collect()
}

async fn end(scenario: &Scenario, gateway: usize, what: EndTarget, query: &str) -> bool {
    let sent = scenario.recorder.now();
    let path = format!("/revoke?{query}");
    let response = admin_request(&scenario.fleet[gateway].socket, Method::POST, &path).await;
    let is_acked = response.is_some_and(|(status, _)| status == 200);
    let done = scenario.recorder.now();
    let acked = is_acked.then_some(done);
    scenario.recorder.add(Event::Ended { what, gateway, sent, acked, done });
    is_acked
}

async fn log_out(scenario: &Arc<Scenario>, victim: usize, chance: SeededRng) -> EndAttempt {
    let profile = &scenario.profiles[victim];
    if profile.cookie().is_none() {
        return EndAttempt::default();
    }
    let mut tab = Tab::new(scenario, profile.from, chance);
    let ended = tab.log_out(profile).await;
    EndAttempt {
        is_acked: true,
        cookies: ended.map(|(_, cookie)| (victim, cookie)).into_iter().collect(),
    }
}

/// Repeated requests with the cookie of a session that should have ended.
struct Probe {
    scenario: Arc<Scenario>,
    tab: Tab,
    agent: String,
    cookie: String,
}

impl Probe {
    /// Creates a probe, mostly with the owner's address and user agent: the cache never serves other clients.
    fn new(
        scenario: &Arc<Scenario>,
        owner: usize,
        cookie: String,
        chance: &mut SeededRng,
        turn: u64,
    ) -> Probe {
        let owner = &scenario.profiles[owner];
        let (from, agent) = match chance.percent(20) {
            true => (Ipv4Addr::new(127, 3, 0, 1), "Prober/1"),
            false => (owner.from, owner.agent.as_str()),
        };
        let tab = Tab::new(scenario, from, SeededRng::new(turn, 99));
        Probe { scenario: Arc::clone(scenario), tab, agent: agent.to_owned(), cookie }
    }

    /// Sends requests to all gateways; the checker judges the responses.
    fn at_all_gateways(
        mut self,
        chance: &mut SeededRng,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Some probes start late, after caches and logs have expired.
        let late = if chance.percent(40) { LATE_PROBE_DELAY } else { Duration::ZERO };
        async move {
            tokio::time::sleep(late).await;
            let until = Instant::now() + PROBE_FOR;
            while Instant::now() < until && !self.scenario.is_finished() {
                for gateway in 0..self.scenario.fleet.len() {
                    let kind = self.tab.any_kind();
                    self.send(Actor::Prober, gateway, kind).await;
                }
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
        }
    }

    /// Sends requests to the gateway that failed to end the session.
    async fn at_gateway(mut self, gateway: usize) {
        let until = Instant::now() + PROBE_FAILED_END_FOR;
        while Instant::now() < until {
            self.send(Actor::FailedEndProber, gateway, RequestKind::StaleReadable).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    async fn send(&mut self, actor: Actor, gateway: usize, kind: RequestKind) {
        let source =
            RequestSource { actor, agent: &self.agent, cookie: &self.cookie, gateway, kind };
        self.tab.request(&source, Duration::from_secs(60)).await;
    }
}

/// How an attacker uses a copied cookie.
#[derive(Clone, Copy)]
enum TokenUse {
    /// Ignores successor tokens.
    KeepsToken,
    /// Accepts successor tokens.
    FollowsRotation,
}

/// Copies a cookie now and then and uses it from another address until it is rejected.
pub async fn steal(scenario: Arc<Scenario>, mut chance: SeededRng) {
    while !scenario.is_finished() {
        let pause = chance.between(Duration::from_secs(1), Duration::from_secs(3));
        tokio::time::sleep(pause).await;
        let victim = chance.choose(&scenario.profiles);
        let Some(cookie) = victim.cookie() else { continue };
        let Some(stolen) = parse_token(&cookie) else { continue };
        scenario
            .recorder
            .add(Event::Stolen { session: stolen.session, at: scenario.recorder.now() });
        let token_use = *chance.choose(&[TokenUse::KeepsToken, TokenUse::FollowsRotation]);
        use_stolen(&scenario, cookie, token_use, &mut chance).await;
    }
}

async fn use_stolen(
    scenario: &Arc<Scenario>,
    mut cookie: String,
    token_use: TokenUse,
    chance: &mut SeededRng,
) {
    let mut tab = Tab::new(scenario, Ipv4Addr::new(127, 2, 0, 1), chance.clone());
    for _ in 0..40 {
        if scenario.is_finished() {
            return;
        }
        let gateway = usize::try_from(chance.below(scenario.fleet.len() as u64)).unwrap_or(0);
        let (actor, kind) = (Actor::Attacker, tab.any_kind());
        let source = RequestSource { actor, agent: "Attacker/1", cookie: &cookie, gateway, kind };
        if let Some(response) = tab.request(&source, Duration::from_secs(60)).await {
            if response.status == 401 {
                return;
            }
            let mut jar = Jar::new();
            response.store_cookies(&mut jar);
            if let (TokenUse::FollowsRotation, Some(next)) = (token_use, jar.into_values().next()) {
                cookie = next;
            }
        }
        tokio::time::sleep(chance.between(Duration::from_millis(50), Duration::from_millis(300)))
            .await;
    }
}

/// Watches every second jar, keeps superseded tokens and replays them after their grace period. The other jars
/// stay untouched, so that some sessions survive.
pub async fn replay_superseded(scenario: Arc<Scenario>, mut chance: SeededRng) {
    let mut held: Vec<Option<String>> = vec![None; scenario.profiles.len()];
    let mut thefts = JoinSet::new();
    while !scenario.is_finished() {
        tokio::time::sleep(Duration::from_millis(60)).await;
        for (victim, held) in scenario.profiles.iter().zip(&mut held).step_by(2) {
            let now = victim.cookie();
            let before = std::mem::replace(held, now.clone());
            if let (Some(old), Some(new)) = (before, now)
                && is_older(&old, &new)
            {
                thefts.spawn(replay_after_grace(
                    Arc::clone(&scenario),
                    victim.number,
                    old,
                    chance.fork(7),
                ));
                // Advance the generator, so that the next attacker differs.
                chance.below(2);
            }
        }
    }
    thefts.join_all().await;
}

fn is_older(old: &str, new: &str) -> bool {
    let (Some(old), Some(new)) = (parse_token(old), parse_token(new)) else { return false };
    old.session == new.session && old.generation < new.generation
}

async fn replay_after_grace(
    scenario: Arc<Scenario>,
    victim: usize,
    cookie: String,
    mut chance: SeededRng,
) {
    tokio::time::sleep(AFTER_GRACE).await;
    let session = parse_token(&cookie).map(|token| token.session);
    if scenario.is_finished() || session != scenario.profiles[victim].session() {
        return;
    }
    if let Some(session) = session {
        scenario.recorder.add(Event::Stolen { session, at: scenario.recorder.now() });
        use_stolen(&scenario, cookie, TokenUse::KeepsToken, &mut chance).await;
    }
}

/// Requests the session list of each gateway in turn.
pub async fn poll_session_lists(scenario: Arc<Scenario>) {
    for turn in 0.. {
        if scenario.is_finished() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        let member = &scenario.fleet[turn % scenario.fleet.len()];
        let Some((200, body)) = admin_request(&member.socket, Method::GET, "/sessions").await
        else {
            continue;
        };
        let list: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap_or_default();
        for session in &list {
            scenario
                .recorder
                .add(listed_event(session, scenario.recorder.now()).expect("a listed session"));
        }
    }
}

fn listed_event(listed: &serde_json::Value, at: u64) -> Option<Event> {
    Some(Event::Listed {
        session: Session(u64::from_str_radix(listed["session"].as_str()?, 16).ok()?),
        user: listed["user"].as_str()?.to_owned(),
        absolute_end: listed["absolute_end"].as_u64()?,
        at,
    })
}

/// Sends a request to an admin socket; returns `None` without a response.
async fn admin_request(socket: &Path, method: Method, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = HttpRequest::builder().method(method).uri(path).header("host", "localhost");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        connection.abort();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.ok()?
}
