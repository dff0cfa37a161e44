//! Signed tokens and the key set that verifies them. Only a list of the caller selects algorithms: never
//! `none`, never a MAC under a public key, and nothing that the token asks for.

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};

/// Signature algorithms that the gateway accepts, if the provider lists them too.
pub(super) const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Largest token in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// Most keys of a set.
const MAX_KEYS: usize = 100;

/// The public keys of a provider.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(Vec<PublicKey>);

#[derive(Clone, Debug)]
struct PublicKey {
    id: Option<String>,
    /// The only algorithm for which the key may be used, if the provider names one.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// A token with a valid signature. Its claims are not checked yet.
#[derive(Clone, Debug)]
pub(super) struct SignedToken {
    /// Header `typ` in lower case, without `application/`.
    pub(super) kind: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) claims: Map<String, Value>,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.as_str())]
pub(super) enum JwsError {
    TooLong,
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
}

impl JwsError {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            JwsError::TooLong => "it is longer than 64 KiB",
            JwsError::Malformed => "it is not a signed JWT",
            JwsError::Algorithm => "its algorithm is not accepted",
            JwsError::UnknownKey => "no key of the provider has its key ID and algorithm",
            JwsError::Signature => "its signature is invalid",
        }
    }
}

impl KeySet {
    /// Parses a JWK set. Keys of unknown kinds, for encryption and of MACs are left out.
    ///
    /// # Errors
    /// The text is not a JWK set, or it has more than 100 keys.
    pub(super) fn parse(body: &[u8]) -> Result<KeySet, &'static str> {
        let set: Map<String, Value> =
            serde_json::from_slice(body).map_err(|_| "it is not a JSON object")?;
        let Some(Value::Array(keys)) = set.get("keys") else { return Err("`keys` is not a list") };
        if keys.len() > MAX_KEYS {
            return Err("it has more than 100 keys");
        }
        Ok(KeySet(keys.iter().filter_map(PublicKey::parse).collect()))
    }

    /// Returns the keys for a token. A token without a key ID can use any key of its algorithm.
    fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&PublicKey| {
            key.algorithm.is_none_or(|only| only == algorithm)
                && key.key.family() == algorithm.family()
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }
}

impl PublicKey {
    fn parse(value: &Value) -> Option<PublicKey> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let is_for_encryption = jwk.common.public_key_use == Some(PublicKeyUse::Encryption);
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        if is_for_encryption || is_secret {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
            None => None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(PublicKey { id: jwk.common.key_id, algorithm, key })
    }
}

/// Verifies the signature of a compact JWT under the algorithms of `allowed`.
///
/// # Errors
/// See [`JwsError`]. Claims are not checked.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    allowed: &[Algorithm],
) -> Result<SignedToken, JwsError> {
    if token.len() > MAX_TOKEN {
        return Err(JwsError::TooLong);
    }
    let header = jsonwebtoken::decode_header(token).map_err(header_error)?;
    if !allowed.contains(&header.alg) {
        return Err(JwsError::Algorithm);
    }
    let mut result = Err(JwsError::UnknownKey);
    for key in keys.candidates(header.kid.as_deref(), header.alg) {
        result = verify_with(token, key, header.alg);
        if result.is_ok() {
            break;
        }
    }
    let claims = result?;
    let kind = header.typ.map(|kind| kind.to_ascii_lowercase());
    let kind = kind.map(|kind| kind.trim_start_matches("application/").to_owned());
    Ok(SignedToken { kind, algorithm: header.alg, claims })
}

fn verify_with(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<Map<String, Value>, JwsError> {
    // The claims are checked elsewhere, by the clock of the gateway.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation);
    decoded.map(|token| token.claims).map_err(|error| verification_error(&error))
}

/// The names of other algorithms do not parse.
fn header_error(error: Error) -> JwsError {
    match matches!(error.kind(), ErrorKind::Json(_)) {
        true => JwsError::Algorithm,
        false => JwsError::Malformed,
    }
}

fn verification_error(error: &Error) -> JwsError {
    if *error.kind() == ErrorKind::InvalidSignature {
        JwsError::Signature
    } else if *error.kind() == ErrorKind::InvalidAlgorithm {
        JwsError::Algorithm
    } else {
        JwsError::Malformed
    }
}
