//! Honest browsers with several tabs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::Full;
use parking_lot::Mutex;

use crate::chaos::client::{COOKIE, Client, HOST, HttpResponse, Jar, parse_token};
use crate::chaos::gateway_process::{GatewayProcess, SessionTime};
use crate::chaos::history::{
    Actor, EndTarget, Event, Millis, RecordedResponse, Recorder, Request, RequestKind,
    RequestOutcome, Session,
};
use crate::chaos::upstream::REQUEST_ID_HEADER;
use test_support::seeded_rng::SeededRng;

pub const PASSWORD: &str = "correct horse battery staple";

/// Path of the route that allows stale reads.
pub const STALE_READ_PATH: &str = "/known/";

/// Longest delay before an honest request is sent; well within the grace period.
const MAX_SEND_DELAY: Duration = Duration::from_millis(1_200);

/// How long clients avoid a gateway that did not respond.
const AVOID_FOR: Duration = Duration::from_secs(3);

/// State shared by all actors.
pub struct Scenario {
    pub fleet: Vec<GatewayProcess>,
    pub time: SessionTime,
    pub recorder: Recorder,
    pub trust: Arc<rustls::ClientConfig>,
    pub profiles: Vec<Profile>,
    pub finished: AtomicBool,
    pub last_id: AtomicU64,
}

impl Scenario {
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }
}

/// A browser profile; its tabs share the jar.
pub struct Profile {
    pub number: usize,
    pub user: String,
    pub agent: String,
    pub from: Ipv4Addr,
    jar: Mutex<Jar>,
    /// Held by the tab that logs in; the other tabs wait.
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

    /// Returns the session token, if any.
    pub fn cookie(&self) -> Option<String> {
        self.jar.lock().get(COOKIE).cloned()
    }

    pub fn session(&self) -> Option<Session> {
        Some(parse_token(&self.cookie()?)?.session)
    }

    fn cookies(&self) -> String {
        let jar = self.jar.lock();
        let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// Removes a session from the jar, unless another one has replaced it.
    fn drop_session(&self, session: Session) {
        let mut jar = self.jar.lock();
        let current = jar.get(COOKIE).and_then(|text| parse_token(text));
        if current.is_some_and(|current| current.session == session) {
            jar.remove(COOKIE);
        }
    }
}

/// The sender and the cookie of a request.
pub struct RequestSource<'a> {
    pub actor: Actor,
    pub agent: &'a str,
    /// The session token.
    pub cookie: &'a str,
    pub gateway: usize,
    pub kind: RequestKind,
}

/// A tab, or a program that sends requests.
pub struct Tab {
    scenario: Arc<Scenario>,
    client: Client,
    chance: SeededRng,
    /// A gateway to avoid and the end of that period.
    avoided: Option<(usize, Instant)>,
}

impl Tab {
    pub fn new(scenario: &Arc<Scenario>, from: Ipv4Addr, chance: SeededRng) -> Tab {
        let client = Client::new(Arc::clone(&scenario.trust), from);
        Tab { scenario: Arc::clone(scenario), client, chance, avoided: None }
    }

    /// Sends a request for the upstream and records it in the history.
    pub async fn request(
        &mut self,
        source: &RequestSource<'_>,
        time_limit: Duration,
    ) -> Option<HttpResponse> {
        let recorder = self.scenario.recorder.clone();
        let id = self.scenario.last_id.fetch_add(1, Ordering::SeqCst);
        let sent = recorder.now();
        let request = app_request(path(source.kind), id, source);
        let response = match self.scenario.fleet[source.gateway].address() {
            Some(to) => tokio::time::timeout(time_limit, self.client.send(to, request)).await,
            None => Ok(Err("it is not running".to_owned())),
        };
        let (outcome, response) = match response {
            Ok(Ok(response)) => {
                (RequestOutcome::Response(record_response(&response)), Some(response))
            }
            Ok(Err(error)) => (RequestOutcome::NoResponse(error), None),
            Err(_) => (RequestOutcome::Abandoned, None),
        };
        if let RequestOutcome::NoResponse(_) = outcome {
            self.avoided = Some((source.gateway, Instant::now() + AVOID_FOR));
        }
        let (actor, gateway, kind) = (source.actor, source.gateway, source.kind);
        let (token, done) = (parse_token(source.cookie), recorder.now());
        recorder.add(Event::Requested(Request {
            id,
            actor,
            gateway,
            kind,
            token,
            sent,
            done,
            outcome,
        }));
        response
    }

    /// Returns a random gateway, as a load balancer would.
    fn any_gateway(&mut self) -> usize {
        let number = self.scenario.fleet.len();
        let chosen = usize::try_from(self.chance.below(number as u64)).unwrap_or(0);
        match self.avoided {
            Some((avoided_gateway, until))
                if avoided_gateway == chosen && Instant::now() < until =>
            {
                (chosen + 1) % number
            }
            Some(_) | None => chosen,
        }
    }

    /// Returns a random kind: mostly pages, some stale-readable pages and some writes.
    pub fn any_kind(&mut self) -> RequestKind {
        match self.chance.below(100) {
            0..70 => RequestKind::Page,
            70..92 => RequestKind::StaleReadable,
            _ => RequestKind::Write,
        }
    }

