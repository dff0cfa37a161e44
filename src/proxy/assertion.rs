//! `X-Doorward-Assertion`: a signed statement for the upstream that this gateway admitted a user on a route.
//!
//! A JSON Web Token, signed with ES256 and valid for 60 seconds. Its audience is the route, so an app cannot
//! present it to another app. The public keys are on the portal page `jwks.json`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use serde::Serialize;

use crate::auth::Permit;
use crate::clock::UnixMillis;
use crate::route::Route;
use crate::secret::KeyRing;
use crate::session::Identity;

/// Name of the header.
pub(super) const ASSERTION: HeaderName = HeaderName::from_static("x-doorward-assertion");

const ISSUER: &str = "doorward";

const LIFETIME: Duration = Duration::from_secs(60);

/// Age at which an assertion is replaced. The rest of its lifetime is for slow upstreams and clocks that differ.
const MAX_AGE: Duration = Duration::from_secs(20);

/// Maximum number of assertions that a worker keeps.
const CACHED: usize = 4_096;

#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'static str,
    aud: String,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    groups: &'a [String],
    /// The login method.
    provider: &'a str,
    iat: u64,
    exp: u64,
}

/// The assertions of one worker under one configuration. A signature costs more than the rest of a request.
pub struct Assertions(Mutex<Cache<([u8; 16], usize), CachedAssertion>>);

struct CachedAssertion {
    /// Keeps the address in the key unique.
    route: Arc<Route>,
    identity: Identity,
    signed: UnixMillis,
    value: HeaderValue,
}

impl Default for Assertions {
    fn default() -> Assertions {
        Assertions(Mutex::new(Cache::new(CACHED)))
    }
}

impl Assertions {
    /// Returns the assertion for a request; `None` without a user.
    pub(super) fn of(
        &self,
        permit: &Permit,
        keys: &KeyRing,
        now: UnixMillis,
    ) -> Option<HeaderValue> {
        let (identity, route) = (permit.identity()?, permit.route());
        let session = permit.session().map(|key| key.id.0);
        let principal = session.or_else(|| permit.token().map(|token| token.0))?;
        let key = (principal, Arc::as_ptr(route).addr());
        let mut cache = self.0.lock();
        if let Some(cached) = cache.get(&key)
            && cached.is_usable(route, identity, now)
        {
            return Some(cached.value.clone());
        }
        let value = sign(identity, route, keys, now)?;
        let (route, identity) = (Arc::clone(route), Identity::clone(identity));
        cache.insert(key, CachedAssertion { route, identity, signed: now, value: value.clone() });
        Some(value)
    }
}

impl CachedAssertion {
    fn is_usable(&self, route: &Arc<Route>, identity: &Identity, now: UnixMillis) -> bool {
        Arc::ptr_eq(&self.route, route)
            && self.identity == *identity
            && self.signed <= now
            && now.since(self.signed) < MAX_AGE
    }
}

fn sign(
    identity: &Identity,
    route: &Route,
    keys: &KeyRing,
    now: UnixMillis,
) -> Option<HeaderValue> {
    let claims = AssertionClaims {
        iss: ISSUER,
        aud: route.label(),
        sub: &identity.user,
        name: identity.name.as_deref(),
        email: identity.email.as_deref(),
        groups: &identity.groups,
        provider: identity.provider.method(),
        iat: now.seconds(),
        exp: now.plus(LIFETIME).seconds(),
    };
    let (_, key) = keys.signing_key();
    let token = key.assertion()?.sign(&claims)?;
    let mut value = HeaderValue::from_str(&token).ok()?;
    value.set_sensitive(true);
    Some(value)
}
