//! State of one endpoint that all workers share: its health and its exchanges in progress.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::message::Endpoint;
use crate::secret::sha256;

use super::error::UpstreamError;
use super::health::{DownCause, Health, Standing};

/// State of an endpoint of one route, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    pub route: String,
    pub endpoint: String,
    /// `up`, `starting` or `down`.
    pub state: String,
    /// Why the endpoint is down.
    pub cause: Option<String>,
    /// Number of requests in progress; `None` if the route has one endpoint.
    pub requests: Option<usize>,
}

/// State of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    endpoint: Endpoint,
    identity: u64,
    outstanding: AtomicUsize,
    /// Whether nothing restricts the endpoint or counts against it. Most requests read only this.
    is_plain: AtomicBool,
    health: Mutex<Health>,
}

/// States of the endpoints of routes with the same connection settings. Clones share them; two that are equal
/// are the same.
#[derive(Clone, Debug, Default)]
pub struct EndpointStates(Arc<Mutex<HashMap<Endpoint, Arc<EndpointState>>>>);

impl PartialEq for EndpointStates {
    fn eq(&self, other: &EndpointStates) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Time after which a connection attempt that its client gave up counts as failed. Otherwise impatient clients
/// would hide a silent endpoint.
const PATIENCE: Duration = Duration::from_secs(1);

/// An attempt to open a connection.
pub(super) struct ConnectAttempt<'a> {
    state: &'a EndpointState,
    began: Instant,
    is_recorded: bool,
}

/// An exchange in progress.
pub(super) struct Outstanding(Arc<EndpointState>);

impl EndpointStates {
    /// Returns the state of an endpoint, which begins when it is first requested.
    pub fn get(&self, endpoint: &Endpoint) -> Arc<EndpointState> {
        let mut all = self.0.lock();
        if let Some(state) = all.get(endpoint) {
            return Arc::clone(state);
        }
        let state = Arc::new(EndpointState::new(endpoint.clone()));
        all.insert(endpoint.clone(), Arc::clone(&state));
        state
    }

    /// Removes the states of endpoints that no route uses any more.
    pub fn retain(&self, mut is_used: impl FnMut(&Endpoint) -> bool) {
        self.0.lock().retain(|endpoint, _| is_used(endpoint));
    }
}

impl EndpointState {
    fn new(endpoint: Endpoint) -> EndpointState {
        let [a, b, c, d, e, f, g, h, ..] = sha256(endpoint.to_string().as_bytes());
        EndpointState {
            identity: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            endpoint,
            outstanding: AtomicUsize::new(0),
            is_plain: AtomicBool::new(true),
            health: Mutex::default(),
        }
    }

    /// Returns a number that depends on the address only, so that all gateways have the same.
    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    /// Number of exchanges in progress. Those of routes with one endpoint are not counted.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Returns the state for operators.
    pub fn report(&self, route: String, is_only: bool) -> EndpointReport {
        let standing = self.standing(Instant::now());
        let (state, cause) = match standing {
            Standing::Up => ("up", None),
            Standing::Starting(_) => ("starting", None),
            Standing::Down(cause) | Standing::TrialDue(cause) => ("down", Some(cause.as_str())),
        };
        EndpointReport {
            route,
            endpoint: self.endpoint.to_string(),
            state: state.to_owned(),
            cause: cause.map(str::to_owned),
            requests: (!is_only).then(|| self.outstanding()),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.is_plain.load(Ordering::Relaxed)
    }

    /// Returns whether the endpoint gets requests.
    pub fn standing(&self, now: Instant) -> Standing {
        if self.is_plain() {
            return Standing::Up;
        }
        let health = self.health.lock();
        self.is_plain.store(health.is_plain(now), Ordering::Relaxed);
        health.standing(now)
    }

    /// Returns whether the caller's request is the trial of the endpoint.
    pub(super) fn claim_trial(&self, now: Instant) -> bool {
        let mut health = self.health.lock();
        let is_due = matches!(health.standing(now), Standing::TrialDue(_));
        if is_due {
            health.begin_trial(now);
        }
        is_due
    }

    pub(super) fn begin_exchange(self: &Arc<Self>) -> Outstanding {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Outstanding(Arc::clone(self))
    }

    /// Begins to open a connection.
    pub(super) fn begin_connect(&self) -> ConnectAttempt<'_> {
        ConnectAttempt { state: self, began: Instant::now(), is_recorded: false }
    }

    fn record_connect(&self, failure: Option<&UpstreamError>) {
        match failure {
            None if self.is_plain() => {}
            None => self.update(None, Health::connected),
            Some(error) if error.is_connect_failure() => {
                self.update(Some(error), Health::connect_failed);
            }
            Some(_) => {}
        }
    }

    /// Records the result of an exchange.
    pub(super) fn record_exchange(&self, failure: Option<&UpstreamError>) {
        match failure {
            None if self.is_plain() => {}
            None => self.update(None, Health::responded),
            Some(error @ UpstreamError::ResponseTimeout) => {
                self.update(Some(error), Health::timed_out);
            }
            Some(_) => {}
        }
    }

    /// Records a health check. The endpoint goes down after `fall` failures in a row and returns after `rise`
    /// successes in a row.
    pub fn record_check(&self, failure: Option<&dyn Display>, fall: u32, rise: u32) {
        let succeeded = failure.is_none();
        self.update(failure, |health, now| health.checked(succeeded, fall, rise, now));
    }

    fn update(&self, error: Option<&dyn Display>, change: impl FnOnce(&mut Health, Instant)) {
        let now = Instant::now();
        let mut health = self.health.lock();
        let before = health.is_ejected();
        change(&mut health, now);
        let after = health.is_ejected();
        self.is_plain.store(health.is_plain(now), Ordering::Relaxed);
        drop(health);
        match (before, after) {
            (None, Some(cause)) => self.log_down(cause, error),
            (Some(_), None) => self.log_up(),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn log_down(&self, cause: DownCause, error: Option<&dyn Display>) {
        warn!(
            event = "upstream.endpoint-down",
            endpoint = %self.endpoint,
            cause = cause.as_str(),
            error = error.map(|error| error.to_string()),
            "requests go to the other endpoints of its routes, if there are any"
        );
    }

    fn log_up(&self) {
        info!(event = "upstream.endpoint-up", endpoint = %self.endpoint);
    }
}

impl ConnectAttempt<'_> {
    pub(super) fn record(mut self, failure: Option<&UpstreamError>) {
        self.is_recorded = true;
        self.state.record_connect(failure);
    }
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        if !self.is_recorded && self.began.elapsed() >= PATIENCE {
            self.state.record_connect(Some(&UpstreamError::ConnectionTimeout));
        }
    }
}

impl Outstanding {
    pub(super) fn state(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