    /// Loads pages until the scenario ends. A page is one request, or several in parallel at any gateways.
    pub async fn browse(mut self, profile: usize) {
        let scenario = Arc::clone(&self.scenario);
        let profile = &scenario.profiles[profile];
        let parallel_tab = |number| Tab::new(&scenario, profile.from, self.chance.fork(number));
        let mut parallel_tabs = [1, 2, 3].map(parallel_tab);
        while !scenario.is_finished() {
            let pause = self.chance.between(Duration::from_millis(40), Duration::from_millis(280));
            tokio::time::sleep(pause).await;
            match profile.cookie() {
                None => self.log_in(profile).await,
                Some(cookie) if self.chance.percent(30) => {
                    let [one, two, three] =
                        parallel_tabs.each_mut().map(|tab| tab.load_page(profile, &cookie));
                    tokio::join!(self.load_page(profile, &cookie), one, two, three);
                }
                Some(cookie) => self.load_page(profile, &cookie).await,
            }
        }
    }

    /// Sends one request. Some are delayed, so that their token is superseded on arrival. Some responses are lost, or
    /// their cookies are.
    async fn load_page(&mut self, profile: &Profile, cookie: &str) {
        if self.chance.percent(6) {
            let late = self.chance.between(Duration::from_millis(200), MAX_SEND_DELAY);
            tokio::time::sleep(late).await;
        }
        let gateway = self.any_gateway();
        let impatient = self.chance.percent(5);
        let time_limit = match impatient {
            true => self.chance.between(Duration::ZERO, Duration::from_millis(30)),
            false => Duration::from_secs(60),
        };
        let (actor, kind) = (Actor::Browser(profile.number), self.any_kind());
        let source = RequestSource { actor, agent: &profile.agent, cookie, gateway, kind };
        let Some(response) = self.request(&source, time_limit).await else { return };
        if !self.chance.percent(8) {
            response.store_cookies(&mut profile.jar.lock());
        }
        if response.status == 401
            && let Some(token) = parse_token(cookie)
        {
            profile.drop_session(token.session);
        }
    }

    async fn log_in(&mut self, profile: &Profile) {
        let _turn = profile.login.lock().await;
        if profile.cookie().is_some() {
            return;
        }
        let gateway = self.any_gateway();
        let recorder = self.scenario.recorder.clone();
        let sent = recorder.now();
        let Some(form) = self.page(profile, gateway, "/.doorward/login", None).await else {
            return;
        };
        let (Some(csrf), Some(to)) = (form.form_field("csrf"), form.form_field("to")) else {
            return;
        };
        let fields = [
            ("username", profile.user.as_str()),
            ("password", PASSWORD),
            ("csrf", &csrf),
            ("to", &to),
        ];
        let response = self.page(profile, gateway, "/.doorward/login", Some(&fields)).await;
        let token = response
            .filter(|response| response.status == 303)
            .and_then(|response| response.new_token());
        if let Some(token) = token {
            let (session, user) = (token.session, profile.user.clone());
            let done = recorder.now();
            recorder.add(Event::LoggedIn { session, user, gateway, sent, done });
        }
    }

    /// Logs out through the logout page; returns the time of the acknowledgement and the ended token.
    pub async fn log_out(&mut self, profile: &Profile) -> Option<(Millis, String)> {
        let recorder = self.scenario.recorder.clone();
        let gateway = self.any_gateway();
        let form = self.page(profile, gateway, "/.doorward/logout", None).await?;
        let csrf = form.form_field("csrf")?;
        let (session, cookie) = (profile.session()?, profile.cookie()?);
        let sent = recorder.now();
        let fields = [("csrf", csrf.as_str())];
        let response = self.page(profile, gateway, "/.doorward/logout", Some(&fields)).await;
        let is_finished =
            response.is_some_and(|response| response.status == 200 && response.deletes_cookie());
        let done = recorder.now();
        let acked = is_finished.then_some(done);
        recorder.add(Event::Ended {
            what: EndTarget::Session(session),
            gateway,
            sent,
            acked,
            done,
        });
        Some((acked?, cookie))
    }

    /// Requests one of the gateway's own pages with the cookies of the jar.
    async fn page(
        &mut self,
        profile: &Profile,
        gateway: usize,
        path: &str,
        form: Option<&[(&str, &str)]>,
    ) -> Option<HttpResponse> {
        let request = page_request(profile, path, form);
        let to: SocketAddr = self.scenario.fleet[gateway].address()?;
        let (session, sent) = (profile.session(), self.scenario.recorder.now());
        let response = self.client.send(to, request).await;
        let done = self.scenario.recorder.now();
        if let Some(session) = session {
            self.scenario.recorder.add(Event::OwnPage { session, gateway, sent, done });
        }
        let response = response.ok()?;
        response.store_cookies(&mut profile.jar.lock());
        Some(response)
    }
}

fn record_response(response: &HttpResponse) -> RecordedResponse {
    let own = response.headers.contains_key("retry-after");
    let echo = (200..300).contains(&response.status).then(|| response.text());
    RecordedResponse {
        status: response.status,
        reason: response.reason(),
        retry_after: own,
        new_token: response.new_token(),
        deletes_cookie: response.deletes_cookie(),
        is_stale: response.is_stale(),
        echo: echo.map(|text| {
            let (id, user) = text.split_once(' ').unwrap_or_default();
            (id.parse().unwrap_or(u64::MAX), user.to_owned())
        }),
    }
}

fn path(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Page => "/page",
        RequestKind::StaleReadable | RequestKind::Write => STALE_READ_PATH,
    }
}

/// Builds a request for the upstream.
pub fn app_request(path: &str, id: u64, source: &RequestSource<'_>) -> HttpRequest<Full<Bytes>> {
    HttpRequest::builder()
        .method(if source.kind == RequestKind::Write { "POST" } else { "GET" })
        .uri(path)
        .header("host", HOST)
        .header("user-agent", source.agent)
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", format!("{COOKIE}={}", source.cookie))
        .header(REQUEST_ID_HEADER, id)
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
