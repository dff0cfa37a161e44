//! Who uses the gateways: honest browsers with several tabs, and a thief with a copy of a cookie.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::Full;

use crate::chance::Chance;
use crate::fleet::{Member, SessionTime};
use crate::history::{Actor, Answer, Asks, At, Ends, Event, Fate, Recorder, Request, Session};
use crate::upstream::MARK;
use crate::wire::{COOKIE, HOST, Jar, Reply, Wire, token};

pub const PASSWORD: &str = "correct horse battery staple";

/// Where the route is that serves who is known.
pub const KNOWN: &str = "/known/";

/// How late an honest request may be sent: with the time that a decision takes, well within the grace.
const STRAGGLE: Duration = Duration::from_millis(1_200);

/// How long nobody is sent to a gateway that had no answer.
const SHUNNED: Duration = Duration::from_secs(3);

/// What everybody shares.
pub struct Scene {
    pub fleet: Vec<Member>,
    pub time: SessionTime,
    pub recorder: Recorder,
    pub trust: Arc<rustls::ClientConfig>,
    pub people: Vec<Profile>,
    pub over: AtomicBool,
    pub last_id: AtomicU64,
}

impl Scene {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// One browser profile: all of its tabs share the jar.
pub struct Profile {
    pub number: usize,
    pub user: String,
    pub agent: String,
    pub from: Ipv4Addr,
    jar: Mutex<Jar>,
    /// One tab logs in, the others wait for it.
    login: tokio::sync::Mutex<()>,
}

impl Profile {
    pub fn new(number: usize, user: String) -> Profile {
        let last = u8::try_from(number).unwrap_or(u8::MAX);
        Profile {
            number,
            user,
            agent: format!("Browser/{number}"),
            from: Ipv4Addr::new(127, 1, last, 1),
            jar: Mutex::default(),
            login: tokio::sync::Mutex::default(),
        }
    }

    fn jar(&self) -> MutexGuard<'_, Jar> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session's cookie.
    pub fn cookie(&self) -> Option<String> {
        self.jar().get(COOKIE).cloned()
    }

    pub fn session(&self) -> Option<Session> {
        Some(token(&self.cookie()?)?.session)
    }

    fn cookies(&self) -> String {
        let jar = self.jar();
        let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// Forgets a session, unless the jar has another by now.
    fn forget(&self, session: Session) {
        let mut jar = self.jar();
        let current = jar.get(COOKIE).and_then(|text| token(text));
        if current.is_some_and(|current| current.session == session) {
            jar.remove(COOKIE);
        }
    }
}

/// Who asks, and with what.
pub struct Voice<'a> {
    pub by: Actor,
    pub agent: &'a str,
    /// The text of a session's cookie.
    pub cookie: &'a str,
    pub gateway: usize,
    pub asks: Asks,
}

/// One tab, or one program that asks.
pub struct Tab {
    scene: Arc<Scene>,
    wire: Wire,
    chance: Chance,
    /// Until when it goes to other gateways than this one.
    shuns: Option<(usize, Instant)>,
}

impl Tab {
    pub fn new(scene: &Arc<Scene>, from: Ipv4Addr, chance: Chance) -> Tab {
        let wire = Wire::new(Arc::clone(&scene.trust), from);
        Tab { scene: Arc::clone(scene), wire, chance, shuns: None }
    }

    /// One request for the app, written into the history.
    pub async fn ask(&mut self, voice: &Voice<'_>, patience: Duration) -> Option<Reply> {
        let recorder = self.scene.recorder.clone();
        let id = self.scene.last_id.fetch_add(1, Ordering::SeqCst);
        let sent = recorder.now();
        let request = app_request(path(voice.asks), id, voice);
        let reply = match self.scene.fleet[voice.gateway].address() {
            Some(to) => tokio::time::timeout(patience, self.wire.send(to, request)).await,
            None => Ok(Err("it is not running".to_owned())),
        };
        let (fate, reply) = match reply {
            Ok(Ok(reply)) => (Fate::Answered(read(&reply)), Some(reply)),
            Ok(Err(error)) => (Fate::NoAnswer(error), None),
            Err(_) => (Fate::Abandoned, None),
        };
        if let Fate::NoAnswer(_) = fate {
            self.shuns = Some((voice.gateway, Instant::now() + SHUNNED));
        }
        let (by, gateway, asks) = (voice.by, voice.gateway, voice.asks);
        let (token, done) = (token(voice.cookie), recorder.now());
        recorder.add(Event::Asked(Request { id, by, gateway, asks, token, sent, done, fate }));
        reply
    }

