//! One login attempt with a password: queue, limits, hash, result.
//!
//! Unknown and disabled names take the same path as existing ones, against a decoy of the same
//! cost, and end in the same [`LoginOutcome::Refuse`]. If accounts have different costs (bcrypt
//! from an htpasswd file beside argon2id), a keyed hash assigns each unknown name one of them. The time
//! of an attempt reveals the kind of hash, not whether the name exists.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};
use zeroize::Zeroizing;

use crate::secret::{LoginKey, constant_time_eq};

use super::account::{Account, normalize_password};
use super::credential::{Cost, Credential, CredentialError};
use super::directory::Directory;
use super::hash_queue::{HashPermit, HashQueue, QueuePlace};
use super::password_policy::{self, PASSWORD_MAX};
use super::users_file_editor::{EditError, UsersFileEditor};

/// Nice value of threads that hash passwords; the default is 0 and the lowest priority is 19.
const HASH_NICE: i32 = 10;

/// Settings of password verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordSettings {
    /// Maximum number of concurrent hashes across all runtimes. Each takes a core and its memory.
    pub concurrent_hashes: NonZeroUsize,
    /// Maximum number of attempts that wait for a permit, in each of the two lanes.
    pub queue_length: usize,
    /// Maximum wait for a permit.
    pub queue_wait: Duration,
    /// Cost of an attempt while the directory has no account.
    pub decoy_cost: Cost,
    /// Minimum number of characters of a new password.
    pub min_length: usize,
    /// Whether users can change their password.
    pub is_changeable: bool,
}

impl Default for PasswordSettings {
    fn default() -> PasswordSettings {
        let permits = all_cores_but_one();
        PasswordSettings {
            concurrent_hashes: permits,
            // A hash takes about 60 ms: attempts further back could not start within two seconds.
            queue_length: permits.get().saturating_mul(32),
            queue_wait: Duration::from_secs(2),
            decoy_cost: Cost::DEFAULT,
            min_length: password_policy::LENGTH_MIN,
            is_changeable: true,
        }
    }
}

/// Unauthenticated clients cause hashes, so one core remains for authenticated requests.
fn all_cores_but_one() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores.saturating_sub(1)).unwrap_or(NonZeroUsize::MIN)
}

/// Lowers the priority of this thread permanently, so that requests precede hashes on every core.
/// Linux sets it per thread; if it is not permitted, hashes compete equally.
fn lower_priority() {
    if getpriority_process(None).is_ok_and(|nice| nice < HASH_NICE) {
        setpriority_process(None, HASH_NICE).unwrap_or_default();
    }
}

/// Outcome of a login attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The password matches and the account is enabled.
    Accept(Arc<Account>),
    /// Unknown name, disabled account or wrong password, indistinguishable to the client.
    Refuse,
    /// A rate limit was exceeded; nothing was verified.
    Throttle { retry_after: Duration },
    /// The hash queue is full or too slow; nothing was verified.
    Busy { retry_after: Duration },
}

