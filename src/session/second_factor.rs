//! Second factors of an account: authenticator apps that compute one-time codes (RFC 6238), passkeys, and recovery
//! codes.
//!
//! - A one-time code is accepted once: its time step must be later than the last accepted one (RFC 6238, 5.2).
//! - A recovery code is deleted when it is accepted.
//! - A passkey signs each challenge once.
//!
//! The caller stores the changed factors by compare-and-swap, so of two requests with the same code one wins.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::passkey::{Passkey, PasskeyScope, PasskeySignature, PasskeyUse};
use crate::clock::UnixMillis;
use crate::secret::{constant_time_eq, random_bytes, sha256};

/// Maximum number of authenticator apps of an account, and of passkeys.
pub const MAX_APPS: usize = 5;

/// Maximum length of the name of an app in bytes.
pub const NAME_MAX: usize = 64;

/// Number of recovery codes that are created together.
const RECOVERY_CODES: usize = 10;

/// Number of characters of a recovery code: 80 bits.
const RECOVERY_LENGTH: usize = 16;

/// Crockford's Base32: no letter that looks like a digit.
const SYMBOLS: [u8; 32] = *b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Duration of a time step in seconds.
const STEP: u64 = 30;

/// The second factors of an account.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFactors {
    pub apps: Vec<AuthenticatorApp>,
    pub passkeys: Vec<Passkey>,
    /// SHA-256 of the recovery codes that are left.
    pub recovery: Vec<[u8; 32]>,
}

/// An authenticator app.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthenticatorApp {
    pub id: [u8; 8],
    pub name: String,
    pub added: UnixMillis,
    secret: TotpSecret,
    /// Time step of the last accepted code.
    last_step: u64,
}

/// The secret that an authenticator app shares with the gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct TotpSecret([u8; 20]);

/// What a code proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedCode {
    OneTime,
    Recovery,
}

/// Without the secrets.
impl fmt::Debug for SecondFactors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (apps, keys, codes) = (self.apps.len(), self.passkeys.len(), self.recovery.len());
        write!(f, "SecondFactors({apps} apps, {keys} passkeys, {codes} codes)")
    }
}

impl SecondFactors {
    /// Whether a login needs a code. Recovery codes alone are no factor.
    pub fn is_set_up(&self) -> bool {
        self.count() > 0
    }

    /// Returns the number of factors, without recovery codes.
    pub fn count(&self) -> usize {
        self.apps.len() + self.passkeys.len()
    }

    /// Returns the passkeys for a domain; a browser offers only these.
    pub fn passkeys_of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a Passkey> {
        self.passkeys.iter().filter(move |passkey| passkey.domain == domain)
    }

    /// Accepts a one-time code or a recovery code, and makes it unusable. `None` changes nothing.
    #[must_use]
    pub fn accept(&mut self, code: &str, now: UnixMillis) -> Option<AcceptedCode> {
        let code = normalize(code);
        if code.len() == RECOVERY_LENGTH {
            return self.accept_recovery(&code);
        }
        let accepted = |app: &mut AuthenticatorApp| app.accept(&code, now);
        self.apps.iter_mut().any(accepted).then_some(AcceptedCode::OneTime)
    }

    /// Accepts the signature of a passkey, and uses up its challenge. `None` changes nothing.
    pub fn accept_passkey(
        &mut self,
        signed: &PasskeySignature,
        scope: PasskeyScope<'_>,
    ) -> Option<PasskeyUse> {
        let mut passkeys = self.passkeys.iter_mut();
        let passkey = passkeys.find(|it| it.credential_id == signed.credential_id)?;
        passkey.verify(signed, scope).ok()
    }

    fn accept_recovery(&mut self, code: &str) -> Option<AcceptedCode> {
        let hash = sha256(code.as_bytes());
        let index = self.recovery.iter().position(|known| constant_time_eq(known, &hash))?;
        self.recovery.remove(index);
        Some(AcceptedCode::Recovery)
    }

    /// Replaces the recovery codes and returns the new ones, of which only hashes are stored.
    pub fn replace_recovery_codes(&mut self) -> Vec<Zeroizing<String>> {
        let codes: Vec<_> = (0..RECOVERY_CODES).map(|_| recovery_code(random_bytes())).collect();
        self.recovery = codes.iter().map(|code| sha256(normalize(code).as_bytes())).collect();
        codes
    }