    /// As a load balancer chooses.
    fn any_gateway(&mut self) -> usize {
        let number = self.scene.fleet.len();
        let chosen = usize::try_from(self.chance.below(number as u64)).unwrap_or(0);
        match self.shuns {
            Some((shunned, until)) if shunned == chosen && Instant::now() < until => {
                (chosen + 1) % number
            }
            Some(_) | None => chosen,
        }
    }

    /// Mostly pages; some of the other route, and some changes there.
    pub fn anything(&mut self) -> Asks {
        match self.chance.below(100) {
            0..70 => Asks::Page,
            70..92 => Asks::Known,
            _ => Asks::Change,
        }
    }

    /// A person in front of one tab, until the scene is over. A page is one request, or several at once
    /// through any gateways.
    pub async fn browse(mut self, profile: usize) {
        let scene = Arc::clone(&self.scene);
        let profile = &scene.people[profile];
        let side = |number| Tab::new(&scene, profile.from, self.chance.aside(number));
        let mut sides = [1, 2, 3].map(side);
        while !scene.is_over() {
            let pause = self.chance.between(Duration::from_millis(40), Duration::from_millis(280));
            tokio::time::sleep(pause).await;
            match profile.cookie() {
                None => self.log_in(profile).await,
                Some(cookie) if self.chance.percent(30) => {
                    let [one, two, three] = sides.each_mut().map(|tab| tab.look(profile, &cookie));
                    tokio::join!(self.look(profile, &cookie), one, two, three);
                }
                Some(cookie) => self.look(profile, &cookie).await,
            }
        }
    }

    /// One request. Some are slow to leave, so that they come with a cookie that was renewed meanwhile;
    /// some answers are lost: nobody waits for them, or their cookies are not kept.
    async fn look(&mut self, profile: &Profile, cookie: &str) {
        if self.chance.percent(6) {
            let late = self.chance.between(Duration::from_millis(200), STRAGGLE);
            tokio::time::sleep(late).await;
        }
        let gateway = self.any_gateway();
        let impatient = self.chance.percent(5);
        let patience = match impatient {
            true => self.chance.between(Duration::ZERO, Duration::from_millis(30)),
            false => Duration::from_secs(60),
        };
        let (by, asks) = (Actor::Browser(profile.number), self.anything());
        let voice = Voice { by, agent: &profile.agent, cookie, gateway, asks };
        let Some(reply) = self.ask(&voice, patience).await else { return };
        if !self.chance.percent(8) {
            reply.keep(&mut profile.jar());
        }
        if reply.status == 401
            && let Some(token) = token(cookie)
        {
            profile.forget(token.session);
        }
    }

    async fn log_in(&mut self, profile: &Profile) {
        let _turn = profile.login.lock().await;
        if profile.cookie().is_some() {
            return;
        }
        let gateway = self.any_gateway();
        let recorder = self.scene.recorder.clone();
        let sent = recorder.now();
        let Some(form) = self.page(profile, gateway, "/.doorward/login", None).await else {
            return;
        };
        let (Some(csrf), Some(to)) = (form.field("csrf"), form.field("to")) else { return };
        let fields = [
            ("username", profile.user.as_str()),
            ("password", PASSWORD),
            ("csrf", &csrf),
            ("to", &to),
        ];
        let answer = self.page(profile, gateway, "/.doorward/login", Some(&fields)).await;
        let begun =
            answer.filter(|answer| answer.status == 303).and_then(|answer| answer.offered());
        if let Some(token) = begun {
            let (session, user) = (token.session, profile.user.clone());
            let done = recorder.now();
            recorder.add(Event::Began { session, user, gateway, sent, done });
        }
    }

