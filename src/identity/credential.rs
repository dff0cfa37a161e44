//! A stored password hash: argon2id, or bcrypt imported from an htpasswd file.
//!
//! The parameters of a stored hash set the memory and time of each attempt, so they are bounded on
//! parsing: otherwise one login could exhaust the machine. bcrypt uses only the first 72 bytes of a
//! password and takes a different time than argon2id.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use bcrypt::HashParts;
use zeroize::Zeroizing;

use crate::secret::random_bytes;

const M_MAX: u32 = 256 * 1024;
const T_MAX: u32 = 16;
const P_MAX: u32 = 8;
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=14;

/// A stored password hash. `Debug` shows its cost, never the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    stored: Arc<Zeroizing<String>>,
    cost: Cost,
}

/// Cost of verifying a password. Equal costs take equal time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cost {
    /// `m` in KiB, `t` passes, `p` lanes.
    Argon2id { m: u32, t: u32, p: u32 },
    /// Binary logarithm of the number of rounds.
    Bcrypt { cost: u32 },
}

impl Cost {
    /// Cost of new hashes: 19 MiB, two passes, one lane (OWASP, RFC 9106).
    pub const DEFAULT: Cost = Cost::Argon2id { m: 19_456, t: 2, p: 1 };
}

/// Reason for rejecting a stored hash. Never contains the hash itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error(
        "it is a plaintext password or of an unknown format; write the output of `doorward user passwd`"
    )]
    Unknown,
    #[error("{0} is too weak; set a new password with `doorward user passwd`")]
    Weak(&'static str),
    #[error("it is truncated or damaged; set a new password with `doorward user passwd`")]
    Damaged,
    #[error(
        "argon2id allows m up to {M_MAX}, t up to {T_MAX}, p up to {P_MAX}: more would let one login exhaust the machine"
    )]
    Argon2Cost,
    #[error("bcrypt allows a cost from 4 to 14: more would let one login block a core for seconds")]
    BcryptCost,
    #[error("hashing failed")]
    Hash,
}

impl Credential {
    /// Parses a stored hash.
    pub fn parse(stored: &str) -> Result<Credential, CredentialError> {
        let cost = parse_cost(stored)?;
        Ok(Credential { stored: Arc::new(Zeroizing::new(stored.to_owned())), cost })
    }

    /// Hashes a new password. Blocks for tens of milliseconds and uses `m` KiB: not for an async
    /// task.
    pub fn hash(password: &str, cost: Cost) -> Result<Credential, CredentialError> {
        let stored = match cost {
            Cost::Argon2id { m, t, p } => argon2id(m, t, p)?
                .hash_password(password.as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|_| CredentialError::Hash)?,
            Cost::Bcrypt { cost } => {
                bcrypt::hash(password, cost).map_err(|_| CredentialError::Hash)?
            }
        };
        Credential::parse(&stored)
    }

    /// Returns a hash of cost `cost` that no known password matches. Built from random bytes,
    /// without hashing.
    pub fn decoy(cost: Cost) -> Result<Credential, CredentialError> {
        let stored = match cost {
            Cost::Argon2id { m, t, p } => argon2id_decoy(m, t, p)?,
            Cost::Bcrypt { cost } => bcrypt_decoy(cost),
        };
        Credential::parse(&stored)
    }

    /// Whether `password` matches. The time depends only on the cost, not on the result.
    pub fn verify(&self, password: &str) -> bool {
        match self.cost {
            Cost::Argon2id { .. } => PasswordHash::new(&self.stored).is_ok_and(|hash| {
                Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
            }),
            Cost::Bcrypt { .. } => bcrypt::verify(password, &self.stored).unwrap_or(false),
        }
    }

    /// Returns the hash in the format of the users file.
    pub fn stored(&self) -> &str {
        &self.stored
    }

    /// Returns the cost of a verification.
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, masked)", self.cost)
    }
}

fn parse_cost(stored: &str) -> Result<Cost, CredentialError> {
    if stored.starts_with("$argon2id$") {
        argon2id_cost(stored)
    } else if ["$2a$", "$2b$", "$2y$"].iter().any(|kind| stored.starts_with(kind)) {
        bcrypt_cost(stored)
    } else {
        Err(weak_kind(stored).map_or(CredentialError::Unknown, CredentialError::Weak))
    }
}

fn argon2id_cost(stored: &str) -> Result<Cost, CredentialError> {
    let hash = PasswordHash::new(stored).map_err(|_| CredentialError::Damaged)?;
    let params = Params::try_from(&hash).map_err(|_| CredentialError::Damaged)?;
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    if m > M_MAX || t > T_MAX || p > P_MAX {
        return Err(CredentialError::Argon2Cost);
    }
    let (Some(19), Some(salt), Some(output)) = (hash.version, &hash.salt, &hash.hash) else {
        return Err(CredentialError::Damaged);
    };
    // Short salts and tags from other software would make guessing cheaper than the cost suggests.
    if salt.len() < 8 || output.len() < 16 {
        return Err(CredentialError::Damaged);
    }
    Ok(Cost::Argon2id { m, t, p })
}

