//! Who ends sessions, steals cookies, and looks over the operator's shoulder.

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

use crate::chance::Chance;
use crate::history::{Actor, Asks, Ends, Event, Session};
use crate::people::{Profile, Scene, Tab, Voice};
use crate::wire::{Jar, token};

/// How long an operator waits for a gateway.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the cookie of an ended session is shown everywhere: beyond every bound.
const PROBED: Duration = Duration::from_millis(4_500);

/// As long as one that nobody could end is still the same.
const DOUBTED: Duration = Duration::from_millis(1_500);

const LATE: Duration = Duration::from_secs(4);
/// Longer than a superseded token is answered.
const GRACE_OVER: Duration = Duration::from_millis(3_700);

/// Ends sessions in every way there is, and shows their cookies everywhere afterwards.
pub async fn revoke(scene: Arc<Scene>, mut chance: Chance) {
    let mut probes = JoinSet::new();
    let mut turn = 0;
    while !scene.is_over() {
        turn += 1;
        let [least, most] = pauses(&scene);
        tokio::time::sleep(chance.between(least, most)).await;
        let victim = chance.one_of(&scene.people).number;
        let gateway = usize::try_from(chance.below(scene.fleet.len() as u64)).unwrap_or(0);
        let end = match chance.below(16) {
            0..8 => end_one(&scene, victim, gateway).await,
            8..11 => log_out(&scene, victim, chance.clone()).await,
            11..15 => end_user(&scene, victim, gateway).await,
            _ => end_everybody(&scene, gateway).await,
        };
        for (owner, cookie) in end.cookies {
            let shown = Shown::of(&scene, owner, cookie, &mut chance, turn);
            match end.is_acked {
                true => probes.spawn(shown.everywhere(&mut chance)),
                false => probes.spawn(shown.there(gateway)),
            };
        }
    }
    probes.join_all().await;
}

/// Between two ends. What is wrong with a cache shows where one session ends and its owner does not come
/// back at once: in real time that has to happen often, or it would not happen at all.
fn pauses(scene: &Scene) -> [Duration; 2] {
    match scene.time.scale {
        1 => [400, 1_000].map(Duration::from_millis),
        _ => [1_000, 2_500].map(Duration::from_millis),
    }
}

/// What somebody wanted to end.
#[derive(Default)]
struct End {
    /// With the number of the profile that each is of.
    cookies: Vec<(usize, String)>,
    is_acked: bool,
}

async fn end_one(scene: &Scene, victim: usize, gateway: usize) -> End {
    let profile = &scene.people[victim];
    let (Some(cookie), Some(session)) = (profile.cookie(), profile.session()) else {
        return End::default();
    };
    let query = format!("session={session}");
    let is_acked = end(scene, gateway, Ends::One(session), &query).await;
    End { cookies: vec![(victim, cookie)], is_acked }
}

async fn end_user(scene: &Scene, victim: usize, gateway: usize) -> End {
    let user = scene.people[victim].user.clone();
    let cookies = cookies(scene, |profile| profile.user == user);
    let query = format!("user={user}");
    End { cookies, is_acked: end(scene, gateway, Ends::User(user), &query).await }
}

async fn end_everybody(scene: &Scene, gateway: usize) -> End {
    let cookies = cookies(scene, |_| true);
    End { cookies, is_acked: end(scene, gateway, Ends::Everybody, "all=1").await }
}

fn cookies(scene: &Scene, of: impl Fn(&Profile) -> bool) -> Vec<(usize, String)> {
    let owners = scene.people.iter().filter(|profile| of(profile));
    owners.filter_map(|owner| Some((owner.number, owner.cookie()?))).collect()
}

async fn end(scene: &Scene, gateway: usize, what: Ends, query: &str) -> bool {
    let sent = scene.recorder.now();
    let path = format!("/revoke?{query}");
    let answer = operate(&scene.fleet[gateway].socket, Method::POST, &path).await;
    let is_acked = answer.is_some_and(|(status, _)| status == 200);
    let done = scene.recorder.now();
    let acked = is_acked.then_some(done);
    scene.recorder.add(Event::Ended { what, gateway, sent, acked, done });
    is_acked
}

async fn log_out(scene: &Arc<Scene>, victim: usize, chance: Chance) -> End {
    let profile = &scene.people[victim];
    if profile.cookie().is_none() {
        return End::default();
    }
    let mut tab = Tab::new(scene, profile.from, chance);
    let ended = tab.log_out(profile).await;
    End { is_acked: true, cookies: ended.map(|(_, cookie)| (victim, cookie)).into_iter().collect() }
}

/// The cookie of a session that was to end, shown again.
struct Shown {
    scene: Arc<Scene>,
    tab: Tab,
    agent: String,
    cookie: String,
}

impl Shown {
    /// Mostly by its browser: who comes from elsewhere is never let in by what is known.
    fn of(
        scene: &Arc<Scene>,
        owner: usize,
        cookie: String,
        chance: &mut Chance,
        turn: u64,
    ) -> Shown {
        let owner = &scene.people[owner];
        let (from, agent) = match chance.percent(20) {
            true => (Ipv4Addr::new(127, 3, 0, 1), "Prober/1"),
            false => (owner.from, owner.agent.as_str()),
        };
        let tab = Tab::new(scene, from, Chance::new(turn, 99));
        Shown { scene: Arc::clone(scene), tab, agent: agent.to_owned(), cookie }
    }