    /// Removes an app or a passkey; the recovery codes too if it was the last one. Returns false if there is none.
    pub fn remove(&mut self, id: [u8; 8]) -> bool {
        let before = self.count();
        self.apps.retain(|app| app.id != id);
        self.passkeys.retain(|passkey| passkey.id != id);
        if !self.is_set_up() {
            self.recovery.clear();
        }
        self.count() < before
    }
}

impl AuthenticatorApp {
    /// Creates an app that has shown its first code, which is not accepted again. `None` if the code is wrong.
    pub fn confirmed(
        secret: TotpSecret,
        name: &str,
        code: &str,
        now: UnixMillis,
    ) -> Option<AuthenticatorApp> {
        let (id, name) = (random_bytes(), name.to_owned());
        let mut app = AuthenticatorApp { id, name, added: now, secret, last_step: 0 };
        app.accept(&normalize(code), now).then_some(app)
    }

    /// Returns the ID for forms.
    pub fn handle(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// Returns whether both apps compute the same codes.
    pub fn has_same_secret(&self, other: &AuthenticatorApp) -> bool {
        constant_time_eq(&self.secret.0, &other.secret.0)
    }

    /// Accepts the code of the current time step and its neighbours, if the step is later than the last one.
    fn accept(&mut self, code: &str, now: UnixMillis) -> bool {
        let step = now.seconds() / STEP;
        let first = step.saturating_sub(1).max(self.last_step.saturating_add(1));
        let matches =
            |step: &u64| constant_time_eq(self.secret.code(*step).as_bytes(), code.as_bytes());
        let Some(accepted) = (first..=step.saturating_add(1)).find(matches) else { return false };
        self.last_step = accepted;
        true
    }
}

impl TotpSecret {
    pub fn generate() -> TotpSecret {
        TotpSecret(random_bytes())
    }

    /// Returns the secret as users type it: Base32 in groups of four characters.
    pub fn text(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(BASE32_NOPAD.encode(&self.0));
        Zeroizing::new(grouped(&text))
    }

    /// Returns the URI in the QR code
    /// (<https://github.com/google/google-authenticator/wiki/Key-Uri-Format>).
    pub fn uri(&self, issuer: &str, user: &str) -> Zeroizing<String> {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        // The label separates its parts by a colon.
        let issuer = encode(&issuer.replace(':', " "));
        let secret = Zeroizing::new(BASE32_NOPAD.encode(&self.0));
        let (user, secret) = (encode(user), secret.as_str());
        Zeroizing::new(format!("otpauth://totp/{issuer}:{user}?secret={secret}&issuer={issuer}"))
    }

    /// Computes the code of a time step: HMAC-SHA-1, six digits. Authenticator apps support nothing else reliably.
    pub fn code(&self, step: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        format!("{:06}", truncated(tag.as_ref()).unwrap_or_default() % 1_000_000)
    }
}

/// Dynamic truncation (RFC 4226, 5.3).
fn truncated(tag: &[u8]) -> Option<u32> {
    let offset = usize::from(tag.last()? & 0xf);
    let bytes: [u8; 4] = tag.get(offset..offset + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes) & 0x7fff_ffff)
}

fn recovery_code(bytes: [u8; 10]) -> Zeroizing<String> {
    let bits = bytes.iter().fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
    let symbol = |index: usize| SYMBOLS[(bits >> (5 * index)) as usize & 31] as char;
    let text: Zeroizing<String> = Zeroizing::new((0..RECOVERY_LENGTH).map(symbol).collect());
    Zeroizing::new(grouped(&text))
}

fn grouped(text: &str) -> String {
    let groups: Vec<&str> =
        text.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join("-")
}

