//! A page that listens to its app: one event stream for each browser, opened again when it ends.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::chance::Chance;
use crate::history::{Actor, Event, Session};
use crate::people::{Profile, Scene, Voice, app_request};
use crate::upstream::STREAM;
use crate::wire::{Wire, token};

/// Who hears nothing for so long opens another one, as browsers do not: it keeps the history going.
const SILENCE: Duration = Duration::from_secs(4);

/// Listens until the scene is over.
pub async fn listen(scene: Arc<Scene>, profile: usize, mut chance: Chance) {
    let profile = &scene.people[profile];
    let wire = Wire::new(Arc::clone(&scene.trust), profile.from);
    while !scene.is_over() {
        let pause = chance.between(Duration::from_millis(100), Duration::from_millis(400));
        tokio::time::sleep(pause).await;
        let gateway = usize::try_from(chance.below(scene.fleet.len() as u64)).unwrap_or(0);
        if let Some((session, stream)) = tune_in(&scene, profile, &wire, gateway).await {
            hear(&scene, session, gateway, stream).await;
        }
    }
}

async fn tune_in(
    scene: &Scene,
    profile: &Profile,
    wire: &Wire,
    gateway: usize,
) -> Option<(Session, Incoming)> {
    let cookie = profile.cookie()?;
    let session = token(&cookie)?.session;
    let by = Actor::Browser(profile.number);
    let voice = Voice { by, agent: &profile.agent, cookie: &cookie, gateway };
    let request = app_request(STREAM, 0, &voice);
    let answer = wire.begin(scene.fleet[gateway].address()?, request).await.ok()?;
    (answer.status() == 200).then(|| (session, answer.into_body()))
}

async fn hear(scene: &Scene, session: Session, gateway: usize, mut stream: Incoming) {
    let recorder = &scene.recorder;
    while !scene.is_over() {
        let Ok(frame) = tokio::time::timeout(SILENCE, stream.frame()).await else { return };
        let Some(Ok(frame)) = frame else {
            return recorder.add(Event::Cut { session, gateway, at: recorder.now() });
        };
        let data = frame.into_data().unwrap_or_default();
        let text = String::from_utf8_lossy(&data).into_owned();
        for (told, user) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let Ok(told) = told.parse() {
                let user = user.to_owned();
                recorder.add(Event::Heard { session, gateway, user, told });
            }
        }
    }
}
