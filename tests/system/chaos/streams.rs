//! Long-lived connections: an event stream, a WebSocket or an upload per browser, reopened when it ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio_tungstenite::tungstenite::Message;

use crate::chaos::browsers::{Profile, RequestSource, Scenario, app_request};
use crate::chaos::client::{COOKIE, Client, HOST, WebSocket, parse_token};
use crate::chaos::history::{Actor, Event, RequestKind, Session};
use crate::chaos::upstream::{SEND_INTERVAL, SOCKET, STREAM, UPLOAD};
use test_support::seeded_rng::SeededRng;

/// A stream without data for this long is reopened, so that the history continues.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// Number of lines in an upload.
const LINES: usize = 60;

/// Keeps one long-lived connection open until the scenario ends.
pub async fn hold_streams(scenario: Arc<Scenario>, profile: usize, mut chance: SeededRng) {
    let profile = &scenario.profiles[profile];
    let client = Client::new(Arc::clone(&scenario.trust), profile.from);
    while !scenario.is_finished() {
        let pause = chance.between(Duration::from_millis(100), Duration::from_millis(400));
        tokio::time::sleep(pause).await;
        let gateway = usize::try_from(chance.below(scenario.fleet.len() as u64)).unwrap_or(0);
        let Some(stream_client) = StreamClient::new(&scenario, profile, gateway) else { continue };
        let (session, sent) = (stream_client.session, scenario.recorder.now());
        match chance.below(3) {
            0 => stream_client.stream(&client).await,
            1 => stream_client.socket(&client).await,
            _ => stream_client.upload(&client).await,
        };
        let done = scenario.recorder.now();
        scenario.recorder.add(Event::OwnPage { session, gateway, sent, done });
    }
}

/// One session at one gateway.
struct StreamClient<'a> {
    scenario: &'a Arc<Scenario>,
    profile: &'a Profile,
    cookie: String,
    session: Session,
    gateway: usize,
}

impl StreamClient<'_> {
    fn new<'a>(
        scenario: &'a Arc<Scenario>,
        profile: &'a Profile,
        gateway: usize,
    ) -> Option<StreamClient<'a>> {
        let cookie = profile.cookie()?;
        let session = parse_token(&cookie)?.session;
        Some(StreamClient { scenario, profile, cookie, session, gateway })
    }

    async fn stream(&self, client: &Client) -> Option<()> {
        let actor = Actor::Browser(self.profile.number);
        let (agent, gateway) = (self.profile.agent.as_str(), self.gateway);
        let source =
            RequestSource { actor, agent, cookie: &self.cookie, gateway, kind: RequestKind::Page };
        let request = app_request(STREAM, 0, &source);
        let response =
            client.open_stream(self.scenario.fleet[gateway].address()?, request).await.ok()?;
        if response.status() == 200 {
            self.read_stream(response.into_body()).await;
        }
        Some(())
    }

    async fn read_stream(&self, mut stream: Incoming) {
        while !self.scenario.is_finished() {
            let Ok(frame) = tokio::time::timeout(READ_TIMEOUT, stream.frame()).await else {
                return;
            };
            let Some(Ok(frame)) = frame else { return self.record_cut() };
            let data = frame.into_data().unwrap_or_default();
            self.record_lines(&String::from_utf8_lossy(&data));
        }
    }

    async fn socket(&self, client: &Client) -> Option<()> {
        let request = self.request("GET", SOCKET);
        let request = request
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .expect("a request");
        let socket =
            client.open_websocket(self.scenario.fleet[self.gateway].address()?, request).await?;
        self.read_socket(socket).await;
        Some(())
    }

    async fn read_socket(&self, mut socket: WebSocket) {
        while !self.scenario.is_finished() {
            let Ok(message) = tokio::time::timeout(READ_TIMEOUT, socket.next()).await else {
                return;
            };
            match message {
                Some(Ok(Message::Text(text))) => self.record_lines(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return self.record_cut(),
            }
        }
    }

    /// Uploads lines; the upstream records their arrival.
    async fn upload(&self, client: &Client) -> Option<()> {
        let line = Bytes::from(format!("{} {:<400}\n", self.session.0, self.gateway));
        let request = self.request("POST", UPLOAD);
        let request =
            request.body(repeated_lines(Arc::clone(self.scenario), line)).expect("a request");
        let to = self.scenario.fleet[self.gateway].address()?;
        let longest = SEND_INTERVAL * u32::try_from(LINES).ok()? + READ_TIMEOUT;
        tokio::time::timeout(longest, client.upload(to, request)).await.ok()?.ok().map(drop)
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
            .header("host", HOST)
            .header("user-agent", &self.profile.agent)
            .header("origin", format!("https://{HOST}"))
            .header("sec-fetch-site", "same-origin")
            .header("cookie", format!("{COOKIE}={}", self.cookie))
    }

    /// Records lines of time and user name.
    fn record_lines(&self, text: &str) {
        for (written_at, user) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let Ok(written_at) = written_at.parse() {
                let (session, gateway, user) = (self.session, self.gateway, user.to_owned());
                self.scenario.recorder.add(Event::StreamLine {
                    session,
                    gateway,
                    user,
                    written_at,
                });
            }
        }
    }

    fn record_cut(&self) {
        let recorder = &self.scenario.recorder;
        let (session, gateway, at) = (self.session, self.gateway, recorder.now());
        if !self.scenario.is_finished() {
            recorder.add(Event::StreamCut { session, gateway, at });
        }
    }
}

/// Returns a body that repeats a line.
fn repeated_lines(scenario: Arc<Scenario>, line: Bytes) -> UnsyncBoxBody<Bytes, Infallible> {
    let lines = stream::unfold((scenario, line, LINES), |(scenario, line, left)| async move {
        tokio::time::sleep(SEND_INTERVAL).await;
        let goes_on = left > 0 && !scenario.is_finished();
        goes_on.then(|| (Ok(Frame::data(line.clone())), (scenario, line, left - 1)))
    });
    StreamBody::new(lines).boxed_unsync()
}
