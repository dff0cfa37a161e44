//! Why there is no login.

/// A login or confirmation that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LdapFailure {
    /// No server gave a usable answer. The text is for the log.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Refused(#[from] LdapRefusal),
}

/// An answer of the directory that permits no login. The texts are for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LdapRefusal {
    #[error("no entry has this name")]
    Unknown,
    #[error("more than one entry has this name; make `user_filter` stricter")]
    Several,
    #[error("the directory refuses the password: {0}")]
    Password(String),
    #[error("the account is disabled: {0}")]
    Disabled(&'static str),
    #[error("the user must set a new password first (pwdReset)")]
    PasswordReset,
    #[error("the user is in none of the groups in `allow_groups`")]
    NotAllowed,
    #[error("the entry is not usable: {0}")]
    Entry(String),
    #[error("the name now belongs to another entry")]
    Replaced,
    #[error("the password was changed")]
    PasswordChanged,
    #[error("the users file has an account with the name `{0}`")]
    InUsersFile(String),
}

impl LdapFailure {
    /// Returns the label for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            LdapFailure::Unavailable(_) => "unavailable",
            LdapFailure::Refused(refusal) => refusal.code(),
        }
    }
}

impl LdapRefusal {
    /// Returns the label for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            LdapRefusal::Unknown => "unknown",
            LdapRefusal::Several => "several-entries",
            LdapRefusal::Password(_) => "password",
            LdapRefusal::Disabled(_) => "disabled",
            LdapRefusal::PasswordReset => "password-reset",
            LdapRefusal::NotAllowed => "not-allowed",
            LdapRefusal::Entry(_) => "entry",
            LdapRefusal::Replaced => "replaced",
            LdapRefusal::PasswordChanged => "password-changed",
            LdapRefusal::InUsersFile(_) => "in-users-file",
        }
    }

    /// Whether the directory has accepted the password, so that the user may learn the reason.
    pub fn is_after_password(&self) -> bool {
        match self {
            LdapRefusal::Disabled(_)
            | LdapRefusal::PasswordReset
            | LdapRefusal::NotAllowed
            | LdapRefusal::Entry(_)
            | LdapRefusal::InUsersFile(_) => true,
            LdapRefusal::Unknown
            | LdapRefusal::Several
            | LdapRefusal::Password(_)
            | LdapRefusal::Replaced
            | LdapRefusal::PasswordChanged => false,
        }
    }
}
