//! One attempt to log in with a password: the brakes, the queue, the hash, the verdict.
//!
//! An unknown and a disabled name go the same way as a known one, against a decoy of the same cost,
//! and end in the same [`Attempt::Refuse`]. Where accounts have different costs (bcrypt from an
//! htpasswd file beside argon2id), unknown names are spread over the costs in the accounts' shares:
//! a single name's time tells its kind of hash, not whether it exists.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::secret::equal_in_constant_time;

use super::account::{Account, fold};
use super::credential::{Cost, Credential, CredentialError};
use super::directory::Directory;
use super::throttle::{Limits, Throttle, Ticket};

/// The longest password that is looked at, in bytes. RFC 9106 has no limit; an attacker has none.
pub const PASSWORD_MAX: usize = 1_024;

/// Of threads that check passwords, where others have 0 and the least claim to a core is 19.
const NICE: i32 = 10;

/// How passwords are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub limits: Limits,
    /// Hashes that run at the same time, in all runtimes together. Each takes a core and its memory.
    pub permits: NonZeroUsize,
    /// Attempts that may wait for a permit.
    pub queue: usize,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// What a name costs while the directory has no account at all.
    pub cost: Cost,
}

impl Default for Settings {
    fn default() -> Settings {
        let permits = all_cores_but_one();
        Settings {
            limits: Limits::default(),
            permits,
            // A hash takes about 60 ms: those further back would not get their turn in two seconds.
            queue: permits.get().saturating_mul(32),
            queue_wait: Duration::from_secs(2),
            cost: Cost::DEFAULT,
        }
    }
}

/// Strangers choose how many passwords are checked: one core is for those who are in.
fn all_cores_but_one() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores.saturating_sub(1)).unwrap_or(NonZeroUsize::MIN)
}

/// Requests go before hashes on the other cores too. It is this thread's from now on (Linux sets it by
/// thread); where it is not granted, hashes only take their share.
fn step_back() {
    if getpriority_process(None).is_ok_and(|nice| nice < NICE) {
        setpriority_process(None, NICE).unwrap_or_default();
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The password is right and the account may log in.
    Accept(Arc<Account>),
    /// No such account, disabled, or the wrong password: nobody is told which.
    Refuse,
    /// Too many attempts; nothing was checked.
    Throttle { retry_after: Duration },
    /// The machine has no room for one more hash; nothing was checked.
    Busy { retry_after: Duration },
}

/// Checks passwords for all runtimes of a gateway. Shared behind an [`Arc`].
#[derive(Debug)]
pub struct PasswordLogin {
    directory: Arc<Directory>,
    settings: Settings,
    throttle: Arc<Throttle>,
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    running: Arc<Running>,
    decoy: Credential,
}

/// Counts the hashes that run, for metrics and for the test that they stay bounded.
#[derive(Debug, Default)]
struct Running {
    now: AtomicUsize,
    peak: AtomicUsize,
    total: AtomicUsize,
}

impl PasswordLogin {
    /// # Errors
    /// When `settings.cost` is not one that a password can have.
    pub fn new(
        directory: Arc<Directory>,
        settings: Settings,
        clock: &Clock,
    ) -> Result<PasswordLogin, CredentialError> {
        Ok(PasswordLogin {
            directory,
            settings,
            throttle: Arc::new(Throttle::new(settings.limits, clock)),
            permits: Arc::new(Semaphore::new(settings.permits.get())),
            waiting: Arc::default(),
            running: Arc::default(),
            decoy: Credential::decoy(settings.cost)?,
        })
    }

    /// One attempt by whoever is behind `from`. Dropping the future gives up the answer, not the
    /// count: a hash that began runs to its end, keeps its permit, and is counted.
    pub async fn verify(&self, name: &str, password: Zeroizing<String>, from: IpAddr) -> Attempt {
        // Before any look-up: the answer tells nothing about the name.
        if password.len() > PASSWORD_MAX {
            return Attempt::Refuse;
        }
        let ticket = match self.throttle.admit(&fold(name), from) {
            Ok(ticket) => ticket,
            Err(retry_after) => return Attempt::Throttle { retry_after },
        };
        let Some(permit) = self.permit().await else {
            return self.busy();
        };
        let matches = self.hash(self.check(name), password, ticket, permit).await;
        match matches {
            Some(Some(account)) => self.still_the_same(account),
            Some(None) => Attempt::Refuse,
            None => self.busy(),
        }
    }

    /// The most hashes that ran at the same time so far.
    pub fn peak_hashes(&self) -> usize {
        self.running.peak.load(Ordering::SeqCst)
    }

    /// The hashes that were begun so far.
    pub fn hashes(&self) -> usize {
        self.running.total.load(Ordering::SeqCst)
    }

    /// The hashes that run now.
    pub fn hashing(&self) -> usize {
        self.running.now.load(Ordering::SeqCst)
    }

    /// The attempts that wait for a permit now.
    pub fn queued(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let _place = Place::take(&self.waiting, self.settings.queue)?;
        let turn = Arc::clone(&self.permits).acquire_owned();
        let turn = tokio::time::timeout(self.settings.queue_wait, turn).await;
        turn.ok()?.ok()
    }

    fn check(&self, name: &str) -> Check {
        match self.directory.find(name) {
            Some(account) => Check {
                against: account.password.clone(),
                account: Some(account).filter(|account| !account.disabled),
            },
            None => Check {
                against: self.directory.decoy(name).unwrap_or_else(|| self.decoy.clone()),
                account: None,
            },
        }
    }

    /// `None` when the hash could not run.
    async fn hash(
        &self,
        check: Check,
        password: Zeroizing<String>,
        ticket: Ticket,
        permit: OwnedSemaphorePermit,
    ) -> Option<Option<Arc<Account>>> {
        let throttle = Arc::clone(&self.throttle);
        let running = Arc::clone(&self.running);
        let work = move || {
            let _permit = permit;
            let _running = Run::begin(running);
            step_back();
            let account = check.run(&password);
            match account {
                Some(_) => throttle.succeeded(ticket),
                None => throttle.failed(ticket),
            }
            account
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// An account that was disabled, removed or given a new password while the hash ran does not log
    /// in: its sessions were ended already, and this one would be missed.
    fn still_the_same(&self, account: Arc<Account>) -> Attempt {
        match self.directory.find(&account.identity.user) {
            Some(now) if !now.disabled && same_credential(&now, &account) => Attempt::Accept(now),
            Some(_) | None => Attempt::Refuse,
        }
    }

    fn busy(&self) -> Attempt {
        let retry_after = self.settings.queue_wait.max(Duration::from_secs(1));
        Attempt::Busy { retry_after }
    }
}

fn same_credential(one: &Account, other: &Account) -> bool {
    equal_in_constant_time(&one.credential, &other.credential)
}

/// What a password is held against, and whom a match lets in.
struct Check {
    against: Credential,
    account: Option<Arc<Account>>,
}

impl Check {
    fn run(self, password: &str) -> Option<Arc<Account>> {
        let matches = self.against.verify(password);
        self.account.filter(|_| matches)
    }
}

/// A place in the queue, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>, most: usize) -> Option<Place> {
        let place = Place(Arc::clone(waiting));
        (waiting.fetch_add(1, Ordering::SeqCst) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One running hash.
struct Run(Arc<Running>);

impl Run {
    fn begin(running: Arc<Running>) -> Run {
        let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.peak.fetch_max(now, Ordering::SeqCst);
        running.total.fetch_add(1, Ordering::SeqCst);
        Run(running)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}
