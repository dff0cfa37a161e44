//! The notifier alone, with shorter pauses and separate counters.

use std::time::{Duration, Instant};

use doorward::app::notify::settings;
use doorward::clock::UnixMillis;
use doorward::config::Config;
use doorward::notify::{Notifier, RetryPolicy, Settings};
use doorward::session::SessionId;
use doorward::telemetry::events::EventContext;
use doorward::telemetry::{Metrics, SessionEvent};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{SECRET, TIMEOUT};
use test_support::gateway::{Setup, configuration, session_route};

/// Returns a configuration with these keys in `[notify]`; the secret file is `notify-secret`.
pub(super) fn text(directory: &TempDir, notify: &str) -> String {
    std::fs::write(directory.path().join("notify-secret"), SECRET).expect("written");
    let more = format!("[notify]\nsecret_file = \"notify-secret\"\n{notify}\n");
    let routes = session_route(([127, 0, 0, 1], 1).into());
    configuration(&Setup { extra: more, routes, ..Setup::default() }, directory)
}

/// Starts a notifier from such a configuration, with shorter pauses.
pub(super) fn notify_config(directory: &TempDir, notify: &str) -> Settings {
    let text = text(directory, notify);
    let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("loads");
    let settings = settings(&config.notify).expect("usable").expect("a receiver");
    let (attempts, pause, drain) = (3, Duration::from_millis(10), TIMEOUT);
    let (expected, longest) = (Duration::from_secs(2), 10 * TIMEOUT);
    Settings {
        retry: RetryPolicy {
            attempts,
            initial_delay: pause,
            max_retry_after: expected,
            total_timeout: longest,
            drain_timeout: drain,
        },
        ..settings
    }
}

/// A running notifier and its counters.
pub(super) struct NotifyingGateway {
    pub(super) notifier: Notifier,
    metrics: Metrics,
}

impl NotifyingGateway {
    pub(super) fn start(settings: Settings) -> NotifyingGateway {
        let metrics = Metrics::default();
        let notifier = Notifier::start(settings, metrics.clone()).expect("a thread");
        NotifyingGateway { notifier, metrics }
    }

    pub(super) fn theft(&self, session: u16, user: &str) {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&session.to_be_bytes());
        let about = EventContext { user, session: Some(SessionId(id)), ..EventContext::default() };
        self.notifier.event(SessionEvent::Theft, &about, UnixMillis(1_800_000_000_000));
    }

    pub(super) fn count(&self, outcome: &str) -> u64 {
        let text = self.metrics.render();
        let start = format!("doorward_notifications_total{{outcome=\"{outcome}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&start));
        count.map_or(0, |count| count.parse().expect("a number"))
    }

    /// Waits for pending deliveries; returns the counts of delivered, failed, duplicate and dropped messages.
    pub(super) fn close(&self) -> [u64; 4] {
        self.notifier.close(&CancellationToken::new());
        ["delivered", "failed", "duplicate", "dropped"].map(|outcome| self.count(outcome))
    }
}

pub(super) fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
