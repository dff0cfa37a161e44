//! Keys that sign tokens of every kind, correct or not.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// A signing key with its key ID.
pub struct JwtSigner {
    pub id: String,
    pair: Pair,
}

enum Pair {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl JwtSigner {
    pub fn p256(id: &str) -> JwtSigner {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        JwtSigner { id: id.to_owned(), pair: Pair::P256(pair) }
    }

    pub fn rsa(id: &str) -> JwtSigner {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        JwtSigner { id: id.to_owned(), pair: Pair::Rsa(pair) }
    }

    pub fn ed25519(id: &str) -> JwtSigner {
        let pair = Ed25519KeyPair::generate().expect("a key");
        JwtSigner { id: id.to_owned(), pair: Pair::Ed25519(pair) }
    }

    /// Returns the algorithm of its signatures.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::P256(_) => "ES256",
            Pair::Rsa(_) => "RS256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// Returns the private key as PKCS#8 in PEM format.
    pub fn private_key(&self) -> String {
        let der = match &self.pair {
            Pair::P256(pair) => pair.to_pkcs8v1().expect("a document").as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let document: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
                    pair.as_der().expect("a document");
                document.as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.to_pkcs8v1().expect("a document").as_ref().to_vec(),
        };
        let text = data_encoding::BASE64.encode(&der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    /// Returns the public key as a JWK.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match &self.pair {
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y })
            }
            Pair::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                let (n, e) = (encode(&parts.n), encode(&parts.e));
                json!({ "kty": "RSA", "kid": self.id, "use": "sig", "alg": "RS256", "n": n, "e": e })
            }
            Pair::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "x": x })
            }
        }
    }

    /// Returns the header of its tokens.
    pub fn header(&self) -> Value {
        json!({ "typ": "JWT", "alg": self.algorithm(), "kid": self.id })
    }

    /// Returns a signed compact token.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::P256(pair) => pair.sign(&random, message).expect("signed").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("signed");
                signature
            }
        }
    }
}

/// Returns header and claims of a compact token, without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(claims))
}
