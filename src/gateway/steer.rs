//! What becomes of the session after the app answered: its own logout, a sensitive action, a word of
//! the app in `Doorward-Session`.
//!
//! Invariants:
//! - the field never reaches a client, on any route; it is obeyed only where the route says so
//! - a session ends on the server first; only then its cookie goes. When it cannot be ended the client
//!   hears 503 and not "goodbye": who believes he is logged out walks away
//! - a token that cannot be renewed stays good: an outage logs nobody out

use http::header::HeaderName;
use http::{HeaderMap, Response};
use tracing::warn;

use crate::guard::{Permit, Sight};
use crate::http::{Asker, InboundHead, Presented, cookies, hygiene};
use crate::route::{Command, Route, Steering, says_done};
use crate::session::ClientContext;
use crate::store::Unavailable;

use super::body::ResponseBody;
use super::{Answer, Gateway, context};

const FIELD: HeaderName = HeaderName::from_static("doorward-session");

/// The app's word, between its answer and the exit.
#[derive(Clone, Copy)]
struct Said(Command);

/// A request whose answer may steer its session, remembered until then.
pub(super) struct Steered<'a> {
    steering: &'a Steering,
    presented: Presented,
    context: ClientContext,
    asker: Asker,
    logs_out: bool,
    rotates: bool,
}

impl<'a> Steered<'a> {
    /// `None` for most requests.
    pub(super) fn of(
        gateway: &Gateway,
        head: &InboundHead,
        route: &'a Route,
    ) -> Option<Steered<'a>> {
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
            steering,
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
        let said = said.filter(|command| self.steering.obeyed.contains(command));
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
    /// Does what the answer asks for.
    pub(super) async fn steer(
        &self,
        steered: Steered<'_>,
        permit: &Permit,
        answer: Answer,
    ) -> Answer {
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

    async fn rotate(&self, steered: &Steered<'_>, answer: Answer) -> Answer {
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

    fn ended(
        &self,
        steered: &Steered<'_>,
        answer: Answer,
        ended: Result<(), Unavailable>,
    ) -> Answer {
        let mut answer = self.or_unavailable(steered, answer, ended.clone());
        if ended.is_ok() {
            // The app's own goodbye is let run to its end; nothing else of the session is.
            answer.response = answer.response.map(ResponseBody::unwatched);
            answer.token = None;
            hygiene::say_goodbye(answer.response.headers_mut(), &self.guard.shared().cookies);
        }
        answer
    }

    fn or_unavailable(
        &self,
        steered: &Steered<'_>,
        answer: Answer,
        done: Result<(), Unavailable>,
    ) -> Answer {
        match done {
            Ok(()) => answer,
            Err(_) => {
                let response = self.portal.unavailable(&steered.asker).map(ResponseBody::Own);
                Answer { response, token: answer.token }
            }
        }
    }
}
