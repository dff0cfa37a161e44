//! How the gateway authenticates at the endpoints of a provider.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use http::HeaderValue;
use serde_json::json;
use zeroize::Zeroizing;

use super::client_key::ClientKey;
use super::failure::ProviderProblem;
use super::requests::Fields;
use super::settings::{ClientAuth, OidcSettings};
use crate::clock::UnixMillis;
use crate::secret::random_bytes;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Lifetime of an assertion in seconds.
const ASSERTION_LIFETIME: u64 = 60;

/// Largest assertion file in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// Adds the credentials to the fields of a request, or returns them as a header.
pub(super) fn add(
    settings: &OidcSettings,
    now: UnixMillis,
    fields: &mut Fields,
) -> Result<Option<HeaderValue>, ProviderProblem> {
    let client_id = || Zeroizing::new(settings.client_id.clone());
    match &settings.client_auth {
        ClientAuth::None => fields.push(("client_id", client_id())),
        ClientAuth::SecretBasic(secret) => {
            return Ok(Some(basic(&settings.client_id, secret.expose())?));
        }
        ClientAuth::SecretPost(secret) => {
            fields.push(("client_id", client_id()));
            fields.push(("client_secret", Zeroizing::new(secret.expose().to_owned())));
        }
        ClientAuth::PrivateKeyJwt(key) => {
            fields.push(("client_id", client_id()));
            add_assertion(fields, assertion(settings, key, now)?);
        }
        ClientAuth::AssertionFile(path) => {
            fields.push(("client_id", client_id()));
            add_assertion(fields, read(path).map_err(ProviderProblem::Assertion)?);
        }
    }
    Ok(None)
}

fn add_assertion(fields: &mut Fields, assertion: Zeroizing<String>) {
    fields.push(("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.to_owned())));
    fields.push(("client_assertion", assertion));
}

/// Both parts are form-encoded first (RFC 6749, 2.3.1).
fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, ProviderProblem> {
    let encode =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let pair = Zeroizing::new(format!("{}:{}", encode(client_id), encode(secret)));
    let value = Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes())));
    let invalid = |_| ProviderProblem::Assertion(io::Error::other("the secret is unusable"));
    let mut value = HeaderValue::try_from(value.as_str()).map_err(invalid)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The audience is the issuer: with the token endpoint as audience, another provider that a client also uses
/// could replay the assertion.
fn assertion(
    settings: &OidcSettings,
    key: &ClientKey,
    now: UnixMillis,
) -> Result<Zeroizing<String>, ProviderProblem> {
    let mut header = json!({ "typ": "JWT", "alg": key.algorithm() });
    if let Some(id) = key.id() {
        header["kid"] = id.into();
    }
    let claims = json!({
        "iss": settings.client_id,
        "sub": settings.client_id,
        "aud": settings.issuer.as_str(),
        "jti": HEXLOWER.encode(&random_bytes::<16>()),
        "iat": now.seconds(),
        "exp": now.seconds() + ASSERTION_LIFETIME,
    });
    let encode = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", encode(&header), encode(&claims));
    let signature = key.sign(message.as_bytes());
    let signature = signature
        .ok_or_else(|| ProviderProblem::Assertion(io::Error::other("the key does not sign")))?;
    Ok(Zeroizing::new(format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))))
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