/// Returns a code without separators, with the digits that people read for letters.
fn normalize(code: &str) -> Zeroizing<String> {
    let symbol = |symbol: char| match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let is_separator = |symbol: &char| symbol.is_whitespace() || *symbol == '-';
    Zeroizing::new(code.chars().filter(|it| !is_separator(it)).map(symbol).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn at(seconds: i64) -> UnixMillis {
        UnixMillis(NOW.0.saturating_add_signed(seconds * 1_000))
    }

    fn code(secret: &TotpSecret, at: UnixMillis) -> String {
        secret.code(at.seconds() / STEP)
    }

    fn factors(secret: &TotpSecret) -> SecondFactors {
        let (id, name) = ([1; 8], "phone".to_owned());
        let app = AuthenticatorApp { id, name, added: NOW, secret: secret.clone(), last_step: 0 };
        SecondFactors { apps: vec![app], ..SecondFactors::default() }
    }

    /// RFC 6238, appendix B, with the last six of eight digits.
    #[test]
    fn one_time_codes_are_those_of_rfc_6238() {
        let secret = TotpSecret(*b"12345678901234567890");
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(secret.code(seconds / STEP), code, "{seconds}");
        }
    }

    #[test]
    fn a_code_is_accepted_within_one_step_of_the_time() {
        let secret = TotpSecret::generate();
        for (seconds, is_accepted) in
            [(-60, false), (-30, true), (0, true), (30, true), (60, false)]
        {
            let code = code(&secret, at(seconds));
            assert_eq!(factors(&secret).accept(&code, NOW).is_some(), is_accepted, "{seconds}");
        }
    }

    #[test]
    fn a_code_and_all_earlier_ones_are_accepted_once() {
        let secret = TotpSecret::generate();
        let mut factors = factors(&secret);
        let [before, current, next] = [-30, 0, 30].map(|seconds| code(&secret, at(seconds)));
        assert_eq!(factors.accept(&current, NOW), Some(AcceptedCode::OneTime));
        assert_eq!(factors.accept(&current, NOW), None, "the same");
        assert_eq!(factors.accept(&before, NOW), None, "an earlier one");
        assert_eq!(factors.accept(&next, NOW), Some(AcceptedCode::OneTime));
        assert_eq!(factors.accept(&current, at(30)), None, "the same, later");
    }

    #[test]
    fn the_code_that_confirms_an_app_is_not_accepted_again() {
        let secret = TotpSecret::generate();
        let current = code(&secret, NOW);
        assert!(AuthenticatorApp::confirmed(secret.clone(), "phone", "000", NOW).is_none());
        let app = AuthenticatorApp::confirmed(secret, "phone", &current, NOW).expect("right");
        let mut factors = SecondFactors { apps: vec![app], ..SecondFactors::default() };
        assert_eq!(factors.accept(&current, NOW), None);
    }

    #[test]
    fn a_recovery_code_works_once_and_in_every_spelling() {
        let mut factors = factors(&TotpSecret::generate());
        let codes = factors.replace_recovery_codes();
        assert_eq!((codes.len(), factors.recovery.len()), (10, 10));
        let spelled = codes[0].to_lowercase().replace('-', " ").replace('1', "l").replace('0', "o");
        assert_eq!(factors.accept(&spelled, NOW), Some(AcceptedCode::Recovery));
        assert_eq!(factors.accept(&codes[0], NOW), None);
        assert_eq!(factors.accept(&codes[1], NOW), Some(AcceptedCode::Recovery));
        assert_eq!(factors.recovery.len(), 8);
        factors.replace_recovery_codes();
        assert_eq!(factors.accept(&codes[2], NOW), None, "replaced");
    }

    #[test]
    fn a_recovery_code_has_80_bits() {
        assert_eq!(*recovery_code([0xff; 10]), "ZZZZ-ZZZZ-ZZZZ-ZZZZ");
        assert_eq!(*recovery_code([0; 10]), "0000-0000-0000-0000");
        let last_bit: Vec<_> = recovery_code([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).bytes().collect();
        assert!(last_bit.iter().any(|byte| !matches!(byte, b'0' | b'-')));
    }

    #[test]
    fn the_last_app_takes_the_recovery_codes_with_it() {
        let mut factors = factors(&TotpSecret::generate());
        let codes = factors.replace_recovery_codes();
        assert!(!factors.remove([2; 8]) && factors.is_set_up());
        assert!(factors.remove([1; 8]) && !factors.is_set_up());
        assert_eq!(factors.accept(&codes[0], NOW), None);
    }

    #[test]
    fn the_uri_escapes_its_parts_and_debug_output_has_no_secret() {
        let secret = TotpSecret(*b"12345678901234567890");
        assert_eq!(
            *secret.uri("A: B&C", "zoë"),
            "otpauth://totp/A%20%20B%26C:zo%C3%AB?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=A%20%20B%26C"
        );
        assert_eq!(*secret.text(), "GEZD-GNBV-GY3T-QOJQ-GEZD-GNBV-GY3T-QOJQ");
        assert!(!format!("{:?}", factors(&secret)).contains("phone"));
    }
}
