//! Signatures of webhook messages, as in the
//! [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks) specification. Receiver
//! libraries exist for most languages.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";

/// The shared secret of sender and receiver: `whsec_` and 24 to 64 bytes in Base64.
pub struct SigningSecret(hmac::Key);

/// Why a text is not a signing secret. The error never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningSecretError {
    #[error("does not begin with whsec_")]
    Prefix,
    #[error("is not Base64 after whsec_")]
    Base64,
    #[error("has {0} bytes instead of 24 to 64")]
    Length(usize),
}

impl SigningSecret {
    /// Parses the content of a secret file.
    ///
    /// # Errors
    /// If the format is wrong, or the secret is too short or too long.
    pub fn parse(text: &str) -> Result<SigningSecret, SigningSecretError> {
        let coded = text.trim().strip_prefix(PREFIX).ok_or(SigningSecretError::Prefix)?;
        let bytes = BASE64.decode(coded.as_bytes()).map_err(|_| SigningSecretError::Base64)?;
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            24..=64 => Ok(SigningSecret(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            other => Err(SigningSecretError::Length(other)),
        }
    }

    /// Signs the message ID, the time in seconds since 1970, and the body. Returns `v1,…`.
    pub fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    }
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_webhooks_example_has_the_expected_signature() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let body = br#"{"test": 2432232314}"#;
        let signed =
            secret.expect("a secret").sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn an_invalid_secret_is_refused_and_not_quoted() {
        let of = |text: &str| SigningSecret::parse(text).expect_err("refused");
        assert_eq!(of("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), SigningSecretError::Prefix);
        assert_eq!(of("whsec_hunter2!"), SigningSecretError::Base64);
        assert_eq!(of("whsec_aHVudGVyMg=="), SigningSecretError::Length(7));
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(format!("{secret:?}"), "Ok(SigningSecret(…))");
    }
}
