//! One request's way to a permit.

mod attempt;
mod ending;
mod moved;
mod tidings;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::Presented;
use crate::route::Requirement;
use crate::secret::KeyRing;
use crate::session::{
    ClientContext, EndReason, Identity, Record, RoutePolicy, SessionKey, Standing, Successor,
    Timing, Token,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use attempt::Attempt;

use super::live::Mark;
use super::{Denial, Guard, NewToken, Permit, Sight};

/// Lost swaps before the store is called unavailable. Each loss means that another request won.
const ATTEMPTS: usize = 32;

/// What a request brings to the door.
pub struct Visit<'a> {
    pub presented: &'a Presented,
    pub context: &'a ClientContext,
    pub policy: &'a RoutePolicy,
    pub requirement: &'a Requirement,
    pub timing: Timing,
    /// Whether it keeps the session from idling out.
    pub activity: bool,
    /// For how long a session that was seen alive may read while the store is away.
    pub serve_known_for: Option<Duration>,
}

/// What the guard says, and the token that the answer carries in either case.
pub struct Entry {
    pub verdict: Result<Permit, Denial>,
    pub token: Option<NewToken>,
}

/// A session as the store and the decision left it.
pub struct Admitted {
    /// Who the user is now.
    pub identity: Arc<Identity>,
    pub record: Arc<Record>,
    pub key: SessionKey,
    pub standing: Standing,
    pub token: Option<NewToken>,
    mark: Mark,
    checked: Instant,
    /// Served by what is known, while the store is away.
    unasked: bool,
}

impl Guard {
    /// Decides one request.
    pub async fn enter(&self, visit: &Visit<'_>) -> Entry {
        match self.admit(visit).await {
            Ok(admitted) => self.require(visit, admitted),
            Err(denial) => Entry { verdict: Err(denial), token: None },
        }
    }

    /// Decides whether the session lives, without asking what it is for.
    pub async fn admit(&self, visit: &Visit<'_>) -> Result<Admitted, Denial> {
        let keys = self.shared.keys.load_full();
        let token = self.token(&keys, visit)?;
        // Before the store is asked: an end that comes later than this is heard of.
        let mark = self.shared.live.mark();
        let attempt = Attempt { guard: self, keys: &keys, token: &token, visit, mark };
        let checked = Instant::now();
        if let Some(admitted) = attempt.known(checked).await {
            return Ok(admitted);
        }
        match self.in_time(pin!(self.decided(&attempt, checked))).await {
            Err(Denial::Unavailable(error)) => attempt.serve_known(error),
            decided => decided,
        }
    }

    /// Attempts until no other request's write comes between.
    async fn decided(
        &self,
        attempt: &Attempt<'_>,
        mut checked: Instant,
    ) -> Result<Admitted, Denial> {
        for _ in 0..ATTEMPTS {
            if let Some(admitted) = attempt.run(checked).await? {
                return Ok(admitted);
            }
            tokio::task::yield_now().await;
            checked = Instant::now();
        }
        let busy = "every write lost against another one; does a script or a clock loop?";
        Err(self.unavailable(Unavailable(busy.to_owned())))
    }

    /// Whether a token that was to go with a slow answer is still the one to send: a late cookie must
    /// never overwrite a newer one in the browser.
    pub async fn offer_stands(&self, token: &NewToken) -> bool {
        let (keys, asked) = (self.shared.keys.load_full(), Instant::now());
        let Ok(loaded) = self.in_time(pin!(self.load(&token.key))).await else { return false };
        let Ok(held) = self.hold(&keys, &token.key, loaded, asked) else { return false };
        let record = held.record;
        let offered = record.offer.as_ref().is_some_and(|offer| offer.hash == token.hash);
        offered || record.current == token.hash
    }

    fn require(&self, visit: &Visit<'_>, admitted: Admitted) -> Entry {
        let Admitted { identity, record, key, standing, token, mark, checked, unasked } = admitted;
        let verdict = if visit.requirement.allows(&identity) {
            let touched = standing.touched;
            let sight = Sight { key, record, touched, mark, checked, unasked };
            Ok(Permit::user(identity, sight))
        } else {
            Err(Denial::Forbidden { user: identity.user.clone() })
        };
        Entry { verdict, token }
    }

    /// Whether a cookie is one that we made, live or not; without a look-up or an event.
    pub fn recognises(&self, presented: &Presented) -> bool {
        match presented {
            Presented::Nothing | Presented::Several => false,
            Presented::One(value) => Token::parse(&self.shared.keys.load(), value).is_ok(),
        }
    }

    /// The successor's text, under the newest key.
    pub(super) fn mint(
        &self,
        keys: &KeyRing,
        key: SessionKey,
        next: &Successor,
    ) -> Option<NewToken> {
        let token = Token::new(keys.newest().0, key, next.generation, next.secret);
        let (text, made) = (token.text(keys)?, self.now());
        Some(NewToken { text, key, generation: next.generation, hash: token.hash(), made })
    }

    /// A forged or damaged cookie ends here, without a look-up.
    pub(super) fn token(&self, keys: &KeyRing, visit: &Visit<'_>) -> Result<Token, Denial> {
        let value = match visit.presented {
            Presented::Nothing => return Err(Denial::NoSession),
            Presented::Several => return Err(Denial::SeveralCookies),
            Presented::One(value) => value,
        };
        Token::parse(keys, value).map_err(|_| {
            let (client, agent) = (Some(visit.context.address), visit.context.agent.as_str());
            let nobody = About { client, agent, ..About::default() };
            self.shared.event(SessionEvent::Forged, nobody);
            Denial::Forged
        })
    }

    /// Who the user is *now*: groups and address as the users file says today, not at login. A removed
    /// or disabled account, or a changed password, ends its sessions at their next request.
    pub(super) fn account(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        let Some(directory) = &self.shared.directory else {
            return Ok(Arc::new(record.identity.clone()));
        };
        match directory.find(&record.identity.user) {
            None => Err(EndReason::AccountGone),
            Some(account) if account.disabled => Err(EndReason::AccountGone),
            Some(account) if account.credential != record.credential => {
                Err(EndReason::CredentialChanged)
            }
            Some(account) => Ok(Arc::clone(&account.identity)),
        }
    }
}
