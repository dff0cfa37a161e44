//! Metadata and keys of a provider. One task fetches both; requests wait for it.
//!
//! - The provider may be down at any time. The last metadata stay in use, and the last keys for a day.
//! - A token with an unknown key ID causes a fetch at most once in 30 seconds, so strangers cannot direct
//!   traffic at the provider.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::failure::{ProviderProblem, ProviderUnavailable, Step};
use super::jws::KeySet;
use super::metadata::{self, Metadata};
use super::requests::Call;
use super::settings::OidcSettings;
use crate::clock::{Clock, UnixMillis};
use crate::http_client::HttpClient;
use crate::secret::random_bytes;

/// Time after which metadata and keys are fetched again.
const REFRESH: Duration = Duration::from_secs(60 * 60);

/// Longest use of keys that cannot be fetched again.
const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Shortest time between two fetches of keys that requests cause.
const KEY_INTERVAL: Duration = Duration::from_secs(30);

/// Longest wait of a request for newer keys.
const KEY_WAIT: Duration = Duration::from_secs(2);

/// Longest and shortest pause after a failed attempt.
const MAX_PAUSE: Duration = Duration::from_secs(30);
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the provider.
#[derive(Clone, Default)]
struct Known {
    metadata: Option<Arc<Metadata>>,
    keys: Option<Keys>,
    /// Number of completed attempts.
    attempts: u64,
    /// Time of the latest attempt to fetch keys.
    keys_tried: Option<UnixMillis>,
    /// Why the latest attempt failed.
    problem: Option<String>,
}

/// A key set and the time of its fetch.
#[derive(Clone)]
struct Keys {
    set: Arc<KeySet>,
    fetched: UnixMillis,
}

/// Fetches and keeps metadata and keys.
pub(super) struct Discovery {
    /// Name of the provider, for the log.
    name: String,
    known: watch::Sender<Known>,
    /// A request needs metadata or newer keys.
    wanted: Notify,
    clock: Clock,
}

impl Discovery {
    pub(super) fn new(name: &str, clock: Clock) -> Discovery {
        let (known, wanted) = (watch::Sender::default(), Notify::new());
        Discovery { name: name.to_owned(), known, wanted, clock }
    }

    /// Returns `None` before the first attempt, then whether the latest one succeeded.
    pub(super) fn status(&self) -> Option<Result<(), String>> {
        let known = self.known.borrow();
        match (&known.problem, known.attempts) {
            (Some(problem), _) => Some(Err(problem.clone())),
            (None, 0) => None,
            (None, _) => Some(Ok(())),
        }
    }

    /// Records the failure of another request. The next successful fetch clears it.
    pub(super) fn report(&self, failure: &ProviderUnavailable) {
        let is_new = self.known.borrow().problem.is_none();
        if is_new {
            self.log(Some(&failure.to_string()));
            self.known.send_modify(|known| known.problem = Some(failure.to_string()));
            self.wanted.notify_one();
        }
    }

    /// Returns the metadata if they were fetched.
    pub(super) fn current_metadata(&self) -> Option<Arc<Metadata>> {
        self.known.borrow().metadata.clone()
    }

    /// Returns the metadata. Waits for the first fetch if needed, at most `timeout`.
    pub(super) async fn metadata(
        &self,
        timeout: Duration,
    ) -> Result<Arc<Metadata>, ProviderUnavailable> {
        if let Some(metadata) = self.current_metadata() {
            return Ok(metadata);
        }
        let before = self.known.borrow().attempts;
        self.wanted.notify_one();
        self.next_attempt(before, timeout).await;
        self.current_metadata().ok_or_else(|| self.no_answer(Step::Discovery))
    }

    /// Returns the keys. Waits for the first fetch if needed.
    pub(super) async fn keys(&self) -> Result<Arc<KeySet>, ProviderUnavailable> {
        let now = self.clock.now();
        let usable = |known: &Known| {
            let keys = known.keys.as_ref().filter(|keys| now.since(keys.fetched) < MAX_KEY_AGE);
            keys.map(|keys| Arc::clone(&keys.set))
        };
        let current = usable(&self.known.borrow());
        if let Some(keys) = current {
            return Ok(keys);
        }
        let before = self.known.borrow().attempts;
        if self.may_fetch_keys() {
            self.wanted.notify_one();
            self.next_attempt(before, KEY_WAIT).await;
        }
        let current = usable(&self.known.borrow());
        current.ok_or_else(|| self.no_answer(Step::Keys))
    }

    /// Returns a key set that is newer than `old`. `None` if `old` is at most 30 seconds old: a token whose
    /// key it lacks is refused.
    pub(super) async fn newer_keys(
        &self,
        old: &Arc<KeySet>,
    ) -> Result<Option<Arc<KeySet>>, ProviderUnavailable> {
        let before = self.known.borrow().attempts;
        if self.may_fetch_keys() {
            self.wanted.notify_one();
            self.next_attempt(before, KEY_WAIT).await;
        }
        let known = self.known.borrow();
        match &known.keys {
            Some(keys) if !Arc::ptr_eq(&keys.set, old) => Ok(Some(Arc::clone(&keys.set))),
            Some(keys) if is_within(KEY_INTERVAL, keys.fetched, self.clock.now()) => Ok(None),
            Some(_) | None => Err(self.unavailable(Step::Keys, known.problem.as_deref())),
        }
    }