/// Why a new password was not written.
#[derive(Debug, thiserror::Error)]
pub enum SetPasswordError {
    #[error(transparent)]
    Hash(#[from] CredentialError),
    #[error(transparent)]
    File(#[from] EditError),
    #[error("the task was interrupted")]
    Interrupted,
}

/// Verifies passwords for all runtimes of a gateway. Shared behind an [`Arc`].
#[derive(Debug)]
pub struct PasswordLogin {
    directory: Arc<Directory>,
    settings: PasswordSettings,
    queue: Arc<HashQueue>,
    running: Arc<HashCounts>,
    decoy: Credential,
    /// Selects decoys, equally at all gateways.
    key: LoginKey,
}

/// Counters of hashes, for metrics and tests.
#[derive(Debug, Default)]
struct HashCounts {
    now: AtomicUsize,
    peak: AtomicUsize,
    total: AtomicUsize,
}

impl PasswordLogin {
    /// # Errors
    /// If `settings.decoy_cost` is out of bounds.
    pub fn new(
        directory: Arc<Directory>,
        settings: PasswordSettings,
        key: LoginKey,
    ) -> Result<PasswordLogin, CredentialError> {
        let permits = settings.concurrent_hashes.get();
        Ok(PasswordLogin {
            directory,
            settings,
            queue: Arc::new(HashQueue::new(permits, settings.queue_length)),
            running: Arc::default(),
            decoy: Credential::decoy(settings.decoy_cost)?,
            key,
        })
    }

    /// Makes one attempt. `charge` counts it and runs once the attempt may be hashed, so that attempts in
    /// progress alone exhaust no limit; its error is the time to wait.
    ///
    /// Dropping the future abandons the result, not the attempt: a started hash runs to its end, keeps
    /// its permit and remains charged.
    pub async fn verify(
        &self,
        name: &str,
        password: Zeroizing<String>,
        place: QueuePlace,
        charge: impl Future<Output = Result<(), Duration>>,
    ) -> LoginOutcome {
        // Before any lookup, so that the response reveals nothing about the name.
        if password.len() > PASSWORD_MAX {
            return LoginOutcome::Refuse;
        }
        let permit =
            tokio::time::timeout(self.settings.queue_wait, self.queue.acquire(place)).await;
        let Ok(Some(permit)) = permit else {
            return self.busy();
        };
        if let Err(retry_after) = charge.await {
            return LoginOutcome::Throttle { retry_after };
        }
        match self.run_hash(self.credential_check(name), password, permit).await {
            Some(Some(account)) => self.recheck_account(account),
            Some(None) => LoginOutcome::Refuse,
            None => self.busy(),
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &PasswordSettings {
        &self.settings
    }

    /// Writes a new password, which was checked, to the users file.
    ///
    /// # Errors
    /// If the file cannot be written; the old password stays.
    pub async fn set_password(
        &self,
        user: &str,
        password: Zeroizing<String>,
    ) -> Result<(), SetPasswordError> {
        let (path, user) = (self.directory.path().to_owned(), user.to_owned());
        let work = move || {
            lower_priority();
            let credential = Credential::hash(&normalize_password(&password), Cost::DEFAULT)?;
            let mut edit = UsersFileEditor::open(&path)?;
            edit.set_password(&user, &credential)?;
            Ok(edit.save()?)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or(Err(SetPasswordError::Interrupted))
    }

    /// Returns the accounts that can log in.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns the maximum number of concurrent hashes so far.
    pub fn peak_hashes(&self) -> usize {
        self.running.peak.load(Ordering::SeqCst)
    }

    /// Returns the number of hashes started so far.
    pub fn total_hashes(&self) -> usize {
        self.running.total.load(Ordering::SeqCst)
    }

    /// Returns the number of running hashes.
    pub fn running_hashes(&self) -> usize {
        self.running.now.load(Ordering::SeqCst)
    }

    /// Returns the number of attempts that wait for a permit.
    pub fn queued_attempts(&self) -> usize {
        self.queue.waiting()
    }

    fn credential_check(&self, name: &str) -> CredentialCheck {
        match self.directory.find(name) {
            Some(account) => CredentialCheck {
                credential: account.password.clone(),
                account: Some(account).filter(|account| !account.disabled),
            },
            None => CredentialCheck {
                credential: self
                    .directory
                    .decoy(&self.key, name)
                    .unwrap_or_else(|| self.decoy.clone()),
                account: None,
            },
        }
    }

    /// Returns `None` if the hash could not run.
    async fn run_hash(
        &self,
        check: CredentialCheck,
        password: Zeroizing<String>,
        permit: HashPermit,
    ) -> Option<Option<Arc<Account>>> {
        let running = Arc::clone(&self.running);
        let work = move || {
            let _permit = permit;
            let _running = RunningHash::begin(running);
            lower_priority();
            check.run(&password)
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Rejects an account that was disabled, removed or given a new password while the hash ran.
    /// Its sessions were already ended; a session created now would escape that.
    fn recheck_account(&self, account: Arc<Account>) -> LoginOutcome {
        match self.directory.find(&account.identity.user) {
            Some(now) if !now.disabled && same_credential(&now, &account) => {
                LoginOutcome::Accept(now)
            }
            Some(_) | None => LoginOutcome::Refuse,
        }
    }

    fn busy(&self) -> LoginOutcome {
        let retry_after = self.settings.queue_wait.max(Duration::from_secs(1));
        LoginOutcome::Busy { retry_after }
    }
}

fn same_credential(one: &Account, other: &Account) -> bool {
    constant_time_eq(&one.credential_digest, &other.credential_digest)
}

/// The hash to verify against, and the account that a match admits.
struct CredentialCheck {
    credential: Credential,
    account: Option<Arc<Account>>,
}

impl CredentialCheck {
    /// Verifies the normalized password. Hashes from before the normalization, or from another program, may
    /// be of the password as typed. A second hash runs only for passwords that the normalization changes, for
    /// every account alike.
    fn run(self, password: &str) -> Option<Arc<Account>> {
        let normalized = normalize_password(password);
        let matches = self.credential.verify(&normalized)
            || (*normalized != *password && self.credential.verify(password));
        self.account.filter(|_| matches)
    }
}

/// One running hash, counted until it is dropped.
struct RunningHash(Arc<HashCounts>);

impl RunningHash {
    fn begin(running: Arc<HashCounts>) -> RunningHash {
        let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.peak.fetch_max(now, Ordering::SeqCst);
        running.total.fetch_add(1, Ordering::SeqCst);
        RunningHash(running)
    }
}

impl Drop for RunningHash {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}
