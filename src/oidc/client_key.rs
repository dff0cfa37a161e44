//! The private key of a client, for `private_key_jwt`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// A P-256 or RSA key, with the key ID that the provider uses for it.
#[derive(Clone)]
pub struct ClientKey {
    pair: Arc<KeyPair>,
    id: Option<String>,
}

enum KeyPair {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Why a key file is not usable. The text contains nothing of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyError {
    #[error("it is not a private key in PEM format")]
    Pem,
    #[error("its key is neither P-256 nor RSA with at least 2048 bits; PKCS#8 works for both")]
    Kind,
}

impl ClientKey {
    /// Parses a PEM file. `id` becomes the `kid` of assertions.
    ///
    /// # Errors
    /// The file holds no usable key.
    pub fn parse(pem: &[u8], id: Option<String>) -> Result<ClientKey, ClientKeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| ClientKeyError::Pem)?;
        let pair = pair(&der).ok_or(ClientKeyError::Kind)?;
        Ok(ClientKey { pair: Arc::new(pair), id })
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match &*self.pair {
            KeyPair::P256(_) => "ES256",
            KeyPair::Rsa(_) => "RS256",
        }
    }

    /// Returns the signature in the form of JWS; `None` if the random number generator fails.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &*self.pair {
            KeyPair::P256(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            KeyPair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

fn pair(der: &PrivateKeyDer<'_>) -> Option<KeyPair> {
    match der {
        PrivateKeyDer::Pkcs8(key) => {
            let key = key.secret_pkcs8_der();
            let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key);
            p256.ok()
                .map(KeyPair::P256)
                .or_else(|| RsaKeyPair::from_pkcs8(key).ok().map(KeyPair::Rsa))
        }
        PrivateKeyDer::Pkcs1(key) => {
            RsaKeyPair::from_der(key.secret_pkcs1_der()).ok().map(KeyPair::Rsa)
        }
        PrivateKeyDer::Sec1(key) => {
            let key = key.secret_sec1_der();
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key)
                .ok()
                .map(KeyPair::P256)
        }
        _ => None,
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({}, …)", self.algorithm())
    }
}
