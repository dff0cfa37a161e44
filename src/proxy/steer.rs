//! What becomes of the session after the app answered: its own logout, a sensitive action, a word of
//! the app in `Doorward-Session`.
//!
//! Invariants:
//! - the field never reaches a client, on any route; it is obeyed only where the route says so
//! - a session ends on the server first; only then its cookie goes. When it cannot be ended the client
//!   hears 503 and not "goodbye": who believes he is logged out walks away
//! - a token that cannot be renewed stays good: an outage logs nobody out
//! - a client that hangs up changes nothing of it: who clicks on the app's logout and closes the tab is
//!   logged out by the app, and must be so here

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;

use tracing::warn;

use crate::guard::{NewToken, Permit, Sight};
use crate::message::{Asker, InboundHead, Presented, cookies, hygiene};
use crate::portal::Problem;
use crate::route::{Command, Route, says_done};
use crate::session::ClientContext;
use crate::store::Unavailable;

use super::body::ResponseBody;
use super::forward::{Inbound, Upgrade};
use super::line::Line;
use super::{Answer, Caller, Gateway, answers, context};

const FIELD: HeaderName = HeaderName::from_static("doorward-session");

/// The app's word, between its answer and the exit.
#[derive(Clone, Copy)]
struct Said(Command);

/// An admitted request, as a whole.
pub(super) struct Exchange {
    pub(super) head: InboundHead,
    pub(super) body: Incoming,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) caller: Arc<Caller>,
    pub(super) permit: Permit,
    /// The token that goes with the answer.
    pub(super) token: Option<NewToken>,
}

/// A request whose answer may steer its session, remembered until then.
pub(super) struct Steered {
    obeyed: Vec<Command>,
    presented: Presented,
    context: ClientContext,
    asker: Asker,
    logs_out: bool,
    rotates: bool,
}

impl Steered {
    /// `None` for most requests.
    pub(super) fn of(gateway: &Gateway, head: &InboundHead, route: &Route) -> Option<Steered> {
        let steering = &route.steering;
        if steering.is_empty() {
            return None;
        }
        let path = head.target.path();
        let (logs_out, rotates) = (steering.logs_out(path), steering.rotates(&head.method, path));
        if !logs_out && !rotates && steering.obeyed.is_empty() {
            return None;
        }
        let name = &gateway.guard.shared().cookies.session;
        Some(Steered {
            obeyed: steering.obeyed.clone(),
            presented: cookies::find(&head.headers, name),
            context: context(head),
            asker: head.asker.clone(),
            logs_out,
            rotates,
        })
    }

    /// What the answer asks for; the strongest wins.
    fn command(&self, response: &Response<ResponseBody>) -> Option<Command> {
        let said = response.extensions().get::<Said>().map(|said| said.0);
        let said = said.filter(|command| self.obeyed.contains(command));
        if said == Some(Command::EndAll) {
            return said;
        }
        if self.logs_out {
            return Some(Command::End);
        }
        let rotates = self.rotates && says_done(response.status());
        said.or(rotates.then_some(Command::Rotate))
    }
}

/// Takes the field out of an app's answer, and keeps a word that is one.
pub(super) fn take_word<B>(response: &mut Response<B>) {
    if !response.headers().contains_key(FIELD) {
        return;
    }
    let word = lone_value(response.headers()).and_then(|word| Command::of(&word));
    response.headers_mut().remove(FIELD);
    if let Some(command) = word {
        response.extensions_mut().insert(Said(command));
    }
}

fn lone_value(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(FIELD).iter();
    let value = values.next()?.to_str().ok()?.trim().to_owned();
    values.next().is_none().then_some(value)
}

impl Gateway {
    /// Asks the app and does what its answer asks for, in a task that outlives the client.
    pub(super) async fn to_its_end(
        self: &Arc<Self>,
        exchange: Exchange,
        steered: Steered,
        line: &mut Line,
    ) -> Answer {
        let (gateway, asker, mut told) = (Arc::clone(self), steered.asker.clone(), line.clone());
        let done = self.tunnels.tracker.spawn(async move {
            let answer = gateway.exchange(exchange, steered, &mut told).await;
            (answer, told)
        });
        match done.await {
            Ok((answer, told)) => {
                *line = told;
                answer
            }
            Err(_) => {
                let problem = Problem::Upstream(StatusCode::BAD_GATEWAY);
                self.without_token(self.portal.problem(&asker, problem).map(ResponseBody::Own))
            }
        }
    }

    async fn exchange(&self, exchange: Exchange, steered: Steered, line: &mut Line) -> Answer {
        let Exchange { head, body, upgrade, caller, permit, token } = exchange;
        let Some(route) = self.routes.find(&head.host, head.target.path()) else {
            return self.without_token(answers::no_route(&self.portal, &head, line));
        };
        let inbound = Inbound { body, upgrade, caller: &caller };
        let response = self.forward(head, inbound, route, &permit, line).await;
        self.steer(steered, &permit, Answer { response, token }).await
    }

    /// Does what the answer asks for.
    async fn steer(&self, steered: Steered, permit: &Permit, answer: Answer) -> Answer {
        let (Some(command), Some(sight)) = (steered.command(&answer.response), permit.sight())
        else {
            return answer;
        };
        match command {
            Command::Rotate => self.rotate(&steered, answer).await,
            Command::Reauthenticate => {
                let frozen = self.guard.freeze(sight, &steered.context).await;
                self.or_unavailable(&steered, answer, frozen)
            }
            Command::End => {
                let ended = self.guard.end_admitted(sight).await;
                self.ended(&steered, answer, ended)
            }
            Command::EndAll => {
                let ended = self.end_all(sight).await;
                self.ended(&steered, answer, ended)
            }
        }
    }

    async fn rotate(&self, steered: &Steered, answer: Answer) -> Answer {
        match self.guard.rotate_now(&steered.presented, &steered.context).await {
            Ok(None) => answer,
            Ok(token) => Answer { token, ..answer },
            Err(error) => {
                warn!(event = "not-renewed", %error, "a token was to be renewed after a sensitive action and was not; it is renewed by its age");
                answer
            }
        }
    }

    async fn end_all(&self, sight: &Sight) -> Result<(), Unavailable> {
        self.guard.end_all(&sight.record.identity.user, None).await.map(drop)
    }

    fn ended(&self, steered: &Steered, answer: Answer, ended: Result<(), Unavailable>) -> Answer {
        let mut answer = self.or_unavailable(steered, answer, ended.clone());
        if ended.is_ok() {
            answer.token = None;
            hygiene::say_goodbye(answer.response.headers_mut(), &self.guard.shared().cookies);
        }
        answer
    }

    fn or_unavailable(
        &self,
        steered: &Steered,
        answer: Answer,
        done: Result<(), Unavailable>,
    ) -> Answer {
        match done {
            // The app's own word is let run to its end; nothing else of the session is.
            Ok(()) => Answer { response: answer.response.map(ResponseBody::unwatched), ..answer },
            Err(_) => {
                let response = self.portal.unavailable(&steered.asker).map(ResponseBody::Own);
                Answer { response, token: answer.token }
            }
        }
    }
}
