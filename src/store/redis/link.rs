//! One question, until it is answered or its time is over.
//!
//! Where a question goes is decided anew at each attempt, by the map of that moment. What a server says
//! may change the map ([`Remedy`]); the question then goes where it belongs. Invariants:
//! - everything together has one deadline
//! - no more than [`IN_FLIGHT`] questions of one worker wait; one more is refused at once
//! - a question that may have been carried out is repeated only because all of them can be

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, from_redis_value};
use tokio::sync::Semaphore;

use super::Redis;
use super::breaker::Open;
use super::lanes::Lanes;
use super::scripts::Call;
use super::server::{Answer, Failure, Sent, Server, Wait};
use super::slots::Slot;
use super::topology::Map;
use super::trouble::{Remedy, redirected, remedy};
use crate::store::{Durability, Unavailable};

/// Questions of one worker that may wait for Redis. More would only wait behind these.
const IN_FLIGHT: usize = 1_024;
/// Attempts of one question; its deadline comes first unless servers send it in circles.
const ATTEMPTS: usize = 64;
/// While half of a user's keys are on their way.
const UNSETTLED: Duration = Duration::from_millis(15);

/// What one worker holds.
pub(super) struct Own {
    in_flight: Semaphore,
    wires: Mutex<Wires>,
}

/// Connections to the servers of one map: by the server's place in memory, which they keep alive.
#[derive(Default)]
struct Wires {
    version: u64,
    by_server: HashMap<usize, Arc<Lanes>>,
}

impl Default for Own {
    fn default() -> Own {
        Own { in_flight: Semaphore::new(IN_FLIGHT), wires: Mutex::default() }
    }
}

/// Whom to ask.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Whoever has the slot.
    Slot(Slot),
    /// This one.
    At(&'a Arc<Server>),
}

/// One thing to ask.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    Command(&'a Cmd),
    Script(&'a Call<'a>),
}