    fn may_fetch_keys(&self) -> bool {
        let tried = self.known.borrow().keys_tried;
        tried.is_none_or(|tried| !is_within(KEY_INTERVAL, tried, self.clock.now()))
    }

    /// Waits until an attempt has ended that was not complete before.
    async fn next_attempt(&self, before: u64, timeout: Duration) {
        let mut known = self.known.subscribe();
        let next = known.wait_for(|known| known.attempts > before);
        // Without an attempt, the caller finds nothing new.
        drop(tokio::time::timeout(timeout, next).await);
    }

    fn no_answer(&self, step: Step) -> ProviderUnavailable {
        self.unavailable(step, self.known.borrow().problem.as_deref())
    }

    fn unavailable(&self, step: Step, problem: Option<&str>) -> ProviderUnavailable {
        let problem = problem.unwrap_or("no answer yet").to_owned();
        ProviderUnavailable { step, problem: ProviderProblem::Earlier(problem) }
    }

    /// Fetches both now, hourly, after failures, and when a request needs newer ones.
    pub(super) async fn keep_current(&self, settings: &OidcSettings, client: &HttpClient) {
        let mut failures = 0;
        loop {
            match self.fetch(settings, client).await {
                Ok(()) => failures = 0,
                Err(_) => failures += 1,
            }
            self.pause(failures).await;
        }
    }

    async fn pause(&self, failures: u32) {
        if failures == 0 {
            drop(tokio::time::timeout(REFRESH, self.wanted_and_allowed()).await);
        } else {
            tokio::time::sleep(MIN_PAUSE).await;
            drop(tokio::time::timeout(backoff(failures), self.wanted.notified()).await);
        }
    }

    async fn wanted_and_allowed(&self) {
        self.wanted.notified().await;
        while !self.may_fetch_keys() {
            drop(tokio::time::timeout(KEY_INTERVAL, self.wanted.notified()).await);
        }
    }

    async fn fetch(
        &self,
        settings: &OidcSettings,
        client: &HttpClient,
    ) -> Result<(), ProviderUnavailable> {
        let result = self.fetch_both(settings, client).await;
        let problem = result.as_ref().err().map(ToString::to_string);
        self.log(problem.as_deref());
        self.known.send_modify(|known| {
            known.attempts += 1;
            known.problem = problem;
        });
        result
    }

    /// Logs the begin and the end of an outage. Attempts in between log nothing.
    fn log(&self, problem: Option<&str>) {
        let (provider, was_down) = (&self.name, self.known.borrow().problem.is_some());
        match problem {
            Some(error) if !was_down => warn!(
                event = "oidc.provider-down",
                provider,
                error,
                "logins at the provider are not possible; attempts continue, and existing sessions are not affected"
            ),
            None if was_down => {
                info!(
                    event = "oidc.provider-up",
                    provider, "logins at the provider are possible again"
                );
            }
            Some(_) | None => {}
        }
    }

    async fn fetch_both(
        &self,
        settings: &OidcSettings,
        client: &HttpClient,
    ) -> Result<(), ProviderUnavailable> {
        let metadata = Arc::new(fetch_metadata(settings, client).await?);
        let now = self.clock.now();
        self.known.send_modify(|known| known.keys_tried = Some(now));
        let fetched = fetch_keys(&metadata, client).await;
        // Together: a request that has the metadata would not wait for the first keys.
        self.known.send_modify(|known| {
            known.metadata = Some(metadata);
            if let Ok(set) = &fetched {
                known.keys = Some(Keys { set: Arc::new(set.clone()), fetched: now });
            }
        });
        fetched.map(|_| ())
    }
}

async fn fetch_metadata(
    settings: &OidcSettings,
    client: &HttpClient,
) -> Result<Metadata, ProviderUnavailable> {
    let fails = |problem| ProviderUnavailable { step: Step::Discovery, problem };
    let url = settings.issuer.join(metadata::PATH);
    let url = url.map_err(|error| fails(ProviderProblem::Url { field: "issuer", error }))?;
    let call = Call { step: Step::Discovery, url: &url, authorization: None };
    let body = call.get(client).await?;
    Metadata::parse(&body, &settings.issuer).map_err(fails)
}

async fn fetch_keys(
    metadata: &Metadata,
    client: &HttpClient,
) -> Result<KeySet, ProviderUnavailable> {
    let call = Call { step: Step::Keys, url: &metadata.keys, authorization: None };
    let body = call.get(client).await?;
    KeySet::parse(&body).map_err(|problem| call.fails(ProviderProblem::Answer(problem)))
}

/// Whether `now` is less than `interval` after `at`. A clock that was set back ends the interval.
fn is_within(interval: Duration, at: UnixMillis, now: UnixMillis) -> bool {
    now >= at && now.since(at) < interval
}

/// Returns a random pause (full jitter), so that gateways do not return at the same time.
fn backoff(failures: u32) -> Duration {
    let longest = MIN_PAUSE.saturating_mul(1_u32 << failures.min(5)).min(MAX_PAUSE);
    longest.mul_f64(f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX))
}
