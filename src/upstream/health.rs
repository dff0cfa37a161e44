//! Health of one endpoint. Pure: every function takes the time.
//!
//! | observation | effect |
//! | --- | --- |
//! | failed connection | the endpoint is out for 1 s, then 2 s, 10 s, 20 s, 40 s and 60 s |
//! | third response in a row that timed out | out for 10 s, then up to 60 s |
//! | end of that time | one request, the trial, is sent to the endpoint |
//! | connection, or response after a timeout | the endpoint returns, with a slow start |
//! | failed health checks | out until checks succeed again |

use std::time::Duration;

use tokio::time::Instant;

/// Number of failures in a row after which an endpoint is ejected.
pub(super) const EJECT_AFTER: u32 = 3;
const SHORTEST_EJECTION: Duration = Duration::from_secs(10);
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// Time in which the share of a returned endpoint grows from a tenth to its full share.
const SLOW_START: Duration = Duration::from_secs(10);

/// Why an endpoint gets no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownCause {
    /// Connections fail.
    Connect,
    /// Responses time out.
    Timeout,
    /// Health checks fail.
    Check,
}

impl DownCause {
    /// Returns the name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DownCause::Connect => "connect",
            DownCause::Timeout => "timeout",
            DownCause::Check => "check",
        }
    }
}

/// Whether an endpoint gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Up,
    /// Gets a share of its requests, in thousandths.
    Starting(u32),
    Down(DownCause),
    /// Down, and the next request is its trial.
    TrialDue(DownCause),
}

impl Standing {
    pub(super) fn is_up(self) -> bool {
        match self {
            Standing::Up | Standing::Starting(_) => true,
            Standing::Down(_) | Standing::TrialDue(_) => false,
        }
    }

    /// Whether connections to the endpoint fail. It cannot take load then.
    pub(super) fn is_unreachable(self) -> bool {
        match self {
            Standing::Down(cause) | Standing::TrialDue(cause) => cause == DownCause::Connect,
            Standing::Up | Standing::Starting(_) => false,
        }
    }
}

/// Observations of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failures in a row.
    connect_failures: u32,
    timeouts: u32,
    ejection: Option<Ejection>,
    /// Return of the endpoint.
    started: Option<Instant>,
    check: CheckState,
}

#[derive(Debug)]
struct Ejection {
    cause: DownCause,
    until: Instant,
    /// Whether the trial is in progress.
    is_trial: bool,
}

/// Results of health checks.
#[derive(Debug, Default)]
struct CheckState {
    is_down: bool,
    /// Results in a row that contradict `is_down`.
    contradictions: u32,
}

impl Health {
    /// Returns whether the endpoint gets requests.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        if self.check.is_down {
            return Standing::Down(DownCause::Check);
        }
        match &self.ejection {
            Some(ejection) if ejection.until <= now => Standing::TrialDue(ejection.cause),
            Some(ejection) => Standing::Down(ejection.cause),
            None => self.share(now).map_or(Standing::Up, Standing::Starting),
        }
    }

    /// Returns whether the endpoint was up when observed last, and nothing restricts or counts against it.
    pub(super) fn is_plain(&self, now: Instant) -> bool {
        self.connect_failures == 0 && self.timeouts == 0 && self.standing(now) == Standing::Up
    }

    /// Number of ejections without a success between them.
    pub(super) fn is_ejected(&self) -> Option<DownCause> {
        let failures = self.connect_failures.max(self.timeouts);
        let ejection = self.ejection.as_ref().filter(|_| failures >= EJECT_AFTER);
        let check = self.check.is_down.then_some(DownCause::Check);
        check.or(ejection.map(|ejection| ejection.cause))
    }

    fn share(&self, now: Instant) -> Option<u32> {
        let age = now.saturating_duration_since(self.started?);
        let thousandths = age.as_millis().saturating_mul(1000) / SLOW_START.as_millis();
        let share = u32::try_from(thousandths).unwrap_or(u32::MAX);
        (share < 1000).then_some(share.max(100))
    }

    /// Begins the trial. Until it ends, or for one more period if it does not, the endpoint gets no other
    /// request.
    pub(super) fn begin_trial(&mut self, now: Instant) {
        let period = period(self.connect_failures.max(self.timeouts));
        if let Some(ejection) = &mut self.ejection {
            *ejection = Ejection { until: now + period, is_trial: true, cause: ejection.cause };
        }
    }

    pub(super) fn connected(&mut self, now: Instant) {
        let was_ejected = self.connect_failures >= EJECT_AFTER;
        self.connect_failures = 0;
        if self.ejection.as_ref().is_some_and(|ejection| ejection.cause == DownCause::Connect) {
            self.ejection = None;
            self.started = was_ejected.then_some(now).or(self.started);
        }
    }

    pub(super) fn connect_failed(&mut self, now: Instant) {
        if self.counts_failure() {
            self.connect_failures = self.connect_failures.saturating_add(1);
            self.eject(DownCause::Connect, self.connect_failures, now);
        }
    }

    pub(super) fn responded(&mut self, now: Instant) {
        self.timeouts = 0;
        self.connected(now);
        if self.ejection.take().is_some() {
            self.started = Some(now);
        }
    }

    pub(super) fn timed_out(&mut self, now: Instant) {
        if self.counts_failure() {
            self.timeouts = self.timeouts.saturating_add(1);
            if self.timeouts >= EJECT_AFTER {
                self.eject(DownCause::Timeout, self.timeouts, now);
            }
        }
    }

    /// Whether a failure says something new: many requests that fail at once are one ejection.
    fn counts_failure(&self) -> bool {
        let failures = self.connect_failures.max(self.timeouts);
        failures < EJECT_AFTER || self.ejection.as_ref().is_none_or(|ejection| ejection.is_trial)
    }

    fn eject(&mut self, cause: DownCause, failures: u32, now: Instant) {
        self.started = None;
        self.ejection = Some(Ejection { cause, until: now + period(failures), is_trial: false });
    }

    /// Records a health check. The endpoint goes down after `fall` failures in a row and returns after `rise`
    /// successes in a row.
    pub(super) fn checked(&mut self, succeeded: bool, fall: u32, rise: u32, now: Instant) {
        let check = &mut self.check;
        if succeeded != check.is_down {
            check.contradictions = 0;
            return;
        }
        check.contradictions = check.contradictions.saturating_add(1);
        if check.contradictions >= if check.is_down { rise } else { fall } {
            *check = CheckState { is_down: !check.is_down, contradictions: 0 };
            self.started = (!check.is_down).then_some(now);
        }
    }
}

