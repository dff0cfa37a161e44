//! Pages that stay with their app: an event stream, a WebSocket or an upload for each browser, begun again
//! when it ends.

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

use crate::chance::Chance;
use crate::history::{Actor, Asks, Event, Session};
use crate::people::{Profile, Scene, Voice, app_request};
use crate::upstream::{SOCKET, STREAM, TICK, UPLOAD};
use crate::wire::{COOKIE, HOST, WebSocket, Wire, token};

/// Who hears nothing for so long opens another one, as browsers do not: it keeps the history going.
const SILENCE: Duration = Duration::from_secs(4);

/// Lines of an upload; then another one begins.
const LINES: usize = 60;

/// Stays with the app until the scene is over.
pub async fn listen(scene: Arc<Scene>, profile: usize, mut chance: Chance) {
    let profile = &scene.people[profile];
    let wire = Wire::new(Arc::clone(&scene.trust), profile.from);
    while !scene.is_over() {
        let pause = chance.between(Duration::from_millis(100), Duration::from_millis(400));
        tokio::time::sleep(pause).await;
        let gateway = usize::try_from(chance.below(scene.fleet.len() as u64)).unwrap_or(0);
        let Some(seat) = Seat::of(&scene, profile, gateway) else { continue };
        let (session, sent) = (seat.session, scene.recorder.now());
        match chance.below(3) {
            0 => seat.stream(&wire).await,
            1 => seat.socket(&wire).await,
            _ => seat.upload(&wire).await,
        };
        let done = scene.recorder.now();
        scene.recorder.add(Event::Came { session, gateway, sent, done });
    }
}

/// One session at one gateway.
struct Seat<'a> {
    scene: &'a Arc<Scene>,
    profile: &'a Profile,
    cookie: String,
    session: Session,
    gateway: usize,
}

impl Seat<'_> {
    fn of<'a>(scene: &'a Arc<Scene>, profile: &'a Profile, gateway: usize) -> Option<Seat<'a>> {
        let cookie = profile.cookie()?;
        let session = token(&cookie)?.session;
        Some(Seat { scene, profile, cookie, session, gateway })
    }

    async fn stream(&self, wire: &Wire) -> Option<()> {
        let by = Actor::Browser(self.profile.number);
        let (agent, gateway) = (self.profile.agent.as_str(), self.gateway);
        let voice = Voice { by, agent, cookie: &self.cookie, gateway, asks: Asks::Page };
        let request = app_request(STREAM, 0, &voice);
        let answer = wire.begin(self.scene.fleet[gateway].address()?, request).await.ok()?;
        if answer.status() == 200 {
            self.hear_stream(answer.into_body()).await;
        }
        Some(())
    }

    async fn hear_stream(&self, mut stream: Incoming) {
        while !self.scene.is_over() {
            let Ok(frame) = tokio::time::timeout(SILENCE, stream.frame()).await else { return };
            let Some(Ok(frame)) = frame else { return self.was_cut() };
            let data = frame.into_data().unwrap_or_default();
            self.heard(&String::from_utf8_lossy(&data));
        }
    }

    async fn socket(&self, wire: &Wire) -> Option<()> {
        let request = self.request("GET", SOCKET);
        let request = request
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .expect("a request");
        let socket = wire.open(self.scene.fleet[self.gateway].address()?, request).await?;
        self.hear_socket(socket).await;
        Some(())
    }

    async fn hear_socket(&self, mut socket: WebSocket) {
        while !self.scene.is_over() {
            let Ok(message) = tokio::time::timeout(SILENCE, socket.next()).await else { return };
            match message {
                Some(Ok(Message::Text(text))) => self.heard(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return self.was_cut(),
            }
        }
    }

    /// Speaks; what the app hears of it, it writes down itself.
    async fn upload(&self, wire: &Wire) -> Option<()> {
        let line = Bytes::from(format!("{} {:<400}\n", self.session.0, self.gateway));
        let request = self.request("POST", UPLOAD);
        let request = request.body(talk(Arc::clone(self.scene), line)).expect("a request");
        let to = self.scene.fleet[self.gateway].address()?;
        let longest = TICK * u32::try_from(LINES).ok()? + SILENCE;
        tokio::time::timeout(longest, wire.pour(to, request)).await.ok()?.ok().map(drop)
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

    /// Lines of when they were written, and for whom.
    fn heard(&self, text: &str) {
        for (told, user) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let Ok(told) = told.parse() {
                let (session, gateway, user) = (self.session, self.gateway, user.to_owned());
                self.scene.recorder.add(Event::Heard { session, gateway, user, told });
            }
        }
    }

    fn was_cut(&self) {
        let recorder = &self.scene.recorder;
        let (session, gateway, at) = (self.session, self.gateway, recorder.now());
        if !self.scene.is_over() {
            recorder.add(Event::Cut { session, gateway, at });
        }
    }
}

/// A body of one line again and again, until it was said often enough.
fn talk(scene: Arc<Scene>, line: Bytes) -> UnsyncBoxBody<Bytes, Infallible> {
    let lines = stream::unfold((scene, line, LINES), |(scene, line, left)| async move {
        tokio::time::sleep(TICK).await;
        let goes_on = left > 0 && !scene.is_over();
        goes_on.then(|| (Ok(Frame::data(line.clone())), (scene, line, left - 1)))
    });
    StreamBody::new(lines).boxed_unsync()
}
