//! Keys that sign assertions for upstreams: ECDSA on P-256 with SHA-256 (ES256, RFC 7518 3.4).

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::sha256;

/// A key pair, derived from a root key. All gateways of an installation derive the same one.
pub struct AssertionKey {
    pair: EcdsaKeyPair,
    jwk: Jwk,
}

/// The public half as a JSON Web Key (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    y: String,
    /// Thumbprint of the key (RFC 7638).
    kid: String,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
}

impl Jwk {
    /// Returns the name of the key.
    pub fn id(&self) -> &str {
        &self.kid
    }
}

impl AssertionKey {
    /// Derives the pair. `None` if no candidate is below the order of the curve, which one candidate in 2^32
    /// is not.
    pub(super) fn derive(root: &[u8; 32]) -> Option<AssertionKey> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, root);
        (0..4_u8).find_map(|attempt| {
            let mut context = hmac::Context::with_key(&key);
            context.update(b"doorward assertion 1");
            context.update(&[attempt]);
            let mut scalar = Zeroizing::new([0; 32]);
            scalar.copy_from_slice(context.sign().as_ref());
            AssertionKey::from_scalar(&scalar).ok()
        })
    }

    fn from_scalar(scalar: &[u8; 32]) -> Result<AssertionKey, Unspecified> {
        let public = PrivateKey::from_private_key(&ECDH_P256, scalar)?;
        let public = public.compute_public_key()?;
        let public = public.as_ref();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar,
            public,
        )?;
        Ok(AssertionKey { pair, jwk: jwk(public) })
    }

    /// Returns the public half.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs a JSON Web Token (RFC 7519) with these claims.
    pub fn sign<T: Serialize>(&self, claims: &T) -> Option<Zeroizing<String>> {
        let header = format!(r#"{{"alg":"ES256","typ":"JWT","kid":"{}"}}"#, self.jwk.kid);
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = Zeroizing::new(BASE64URL_NOPAD.encode(header.as_bytes()));
        token.push('.');
        BASE64URL_NOPAD.encode_append(&claims, &mut token);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut token);
        Some(token)
    }
}

/// `public` is an uncompressed point: 4, then x and y with 32 bytes each.
fn jwk(public: &[u8]) -> Jwk {
    let (x, y) = public.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    let [x, y] = [x, y].map(|half| BASE64URL_NOPAD.encode(half));
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let kid = BASE64URL_NOPAD.encode(&sha256(members.as_bytes()));
    Jwk { kty: "EC", crv: "P-256", x, y, kid, alg: "ES256", usage: "sig" }
}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssertionKey({})", self.jwk.kid)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn is_valid(jwk: &Jwk, token: &str) -> bool {
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url");
        let point = [vec![4], decode(&jwk.x), decode(&jwk.y)].concat();
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(signed.as_bytes(), &decode(signature)).is_ok()
    }

    #[test]
    fn a_signed_token_verifies_under_the_key_of_its_root_only() {
        let [one, other] = [[1; 32], [2; 32]].map(|root| AssertionKey::derive(&root).expect("key"));
        let token = one.sign(&serde_json::json!({ "sub": "alice" })).expect("a token");
        assert!(is_valid(&one.jwk, &token) && !is_valid(&other.jwk, &token));
        assert_eq!(AssertionKey::derive(&[1; 32]).expect("key").jwk, one.jwk);
        assert_ne!(one.jwk.kid, other.jwk.kid);
    }

    #[test]
    fn a_scalar_outside_the_curve_is_no_key() {
        assert!(AssertionKey::from_scalar(&[0xff; 32]).is_err());
        assert!(AssertionKey::from_scalar(&[0; 32]).is_err());
    }
}
