//! The session: the token in the cookie, the record in the store, and the rule that connects them.
//!
//! Pure: no clock, no socket, no store. [`decide`](decide::decide) takes the record, the presented
//! token and the time, and returns a verdict. Every gateway and every store uses this one function.
//!
//! | term | meaning |
//! | --- | --- |
//! | token | the value of the session cookie; never stored, never logged |
//! | record | the stored state of one session |
//! | generation | the number of rotations so far; the first token has 0 |
//! | successor | the next token: offered, but not yet presented by the client |
//! | superseded | a token whose successor the client has presented |
//! | grace period | the time in which a superseded token is still accepted |
//! | theft | an authentic token of an old generation, presented after the grace period |

pub mod context;
pub mod decide;
pub mod end_reason;
pub mod expiry;
pub mod extension;
pub mod fingerprint;
pub mod identity;
pub mod identity_fields;
pub mod known_locations;
pub mod notice;
pub mod passkey;
pub mod personal_token;
pub mod policy;
pub mod record;
pub mod second_factor;
pub mod token;
pub mod user_history;

pub use context::ClientContext;
pub use decide::{
    Change, DecisionInput, Outcome, Refusal, RiskRequirement, Rotation, RotationTiming, Successor,
    Verdict, decide, rotate_after_action,
};
pub use end_reason::EndReason;
pub use expiry::{Expiry, Remaining, SessionDeadlines, SessionFacts};
pub use extension::Extension;
pub use fingerprint::TlsFingerprint;
pub use identity::{
    CERTIFICATE_METHOD, ExternalLogin, Identity, PASSWORD_METHOD, Provider, ldap_account,
    oidc_account, oidc_subject,
};
pub use known_locations::LocationStatus;
pub use notice::SecurityNotice;
pub use passkey::{
    NewCredential, Passkey, PasskeyChallenge, PasskeyError, PasskeyScope, PasskeySignature,
};
pub use personal_token::{PersonalToken, TokenGrant, TokenId, TokenRefusal, TokenScope, TokenUse};
pub use policy::{
    OnReuse, PolicyError, RoutePolicy, SecondFactorMode, SecondFactorPolicy, SessionPolicy,
    SignalsMode,
};
pub use record::{Record, Superseded};
pub use second_factor::{AcceptedCode, AuthenticatorApp, SecondFactors, TotpSecret};
pub use token::{Token, TokenError};
pub use user_history::UserHistory;

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::secret::sha256;

/// 128 random bits that identify a session. Not a secret: a live token needs 256 more secret bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// Returns the public name of the session for logs and pages: 16 hex digits of the ID's hash.
    pub fn handle(&self) -> String {
        HEXLOWER.encode(&sha256(&self.0)[..8])
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.handle())
    }
}

/// Keyed hash of the account ([`Identity::account`]). Prefixes all store keys of one user, so they share a Redis Cluster slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserTag(pub [u8; 8]);

impl fmt::Debug for UserTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserTag({})", HEXLOWER.encode(&self.0))
    }
}

/// Identifies a session in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    pub tag: UserTag,
    pub id: SessionId,
}

/// Revokes every session created at or before `at`, except one. A cutoff only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationCutoff {
    /// Zero: nothing is revoked.
    pub at: UnixMillis,
    pub except: Option<SessionId>,
}

impl RevocationCutoff {
    /// Returns whether the cutoff revokes a session created at `created`.
    pub fn revokes(&self, id: SessionId, created: UnixMillis) -> bool {
        self.at.0 > 0 && created <= self.at && self.except != Some(id)
    }

    /// Returns the later cutoff. If both are equal, an exception survives only if both have it.
    pub fn later(self, other: RevocationCutoff) -> RevocationCutoff {
        match self.at.cmp(&other.at) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal if self.except == other.except => self,
            std::cmp::Ordering::Equal => RevocationCutoff { at: self.at, except: None },
        }
    }
}