impl Ask<'_> {
    fn written(self, by_text: bool) -> Cmd {
        match self {
            Ask::Command(command) => command.clone(),
            Ask::Script(call) if by_text => call.by_text(),
            Ask::Script(call) => call.by_hash(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refused {
    /// Half of the keys are on their way to another server, and that did not end.
    Unsettled,
    Unavailable(Unavailable),
}

impl From<Refused> for Unavailable {
    fn from(refused: Refused) -> Unavailable {
        match refused {
            Refused::Unsettled => Unavailable("Redis is moving these keys".to_owned()),
            Refused::Unavailable(unavailable) => unavailable,
        }
    }
}

impl Redis {
    /// Asks whoever it concerns.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        place: Place<'_>,
        ask: Ask<'_>,
    ) -> Result<T, Unavailable> {
        let answer = self.answer(Question::new(place, ask)).await?;
        self.read(answer)
    }

    /// As [`Redis::ask`], but says at once when half of the keys are on their way.
    pub(super) async fn ask_settled<T: FromRedisValue>(
        &self,
        place: Place<'_>,
        ask: Ask<'_>,
    ) -> Result<T, Refused> {
        let question = Question { is_patient: false, ..Question::new(place, ask) };
        let answer = self.answer(question).await?;
        self.read(answer).map_err(Refused::Unavailable)
    }

    /// Writes what must not be lost, and says who has it.
    pub(super) async fn write<T: FromRedisValue>(
        &self,
        place: Place<'_>,
        ask: Ask<'_>,
    ) -> Result<(T, Durability), Unavailable> {
        let wait = self.shared.wait;
        let answer = self.answer(Question { wait, ..Question::new(place, ask) }).await?;
        let durability = match (wait, answer.replicas) {
            (Some(Wait { replicas: asked, .. }), got) => {
                Durability::Replicated { asked, got: got.unwrap_or(0) }
            }
            (None, _) => Durability::Unasked,
        };
        Ok((self.read(answer)?, durability))
    }

    fn read<T: FromRedisValue>(&self, answer: Answer) -> Result<T, Unavailable> {
        from_redis_value(answer.value).map_err(|error| self.strange(&error.to_string()))
    }

    async fn answer(&self, mut question: Question<'_>) -> Result<Answer, Refused> {
        let Ok(_permit) = self.own.in_flight.try_acquire() else {
            self.shared.counters.shed.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Unavailable(Unavailable(format!(
                "{IN_FLIGHT} questions of this worker wait for Redis at {} already",
                self.shared.name
            ))));
        };
        let limit = self.limit(&question);
        match tokio::time::timeout(limit, self.attempts(&mut question)).await {
            Ok(answer) => answer,
            Err(_) => {
                let silent = || self.shared.dialer.silent(&self.shared.name, limit);
                Err(Refused::Unavailable(question.waits_for.unwrap_or_else(silent)))
            }
        }
    }

    fn limit(&self, question: &Question<'_>) -> Duration {
        let dialer = &self.shared.dialer;
        let wait = question.wait.map_or(Duration::ZERO, |wait| wait.timeout);
        dialer.connect_timeout().saturating_add(dialer.response_timeout).saturating_add(wait)
    }

    /// What several questions may take together: a connection and two slow answers; and replicas that are
    /// waited for by each write of a login, which ends older sessions too.
    pub(in crate::store) fn patience(&self) -> Duration {
        let dialer = &self.shared.dialer;
        let wait = self.shared.wait.map_or(Duration::ZERO, |wait| wait.timeout);
        let answers = dialer.response_timeout.saturating_mul(2);
        dialer.connect_timeout().saturating_add(answers).saturating_add(wait.saturating_mul(3))
    }

    async fn attempts(&self, question: &mut Question<'_>) -> Result<Answer, Refused> {
        let mut last = None;
        while question.attempts < ATTEMPTS {
            question.attempts += 1;
            let map = self.shared.topology.map();
            let server = match self.destination(&map, question) {
                Some(server) => server,
                None => {
                    self.look(&map, None).await?;
                    continue;
                }
            };
            let failure = match self.send(&map, &server, question).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            question.asking = None;
            match failure {
                Failure::Open(open) => self.elsewhere(&map, &server, &open).await?,
                Failure::Redis(error) => {
                    self.mend(&map, &server, question, &error).await?;
                    last = Some((server, error));
                }
            }
        }
        let told = last.map(|(server, error)| self.told(&server, &error));
        Err(Refused::Unavailable(told.unwrap_or_else(|| self.strange("in circles"))))
    }

    fn destination(&self, map: &Map, question: &mut Question<'_>) -> Option<Arc<Server>> {
        match (&question.asking, question.place) {
            (Some(server), _) => Some(Arc::clone(server)),
            (None, Place::At(server)) => Some(Arc::clone(server)),
            (None, Place::Slot(slot)) => map.owner(slot).map(Arc::clone),
        }
    }

    async fn send(
        &self,
        map: &Map,
        server: &Arc<Server>,
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        let command = question.ask.written(question.by_text);
        let sent = Sent {
            command: &command,
            asking: question.asking.is_some(),
            wait: question.wait,
            round_trips: &self.shared.counters.round_trips,
        };
        let lanes = self.lanes(map, server);
        lanes.send(&self.shared.dialer, sent).await
    }

    /// Makes the next attempt a better one, or says why there is none.
    async fn mend(
        &self,
        map: &Map,
        server: &Server,
        question: &mut Question<'_>,
        error: &RedisError,
    ) -> Result<(), Refused> {
        let failed = || Refused::Unavailable(self.told(server, error));
        if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript)) {
            let is_new = !std::mem::replace(&mut question.by_text, true);
            return if is_new { Ok(()) } else { Err(failed()) };
        }
        let (topology, dialer) = (&self.shared.topology, &self.shared.dialer);
        let host = redirected(&server.address, "").map(|at| at.host).unwrap_or_default();
        match (remedy(error, &host), question.place) {
            (Remedy::Moved(at), Place::Slot(slot)) if topology.is_cluster() => {
                topology.moved(dialer, slot, &at);
            }
            (Remedy::Ask(at), Place::Slot(_)) if topology.is_cluster() => {
                question.asking = Some(topology.taking_over(dialer, &at));
            }
            (Remedy::Patience, _) if !question.is_patient => return Err(Refused::Unsettled),
            (Remedy::Patience, _) => {
                question.waits_for = Some(self.told(server, error));
                tokio::time::sleep(UNSETTLED).await;
                // That is no circle: it ends by the deadline.
                question.attempts = 0;
            }
            (Remedy::Again, _) if !std::mem::replace(&mut question.broke, true) => {}
            (Remedy::Look | Remedy::Again, Place::Slot(_)) => {
                self.look(map, Some(failed())).await?;
            }
            (Remedy::Moved(_) | Remedy::Ask(_) | Remedy::Look | Remedy::Again, _)
            | (Remedy::None, _) => return Err(failed()),
        }
        Ok(())
    }

    /// Looks for a newer map. There is another attempt only when there is one.
    async fn look(&self, map: &Map, failed: Option<Refused>) -> Result<(), Refused> {
        match (self.shared.topology.look(&self.shared.dialer, map.version()).await, failed) {
            (Ok(true), _) => Ok(()),
            (_, Some(failed)) => Err(failed),
            (Ok(false), None) => Err(Refused::Unavailable(Unavailable(format!(
                "Redis at {} has no primary for these keys; look at CLUSTER INFO",
                self.shared.name
            )))),
            (Err(trouble), None) => Err(Refused::Unavailable(trouble)),
        }
    }

    /// The server is left alone. One of all questions looks whether another one took its place.
    async fn elsewhere(&self, map: &Map, server: &Server, open: &Open) -> Result<(), Refused> {
        let topology = &self.shared.topology;
        if topology.look_if_nobody_does(&self.shared.dialer, map.version()).await {
            return Ok(());
        }
        Err(Refused::Unavailable(Unavailable(format!(
            "{} (left alone for a moment: {})",
            open.cause, server.address
        ))))
    }

    fn told(&self, server: &Server, error: &RedisError) -> Unavailable {
        self.shared.dialer.told(&server.address, error)
    }

    /// The worker's connections to a server.
    fn lanes(&self, map: &Map, server: &Arc<Server>) -> Arc<Lanes> {
        let mut wires = self.own.wires.lock().unwrap_or_else(PoisonError::into_inner);
        if wires.version < map.version() {
            wires.version = map.version();
            let stays = |lanes: &Lanes| {
                map.primaries.iter().any(|server| Arc::ptr_eq(server, lanes.server()))
            };
            wires.by_server.retain(|_, lanes| stays(lanes));
        }
        let made = wires.by_server.entry(Arc::as_ptr(server).addr());
        let new = || Arc::new(Lanes::new(Arc::clone(server), self.shared.dialer.patience()));
        Arc::clone(made.or_insert_with(new))
    }
}

/// A question under way.
struct Question<'a> {
    place: Place<'a>,
    ask: Ask<'a>,
    wait: Option<Wait>,
    /// Waits while half of the keys are on their way.
    is_patient: bool,
    /// The server that is taking over, for the next attempt.
    asking: Option<Arc<Server>>,
    by_text: bool,
    /// A connection broke under it once.
    broke: bool,
    /// Since the last time it waited.
    attempts: usize,
    /// Why it waits, when it does: what an operator has to hear when its time is over.
    waits_for: Option<Unavailable>,
}

impl<'a> Question<'a> {
    fn new(place: Place<'a>, ask: Ask<'a>) -> Question<'a> {
        Question {
            place,
            ask,
            wait: None,
            is_patient: true,
            asking: None,
            by_text: false,
            broke: false,
            attempts: 0,
            waits_for: None,
        }
    }
}