    /// Logs out as a person does. Answers when that was acknowledged, and the cookie it ended.
    pub async fn log_out(&mut self, profile: &Profile) -> Option<(At, String)> {
        let recorder = self.scene.recorder.clone();
        let gateway = self.any_gateway();
        let form = self.page(profile, gateway, "/.doorward/logout", None).await?;
        let csrf = form.field("csrf")?;
        let (session, cookie) = (profile.session()?, profile.cookie()?);
        let sent = recorder.now();
        let fields = [("csrf", csrf.as_str())];
        let answer = self.page(profile, gateway, "/.doorward/logout", Some(&fields)).await;
        let is_over = answer.is_some_and(|answer| answer.status == 200 && answer.cleared());
        let done = recorder.now();
        let acked = is_over.then_some(done);
        recorder.add(Event::Ended { what: Ends::One(session), gateway, sent, acked, done });
        Some((acked?, cookie))
    }

    /// One of the gateway's own pages; cookies go and come.
    async fn page(
        &mut self,
        profile: &Profile,
        gateway: usize,
        path: &str,
        form: Option<&[(&str, &str)]>,
    ) -> Option<Reply> {
        let request = page_request(profile, path, form);
        let to: SocketAddr = self.scene.fleet[gateway].address()?;
        let (session, sent) = (profile.session(), self.scene.recorder.now());
        let reply = self.wire.send(to, request).await;
        let done = self.scene.recorder.now();
        if let Some(session) = session {
            self.scene.recorder.add(Event::Came { session, gateway, sent, done });
        }
        let reply = reply.ok()?;
        reply.keep(&mut profile.jar());
        Some(reply)
    }
}

fn read(reply: &Reply) -> Answer {
    let own = reply.headers.contains_key("retry-after");
    let echo = (200..300).contains(&reply.status).then(|| reply.text());
    Answer {
        status: reply.status,
        reason: reply.reason(),
        retry_after: own,
        offered: reply.offered(),
        cleared: reply.cleared(),
        unasked: reply.unasked(),
        echo: echo.map(|text| {
            let (id, user) = text.split_once(' ').unwrap_or_default();
            (id.parse().unwrap_or(u64::MAX), user.to_owned())
        }),
    }
}

fn path(asks: Asks) -> &'static str {
    match asks {
        Asks::Page => "/page",
        Asks::Known | Asks::Change => KNOWN,
    }
}

/// What a page asks its app for.
pub fn app_request(path: &str, id: u64, voice: &Voice<'_>) -> HttpRequest<Full<Bytes>> {
    HttpRequest::builder()
        .method(if voice.asks == Asks::Change { "POST" } else { "GET" })
        .uri(path)
        .header("host", HOST)
        .header("user-agent", voice.agent)
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", format!("{COOKIE}={}", voice.cookie))
        .header(MARK, id)
        .body(Full::default())
        .expect("a request")
}

fn page_request(
    profile: &Profile,
    path: &str,
    form: Option<&[(&str, &str)]>,
) -> HttpRequest<Full<Bytes>> {
    let request = HttpRequest::builder()
        .method(if form.is_some() { "POST" } else { "GET" })
        .uri(path)
        .header("host", HOST)
        .header("user-agent", &profile.agent)
        .header("accept", "text/html")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-site", "same-origin")
        .header("origin", format!("https://{HOST}"))
        .header("content-type", "application/x-www-form-urlencoded");
    let cookies = profile.cookies();
    let request = if cookies.is_empty() { request } else { request.header("cookie", cookies) };
    let body = form.map(|fields| {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
    });
    request.body(Full::from(body.unwrap_or_default())).expect("a request")
}
