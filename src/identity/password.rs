//! One login attempt with a password: rate limits, queue, hash, result.
//!
//! Unknown and disabled names take the same path as existing ones, against a decoy of the same
//! cost, and end in the same [`LoginOutcome::Refuse`]. If accounts have different costs (bcrypt
//! from an htpasswd file beside argon2id), unknown names are spread over the costs in proportion.
//! The time of an attempt reveals the kind of hash, not whether the name exists.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::secret::constant_time_eq;

use super::account::{Account, normalize_name};
use super::credential::{Cost, Credential, CredentialError};
use super::directory::Directory;
use super::throttle::{AttemptKey, LoginLimits, Throttle};

/// Maximum length of a password in bytes, as protection against resource exhaustion.
pub const PASSWORD_MAX: usize = 1_024;

/// Nice value of threads that hash passwords; the default is 0 and the lowest priority is 19.
const HASH_NICE: i32 = 10;

/// Settings of password verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordSettings {
    pub limits: LoginLimits,
    /// Maximum number of concurrent hashes across all runtimes. Each takes a core and its memory.
    pub concurrent_hashes: NonZeroUsize,
    /// Maximum number of attempts that wait for a permit.
    pub queue_length: usize,
    /// Maximum wait for a permit.
    pub queue_wait: Duration,
    /// Cost of an attempt while the directory has no account.
    pub decoy_cost: Cost,
}

impl Default for PasswordSettings {
    fn default() -> PasswordSettings {
        let permits = all_cores_but_one();
        PasswordSettings {
            limits: LoginLimits::default(),
            concurrent_hashes: permits,
            // A hash takes about 60 ms: attempts further back could not start within two seconds.
            queue_length: permits.get().saturating_mul(32),
            queue_wait: Duration::from_secs(2),
            decoy_cost: Cost::DEFAULT,
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

/// Verifies passwords for all runtimes of a gateway. Shared behind an [`Arc`].
#[derive(Debug)]
pub struct PasswordLogin {
    directory: Arc<Directory>,
    settings: PasswordSettings,
    throttle: Arc<Throttle>,
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    running: Arc<HashCounts>,
    decoy: Credential,
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
        clock: &Clock,
    ) -> Result<PasswordLogin, CredentialError> {
        Ok(PasswordLogin {
            directory,
            settings,
            throttle: Arc::new(Throttle::new(settings.limits, clock)),
            permits: Arc::new(Semaphore::new(settings.concurrent_hashes.get())),
            waiting: Arc::default(),
            running: Arc::default(),
            decoy: Credential::decoy(settings.decoy_cost)?,
        })
    }

    /// Makes one attempt from the address `from`. Dropping the future abandons the result, not the
    /// attempt: a started hash runs to its end, keeps its permit and is counted.
    pub async fn verify(
        &self,
        name: &str,
        password: Zeroizing<String>,
        from: IpAddr,
    ) -> LoginOutcome {
        // Before any lookup, so that the response reveals nothing about the name.
        if password.len() > PASSWORD_MAX {
            return LoginOutcome::Refuse;
        }
        let key = match self.throttle.admit(&normalize_name(name), from) {
            Ok(key) => key,
            Err(retry_after) => return LoginOutcome::Throttle { retry_after },
        };
        let Some(permit) = self.acquire_permit().await else {
            return self.busy();
        };
        let matches = self.run_hash(self.credential_check(name), password, key, permit).await;
        match matches {
            Some(Some(account)) => self.recheck_account(account),
            Some(None) => LoginOutcome::Refuse,
            None => self.busy(),
        }
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
        self.waiting.load(Ordering::SeqCst)
    }

    async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let _slot = QueueSlot::take(&self.waiting, self.settings.queue_length)?;
        let turn = Arc::clone(&self.permits).acquire_owned();
        let turn = tokio::time::timeout(self.settings.queue_wait, turn).await;
        turn.ok()?.ok()
    }

    fn credential_check(&self, name: &str) -> CredentialCheck {
        match self.directory.find(name) {
            Some(account) => CredentialCheck {
                credential: account.password.clone(),
                account: Some(account).filter(|account| !account.disabled),
            },
            None => CredentialCheck {
                credential: self.directory.decoy(name).unwrap_or_else(|| self.decoy.clone()),
                account: None,
            },
        }
    }

    /// Returns `None` if the hash could not run.
    async fn run_hash(
        &self,
        check: CredentialCheck,
        password: Zeroizing<String>,
        key: AttemptKey,
        permit: OwnedSemaphorePermit,
    ) -> Option<Option<Arc<Account>>> {
        let throttle = Arc::clone(&self.throttle);
        let running = Arc::clone(&self.running);
        let work = move || {
            let _permit = permit;
            let _running = RunningHash::begin(running);
            lower_priority();
            let account = check.run(&password);
            match account {
                Some(_) => throttle.record_success(key),
                None => throttle.record_failure(key),
            }
            account
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
    fn run(self, password: &str) -> Option<Arc<Account>> {
        let matches = self.credential.verify(password);
        self.account.filter(|_| matches)
    }
}

/// A slot in the queue, released on drop.
struct QueueSlot(Arc<AtomicUsize>);

impl QueueSlot {
    fn take(waiting: &Arc<AtomicUsize>, max: usize) -> Option<QueueSlot> {
        let slot = QueueSlot(Arc::clone(waiting));
        (waiting.fetch_add(1, Ordering::SeqCst) < max).then_some(slot)
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
