//! Logins at LDAP directories with the form for name and password.
//!
//! A name that has an account in the users file never reaches a directory, also if the account is disabled. The
//! first directory with an entry of the name decides. If a directory does not answer, the later ones are not
//! asked, because the name could be one of its users.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::config::LdapSection;
use crate::ldap::{LdapAccount, LdapDirectory, LdapFailure, LdapRefusal};
use crate::oidc::Profile;
use crate::session::{ExternalLogin, Identity, ldap_account};

use super::account::composed;
use super::external::identity;
use super::hash_queue::{HashQueue, QueuePlace};
use super::login_method::{ExternalFacts, VerifiedLogin};

/// Maximum number of logins at a time, and of those that wait in each lane. Each has up to two connections.
const CONCURRENT: usize = 16;
const QUEUE_LENGTH: usize = 64;
/// Maximum wait for a turn.
const QUEUE_WAIT: Duration = Duration::from_secs(2);

/// The directories of one configuration, in the order of the file.
#[derive(Clone, Debug)]
pub struct LdapLogins {
    directories: Vec<Arc<LdapDirectory>>,
    queue: Arc<HashQueue>,
}

impl Default for LdapLogins {
    fn default() -> LdapLogins {
        LdapLogins::new(Vec::new())
    }
}

/// Outcome of a login attempt at the directories.
#[derive(Debug)]
pub enum LdapOutcome {
    Accept(VerifiedLogin),
    Fail {
        /// Name of the directory that decided.
        directory: String,
        failure: LdapFailure,
    },
    /// A rate limit was exceeded; nothing was verified.
    Throttle {
        retry_after: Duration,
    },
    /// Too many logins wait; nothing was verified.
    Busy {
        retry_after: Duration,
    },
}

/// One attempt of the login form.
pub struct LdapAttempt<'a> {
    pub name: &'a str,
    pub password: Zeroizing<String>,
    pub place: QueuePlace,
    pub now: UnixMillis,
    /// Whether the users file has an account with this name.
    pub is_in_users_file: &'a (dyn Fn(&str) -> bool + Sync),
}

impl LdapLogins {
    pub fn new(directories: Vec<Arc<LdapDirectory>>) -> LdapLogins {
        LdapLogins { directories, queue: Arc::new(HashQueue::new(CONCURRENT, QUEUE_LENGTH)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<LdapDirectory>> {
        self.directories.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Makes one attempt. `charge` counts it and runs once the attempt may be sent; its error is the time to
    /// wait.
    pub async fn verify(
        &self,
        attempt: LdapAttempt<'_>,
        charge: impl Future<Output = Result<(), Duration>>,
    ) -> LdapOutcome {
        let Ok(Some(_permit)) = timeout(QUEUE_WAIT, self.queue.acquire(attempt.place)).await else {
            return LdapOutcome::Busy { retry_after: QUEUE_WAIT };
        };
        if let Err(retry_after) = charge.await {
            return LdapOutcome::Throttle { retry_after };
        }
        let name = composed(attempt.name.trim());
        let mut last = LdapOutcome::Busy { retry_after: QUEUE_WAIT };
        for directory in &self.directories {
            let settings = directory.settings();
            let account = directory.log_in(&name, &attempt.password).await;
            let is_unknown = matches!(account, Err(LdapFailure::Refused(LdapRefusal::Unknown)));
            let login =
                account.and_then(|account| Ok(verified(settings, account, &name, &attempt)?));
            last = match login {
                Ok(login) => LdapOutcome::Accept(login),
                Err(failure) => LdapOutcome::Fail { directory: settings.name.clone(), failure },
            };
            if !is_unknown {
                break;
            }
        }
        last
    }
}

/// Returns the login for which a session can be created.
fn verified(
    settings: &LdapSection,
    account: LdapAccount,
    name: &str,
    attempt: &LdapAttempt<'_>,
) -> Result<VerifiedLogin, LdapRefusal> {
    let credential_digest = account.password_changed;
    let external = ExternalLogin {
        provider: settings.name.clone(),
        account: ldap_account(&settings.name, &account.id),
        confirmed: attempt.now,
        ..ExternalLogin::default()
    };
    let identity = account_identity(settings, account, external)?;
    if (attempt.is_in_users_file)(&identity.user) {
        return Err(LdapRefusal::InUsersFile(identity.user));
    }
    let facts = ExternalFacts {
        authenticated: attempt.now,
        // The name finds the entry again at the next confirmation.
        refresh_token: Some(name.to_owned()),
        ..ExternalFacts::default()
    };
    Ok(VerifiedLogin {
        identity: Arc::new(identity),
        credential_digest,
        second_factor: false,
        external: Some(Box::new(facts)),
    })
}

/// Returns the identity of an account, whose fields are checked already.
///
/// # Errors
/// The user name is too long with its prefix.
pub(super) fn account_identity(
    settings: &LdapSection,
    account: LdapAccount,
    login: ExternalLogin,
) -> Result<Identity, LdapRefusal> {
    let LdapAccount { user, name, email, groups, .. } = account;
    let profile = Profile { user, name, email, groups };
    identity(&settings.user_prefix, profile, login).map_err(LdapRefusal::Entry)
}