/// Returns how long an endpoint is out after this many failures in a row.
fn period(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::from_secs(1),
        2 => Duration::from_secs(2),
        more => {
            let doublings = more.saturating_sub(EJECT_AFTER).min(8);
            (SHORTEST_EJECTION * 2_u32.pow(doublings)).min(LONGEST_EJECTION)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT_DOWN: Standing = Standing::Down(DownCause::Connect);

    /// The times in seconds at which an endpoint whose connections always fail gets a request.
    fn attempts(seconds: u64) -> Vec<u64> {
        let (mut health, start) = (Health::default(), Instant::now());
        let mut attempts = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            match health.standing(now) {
                Standing::Up | Standing::Starting(_) => {}
                Standing::TrialDue(_) => health.begin_trial(now),
                Standing::Down(_) => continue,
            }
            attempts.push(second);
            health.connect_failed(now);
        }
        attempts
    }

    #[test]
    fn a_dead_endpoint_gets_a_trial_after_doubled_times() {
        assert_eq!(attempts(240), [0, 1, 3, 13, 33, 73, 133, 193]);
    }

    #[test]
    fn failures_at_once_are_one_ejection() {
        let (mut health, start) = (Health::default(), Instant::now());
        (0..50).for_each(|_| health.connect_failed(start));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(health.standing(after(9)), CONNECT_DOWN);
        assert_eq!(health.standing(after(10)), Standing::TrialDue(DownCause::Connect));
    }

    #[test]
    fn a_trial_is_one_request_and_its_success_starts_slowly() {
        let (mut health, start) = (Health::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        (0..3).for_each(|_| health.connect_failed(start));
        health.begin_trial(after(10_000));
        assert_eq!(health.standing(after(10_001)), CONNECT_DOWN);
        assert_eq!(health.standing(after(20_000)), Standing::TrialDue(DownCause::Connect));
        health.connected(after(10_500));
        assert_eq!(health.standing(after(10_500)), Standing::Starting(100));
        assert_eq!(health.standing(after(15_500)), Standing::Starting(500));
        assert_eq!(health.standing(after(20_500)), Standing::Up);
        assert!(health.is_plain(after(20_500)) && !health.is_plain(after(20_000)));
    }

    #[test]
    fn a_single_failed_connection_has_no_slow_start() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.connect_failed(start);
        assert_eq!(health.is_ejected(), None);
        assert_eq!(health.standing(start), CONNECT_DOWN);
        health.connected(start);
        assert!(health.is_plain(start));
    }

    #[test]
    fn only_a_response_ends_an_ejection_for_timeouts() {
        let (mut health, start) = (Health::default(), Instant::now());
        (0..2).for_each(|_| health.timed_out(start));
        health.responded(start);
        (0..2).for_each(|_| health.timed_out(start));
        assert_eq!(health.standing(start), Standing::Up);
        health.timed_out(start);
        health.connected(start);
        assert_eq!(health.standing(start), Standing::Down(DownCause::Timeout));
        health.responded(start);
        assert_eq!(health.standing(start), Standing::Starting(100));
    }

    #[test]
    fn checks_in_a_row_change_the_state() {
        let (mut health, start) = (Health::default(), Instant::now());
        let mut down_after = |results: &str| {
            let check = |result| health.checked(result == '+', 3, 2, start);
            results.chars().for_each(check);
            health.standing(start) == Standing::Down(DownCause::Check)
        };
        assert!(!down_after("--+--"));
        assert!(down_after("-"));
        assert!(down_after("+-+"));
        assert!(!down_after("+"));
        assert_eq!(health.standing(start), Standing::Starting(100));
    }
}