fn bcrypt_cost(stored: &str) -> Result<Cost, CredentialError> {
    let parts: HashParts = stored.parse().map_err(|_| CredentialError::Damaged)?;
    let cost = parts.get_cost();
    if !BCRYPT_COSTS.contains(&cost) {
        return Err(CredentialError::BcryptCost);
    }
    Ok(Cost::Bcrypt { cost })
}

fn weak_kind(stored: &str) -> Option<&'static str> {
    const WEAK: [(&str, &str); 9] = [
        ("$apr1$", "Apache's MD5 ($apr1$)"),
        ("$1$", "MD5-crypt ($1$)"),
        ("{SHA}", "unsalted SHA-1 ({SHA})"),
        ("{SSHA}", "SHA-1 ({SSHA})"),
        ("$5$", "SHA-256-crypt ($5$)"),
        ("$6$", "SHA-512-crypt ($6$)"),
        ("$2x$", "the faulty bcrypt of 2011 ($2x$)"),
        ("$argon2i$", "argon2i"),
        ("$argon2d$", "argon2d"),
    ];
    let found = WEAK.iter().find(|(prefix, _)| stored.starts_with(prefix));
    found.map(|(_, name)| *name)
}

fn argon2id(m: u32, t: u32, p: u32) -> Result<Argon2<'static>, CredentialError> {
    let params = Params::new(m, t, p, None).map_err(|_| CredentialError::Argon2Cost)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn argon2id_decoy(m: u32, t: u32, p: u32) -> Result<String, CredentialError> {
    let params = Params::new(m, t, p, None).map_err(|_| CredentialError::Argon2Cost)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| CredentialError::Argon2Cost)?,
        salt: Salt::new(&random_bytes::<16>()).ok(),
        hash: Output::new(&random_bytes::<32>()).ok(),
    };
    Ok(hash.to_string())
}

fn bcrypt_decoy(cost: u32) -> String {
    const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let random = random_bytes::<53>();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(byte % 64)]);
    let mut body: Vec<char> = random.iter().map(letter).collect();
    // The last character of the salt encodes two bits, that of the hash four; the other bits must
    // be zero.
    body[21] = '.';
    body[52] = '.';
    format!("$2b${cost:02}${}", body.into_iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost::Argon2id { m: 8, t: 1, p: 1 };

    #[test]
    fn a_hash_matches_only_its_password() {
        for cost in [CHEAP, Cost::Bcrypt { cost: 4 }] {
            let stored = Credential::hash("right", cost).expect("hashes");
            assert_eq!(stored.cost(), cost);
            let again = Credential::parse(stored.stored()).expect("our own");
            assert!(again.verify("right"));
            assert!(!again.verify("wrong"));
            assert!(!again.verify(""));
        }
    }

    #[test]
    fn a_decoy_has_the_same_cost_and_matches_nothing() {
        for cost in [CHEAP, Cost::DEFAULT, Cost::Bcrypt { cost: 4 }] {
            for _ in 0..50 {
                let decoy = Credential::decoy(cost).expect("a decoy of a good cost");
                assert_eq!(decoy.cost(), cost);
            }
            assert!(!Credential::decoy(cost).expect("a decoy").verify(""));
        }
    }

    #[test]
    fn excessive_costs_are_rejected_on_parsing() {
        let good = Credential::hash("x", Cost::Argon2id { m: 128, t: 1, p: 1 }).expect("hashes");
        for (from, to) in [("m=128", "m=262145"), ("t=1", "t=17"), ("p=1", "p=9")] {
            let bad = good.stored().replacen(from, to, 1);
            assert_eq!(Credential::parse(&bad), Err(CredentialError::Argon2Cost), "{to}");
        }
        let bcrypt = "$2y$15$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";
        assert_eq!(Credential::parse(bcrypt), Err(CredentialError::BcryptCost));
    }

    #[test]
    fn weak_truncated_and_plaintext_passwords_are_rejected() {
        let good = Credential::hash("x", CHEAP).expect("hashes");
        let (cut, _) = good.stored().split_at(good.stored().len() / 2);
        assert_eq!(Credential::parse(cut), Err(CredentialError::Damaged));
        assert_eq!(Credential::parse("hunter2"), Err(CredentialError::Unknown));
        assert_eq!(Credential::parse(""), Err(CredentialError::Unknown));
        for weak in ["$apr1$a$b", "{SHA}x", "$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA", "$1$a$b"] {
            let error = Credential::parse(weak).expect_err("too weak");
            assert!(matches!(error, CredentialError::Weak(_)), "{weak}");
            assert!(error.to_string().contains("doorward user passwd"));
        }
    }

    #[test]
    fn debug_output_shows_no_hash() {
        let good = Credential::hash("x", CHEAP).expect("hashes");
        assert_eq!(format!("{good:?}"), "Credential(Argon2id { m: 8, t: 1, p: 1 }, masked)");
    }
}
