//! Signatures over what is sent elsewhere, in the form of the
//! [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks) specification: its
//! receivers exist in most languages.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";

/// What sender and receiver share. Its text is `whsec_` and 24 to 64 bytes in Base64.
pub struct SigningSecret(hmac::Key);

/// Why a text is no secret. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningSecretError {
    #[error("does not begin with whsec_")]
    Prefix,
    #[error("is no Base64 after whsec_")]
    Base64,
    #[error("holds {0} bytes, and must hold from 24 to 64")]
    Length(usize),
}

impl SigningSecret {
    /// Reads the one line of a secret file.
    ///
    /// # Errors
    /// When it is too short to protect anything, or written otherwise.
    pub fn parse(text: &str) -> Result<SigningSecret, SigningSecretError> {
        let coded = text.trim().strip_prefix(PREFIX).ok_or(SigningSecretError::Prefix)?;
        let bytes = BASE64.decode(coded.as_bytes()).map_err(|_| SigningSecretError::Base64)?;
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            24..=64 => Ok(SigningSecret(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            other => Err(SigningSecretError::Length(other)),
        }
    }

    /// `v1,…` over the message's id, the time in seconds since 1970, and its bytes.
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
    fn standard_webhooks_the_example_of_its_libraries_is_signed_as_they_sign_it() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let body = br#"{"test": 2432232314}"#;
        let signed =
            secret.expect("a secret").sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_quoted() {
        let of = |text: &str| SigningSecret::parse(text).expect_err("refused");
        assert_eq!(of("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), SigningSecretError::Prefix);
        assert_eq!(of("whsec_hunter2!"), SigningSecretError::Base64);
        assert_eq!(of("whsec_aHVudGVyMg=="), SigningSecretError::Length(7));
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(format!("{secret:?}"), "Ok(SigningSecret(…))");
    }
}
