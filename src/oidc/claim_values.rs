//! Protocol values in claims. A value of the wrong type is an error, never a missing value.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::UnixMillis;

/// Largest accepted difference between the clocks of gateway and provider.
pub(super) const SKEW: Duration = Duration::from_secs(60);

/// Longest identifier of a provider in bytes: subject, session, token ID.
const MAX_ID: usize = 255;

/// Last second that fits a date; later ones are nonsense.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// Returns a time in seconds since 1970.
///
/// # Errors
/// The claim is not a number of seconds.
pub(super) fn time(
    claims: &Map<String, Value>,
    name: &str,
    invalid: &'static str,
) -> Result<Option<UnixMillis>, &'static str> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked"
            )]
            Ok(Some(UnixMillis((seconds * 1000.0) as u64)))
        }
        Some(_) | None => Err(invalid),
    }
}

/// Returns an identifier: not empty, at most 255 bytes, without control characters.
///
/// # Errors
/// The claim is something else.
pub(super) fn id(
    claims: &Map<String, Value>,
    name: &str,
    invalid: &'static str,
) -> Result<Option<String>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if is_id(text) => Ok(Some(text.clone())),
        Some(_) => Err(invalid),
    }
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Whether the audience of a token contains the client: a text, or one of a list.
pub(super) fn audience_contains(claims: &Map<String, Value>, client: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == client,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(client)),
        Some(_) | None => false,
    }
}
