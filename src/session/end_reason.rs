//! The reasons for which a session ends.

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    Logout,
    /// A revocation cutoff whose cause the session does not know. The audit log has the cause.
    Revoked,
    /// Another login in the same browser.
    Replaced,
    Idle,
    Absolute,
    Theft,
    RotationIgnored,
    /// The account was removed.
    AccountGone,
    CredentialChanged,
    /// Another session of the user was stolen, and all of the user's sessions were revoked.
    TheftElsewhere,
    EndedByOperator,
    /// The user ended the session on the page with their sessions.
    EndedByUser,
    /// The user ended all sessions, or all others.
    LogoutEverywhere,
    /// An upstream logged the user out.
    LogoutByApp,
    AccountDisabled,
    /// A login beyond the maximum number of sessions per user.
    SessionLimit,
    /// The user logged out at their identity provider.
    LogoutByProvider,
    /// The identity provider no longer confirms the login.
    ProviderEnded,
}

impl EndReason {
    /// All reasons with their codes in a store.
    pub const ALL: [(EndReason, u8); 18] = [
        (EndReason::Logout, 1),
        (EndReason::Revoked, 2),
        (EndReason::Replaced, 3),
        (EndReason::Idle, 4),
        (EndReason::Absolute, 5),
        (EndReason::Theft, 6),
        (EndReason::RotationIgnored, 7),
        (EndReason::AccountGone, 8),
        (EndReason::CredentialChanged, 9),
        (EndReason::TheftElsewhere, 10),
        (EndReason::EndedByOperator, 11),
        (EndReason::EndedByUser, 12),
        (EndReason::LogoutEverywhere, 13),
        (EndReason::LogoutByApp, 14),
        (EndReason::AccountDisabled, 15),
        (EndReason::SessionLimit, 16),
        (EndReason::LogoutByProvider, 17),
        (EndReason::ProviderEnded, 18),
    ];

    /// Returns the code in a store.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or(0, |(_, code)| *code)
    }

    /// Returns the reason of a code. An unknown code, from a newer gateway, reads as `Revoked`.
    pub fn from_code(code: u8) -> EndReason {
        let known = Self::ALL.iter().find(|(_, known)| *known == code);
        known.map_or(EndReason::Revoked, |(reason, _)| *reason)
    }

    /// Returns the name for logs and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Logout => "logout",
            EndReason::Revoked => "revoked",
            EndReason::Replaced => "replaced",
            EndReason::Idle => "idle",
            EndReason::Absolute => "absolute",
            EndReason::Theft => "theft",
            EndReason::RotationIgnored => "not-rotating",
            EndReason::AccountGone => "account-gone",
            EndReason::CredentialChanged => "credential-changed",
            EndReason::TheftElsewhere => "theft-elsewhere",
            EndReason::EndedByOperator => "ended-by-operator",
            EndReason::EndedByUser => "ended-by-user",
            EndReason::LogoutEverywhere => "logout-everywhere",
            EndReason::LogoutByApp => "logout-by-app",
            EndReason::AccountDisabled => "account-disabled",
            EndReason::SessionLimit => "session-limit",
            EndReason::LogoutByProvider => "logout-by-provider",
            EndReason::ProviderEnded => "provider-ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_reason_round_trips_through_its_code() {
        for (reason, code) in EndReason::ALL {
            assert_eq!(EndReason::from_code(reason.code()), reason);
            assert_ne!(code, 0);
        }
    }
}
