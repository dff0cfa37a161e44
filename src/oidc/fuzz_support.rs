//! Parses data of a provider without requests. Public only for the fuzz targets and the corpus test.

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::id_token::{self, ExpectedLogin};
use super::jws::{self, ALGORITHMS, KeySet, SignedToken};
use super::login::Profile;
use super::logout_token;
use super::metadata::Metadata;
use super::profile;
use super::settings::ClaimMapping;
use super::web_url::WebUrl;
use crate::clock::UnixMillis;

/// Passes `bytes` to each parser. Returns the identity if they are claims.
pub fn parse(bytes: &[u8], now: UnixMillis) -> Option<Profile> {
    let issuer = WebUrl::parse("https://id.test").ok()?;
    drop(Metadata::parse(bytes, &issuer));
    drop(logout_token::from_form(bytes));
    let claims: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let token = SignedToken { kind: None, algorithm: Algorithm::ES256, claims };
    drop(id_token::check(&token, &expected(&issuer, now)));
    drop(logout_token::check(&token, issuer.as_str(), "client", now));
    profile::profile(&token.claims, &ClaimMapping::default(), Vec::new()).ok()
}

/// Whether a token is accepted under the keys of a JWKS document.
pub fn verifies(token: &str, keys: &[u8]) -> bool {
    let allowed: Vec<Algorithm> = ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect();
    KeySet::parse(keys).is_ok_and(|keys| jws::verify(token, &keys, &allowed).is_ok())
}

fn expected(issuer: &WebUrl, now: UnixMillis) -> ExpectedLogin<'_> {
    ExpectedLogin {
        issuer: issuer.as_str(),
        client_id: "client",
        nonce: Some("nonce"),
        max_age: None,
        requested: now,
        acr: &[],
        access_token: Some("access"),
        now,
    }
}