    /// At every gateway; the history judges what passes.
    fn everywhere(mut self, chance: &mut Chance) -> impl Future<Output = ()> + Send + 'static {
        // Some come back only when gateways and Redis had time to forget.
        let late = if chance.percent(40) { LATE } else { Duration::ZERO };
        async move {
            tokio::time::sleep(late).await;
            let until = Instant::now() + PROBED;
            while Instant::now() < until && !self.scene.is_over() {
                for gateway in 0..self.scene.fleet.len() {
                    let asks = self.tab.anything();
                    self.show(Actor::Prober, gateway, asks).await;
                }
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
        }
    }

    /// Where the end failed.
    async fn there(mut self, gateway: usize) {
        let until = Instant::now() + DOUBTED;
        while Instant::now() < until {
            self.show(Actor::Sceptic, gateway, Asks::Known).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    async fn show(&mut self, by: Actor, gateway: usize, asks: Asks) {
        let voice = Voice { by, agent: &self.agent, cookie: &self.cookie, gateway, asks };
        self.tab.ask(&voice, Duration::from_secs(60)).await;
    }
}

/// What a thief does with a copy of a cookie.
#[derive(Clone, Copy)]
enum Manner {
    /// Uses it as it is.
    Ignores,
    /// Takes the successors that he is offered.
    Follows,
}

/// Steals a cookie now and then, and uses it from elsewhere until it is refused.
pub async fn steal(scene: Arc<Scene>, mut chance: Chance) {
    while !scene.is_over() {
        let pause = chance.between(Duration::from_secs(1), Duration::from_secs(3));
        tokio::time::sleep(pause).await;
        let victim = chance.one_of(&scene.people);
        let Some(cookie) = victim.cookie() else { continue };
        let Some(stolen) = token(&cookie) else { continue };
        scene.recorder.add(Event::Stolen { session: stolen.session, at: scene.recorder.now() });
        let manner = *chance.one_of(&[Manner::Ignores, Manner::Follows]);
        use_stolen(&scene, cookie, manner, &mut chance).await;
    }
}

async fn use_stolen(scene: &Arc<Scene>, mut cookie: String, manner: Manner, chance: &mut Chance) {
    let mut tab = Tab::new(scene, Ipv4Addr::new(127, 2, 0, 1), chance.clone());
    for _ in 0..40 {
        if scene.is_over() {
            return;
        }
        let gateway = usize::try_from(chance.below(scene.fleet.len() as u64)).unwrap_or(0);
        let (by, asks) = (Actor::Thief, tab.anything());
        let voice = Voice { by, agent: "Thief/1", cookie: &cookie, gateway, asks };
        if let Some(reply) = tab.ask(&voice, Duration::from_secs(60)).await {
            if reply.status == 401 {
                return;
            }
            let mut jar = Jar::new();
            reply.keep(&mut jar);
            if let (Manner::Follows, Some(next)) = (manner, jar.into_values().next()) {
                cookie = next;
            }
        }
        tokio::time::sleep(chance.between(Duration::from_millis(50), Duration::from_millis(300)))
            .await;
    }
}

/// Has an eye on every second jar (the others shall live on), keeps what was superseded, and shows it when its grace is over.
pub async fn hoard(scene: Arc<Scene>, mut chance: Chance) {
    let mut held: Vec<Option<String>> = vec![None; scene.people.len()];
    let mut thefts = JoinSet::new();
    while !scene.is_over() {
        tokio::time::sleep(Duration::from_millis(60)).await;
        for (victim, held) in scene.people.iter().zip(&mut held).step_by(2) {
            let now = victim.cookie();
            let before = std::mem::replace(held, now.clone());
            if let (Some(old), Some(new)) = (before, now)
                && is_older(&old, &new)
            {
                thefts.spawn(show_late(Arc::clone(&scene), victim.number, old, chance.aside(7)));
                // The next one is another thief.
                chance.below(2);
            }
        }
    }
    thefts.join_all().await;
}

fn is_older(old: &str, new: &str) -> bool {
    let (Some(old), Some(new)) = (token(old), token(new)) else { return false };
    old.session == new.session && old.generation < new.generation
}

async fn show_late(scene: Arc<Scene>, victim: usize, cookie: String, mut chance: Chance) {
    tokio::time::sleep(GRACE_OVER).await;
    let session = token(&cookie).map(|token| token.session);
    if scene.is_over() || session != scene.people[victim].session() {
        return;
    }
    if let Some(session) = session {
        scene.recorder.add(Event::Stolen { session, at: scene.recorder.now() });
        use_stolen(&scene, cookie, Manner::Ignores, &mut chance).await;
    }
}

/// Asks each gateway in turn what it knows of all sessions.
pub async fn observe(scene: Arc<Scene>) {
    for turn in 0.. {
        if scene.is_over() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        let member = &scene.fleet[turn % scene.fleet.len()];
        let Some((200, body)) = operate(&member.socket, Method::GET, "/sessions").await else {
            continue;
        };
        let list: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap_or_default();
        for session in &list {
            scene.recorder.add(seen(session, scene.recorder.now()).expect("a listed session"));
        }
    }
}

fn seen(listed: &serde_json::Value, at: u64) -> Option<Event> {
    Some(Event::Seen {
        session: Session(u64::from_str_radix(listed["session"].as_str()?, 16).ok()?),
        user: listed["user"].as_str()?.to_owned(),
        absolute_end: listed["absolute_end"].as_u64()?,
        at,
    })
}

/// Asks a gateway's admin socket. Nothing, when there is no answer.
async fn operate(socket: &Path, method: Method, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = HttpRequest::builder().method(method).uri(path).header("host", "localhost");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        connection.abort();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok()?
}
