//! The table of faults and invariants, the report of violations, and the long form.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::chaos::backend::Store;
use crate::chaos::checker::{self, Findings, Invariant, Violation};
use crate::chaos::faults::{
    ASLEEP, CLUSTER, DATA_LOSS, EMBEDDED, Fault, GATEWAY, NETWORK, REAL_TIME, SENTINELS, SERVER,
};
use crate::chaos::history::{Actor, Event, FaultWindow, Millis};
use crate::chaos::testbed::{self, Pace, Plan};

/// Number of checks of an invariant around a fault, and number of violations.
#[derive(Clone, Copy, Default)]
struct Cell {
    judged: u64,
    broken: u64,
}

/// Results by fault.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, BTreeMap<Invariant, Cell>>,
    /// Milliseconds from each acknowledged revocation to the last allowed request sent after it.
    used_after_end: Vec<u64>,
    /// Response times in milliseconds.
    response_times: Vec<u64>,
    histories: u64,
}

/// The violations in one history with the fault of each.
pub type Violations = Vec<(&'static str, Violation)>;

impl Table {
    /// Runs a history, checks it and adds the results.
    pub async fn run_history(&mut self, plan: &Plan) -> Violations {
        let (history, bounds) =
            testbed::run_history(plan, &|fault| print_progress(plan, fault)).await;
        let findings = checker::check(&history, &bounds);
        self.histories += 1;
        self.measure(&history);
        self.add(plan.pace, &history, &findings)
    }

    fn add(&mut self, pace: Pace, history: &[Event], findings: &Findings) -> Violations {
        let windows: Vec<_> = history.iter().filter_map(Event::window).collect();
        for (invariant, at) in &findings.judged {
            self.cell(pace, fault_at(&windows, *at), *invariant).judged += 1;
        }
        let mut found = Violations::new();
        for violation in &findings.violations {
            let fault = fault_at(&windows, violation.at);
            self.cell(pace, fault, violation.invariant).broken += 1;
            found.push((fault, violation.clone()));
        }
        found
    }

    fn cell(&mut self, pace: Pace, fault: &str, invariant: Invariant) -> &mut Cell {
        let row = match pace {
            Pace::Fast => fault.to_owned(),
            Pace::Real => format!("{fault}, real time"),
        };
        self.rows.entry(row).or_default().entry(invariant).or_default()
    }

    fn measure(&mut self, history: &[Event]) {
        let requests: Vec<_> = history.iter().filter_map(Event::request).collect();
        self.response_times.extend(
            requests
                .iter()
                .filter(|exchange| exchange.response().is_some())
                .map(|exchange| exchange.done - exchange.sent),
        );
        let probes = requests.iter().filter(|exchange| exchange.actor == Actor::Prober);
        let mut last: BTreeMap<_, (Millis, Millis)> = BTreeMap::new();
        for probe in probes {
            let Some(token) = probe.token else { continue };
            let (first, passed) = last.entry(token.session).or_insert((probe.sent, probe.sent));
            *first = probe.sent.min(*first);
            if probe.passed() {
                *passed = probe.sent.max(*passed);
            }
        }
        self.used_after_end.extend(last.values().map(|(first, passed)| passed - first));
    }

    fn total(&self, invariant: Invariant) -> u64 {
        self.rows.values().filter_map(|row| row.get(&invariant)).map(|cell| cell.judged).sum()
    }

    /// Asserts that every invariant was checked at least once.
    pub fn assert_all_judged(&self, rarely: &[Invariant]) {
        for invariant in Invariant::ALL {
            let judged = self.total(invariant) > 0 || rarely.contains(&invariant);
            assert!(judged, "{} was never put to the test", invariant.as_str());
        }
        assert!(self.total(Invariant::Honest) > 100, "too few requests passed");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:36}", "facts judged (broken!)")?;
        for invariant in Invariant::ALL {
            write!(f, "{:>10}", invariant.as_str())?;
        }
        for (fault, row) in &self.rows {
            write!(f, "\n{fault:36}")?;
            for invariant in Invariant::ALL {
                let cell = row.get(&invariant).copied().unwrap_or_default();
                match cell {
                    Cell { judged: 0, broken: 0 } => write!(f, "{:>10}", "-")?,
                    Cell { judged, broken: 0 } => write!(f, "{judged:>10}")?,
                    Cell { broken, .. } => write!(f, "{:>10}", format!("{broken}!"))?,
                }
            }
        }
        let used_after_end = Percentiles::new(&self.used_after_end);
        let response_times = Percentiles::new(&self.response_times);
        write!(
            f,
            "\n{} histories; {} responses in {response_times} ms; {} ended sessions' cookies passed for {used_after_end} ms more",
            self.histories,
            self.response_times.len(),
            self.used_after_end.len()
        )
    }
}

/// Median, 99th percentile and maximum.
struct Percentiles([u64; 3]);

impl Percentiles {
    fn new(all: &[u64]) -> Percentiles {
        let mut sorted = all.to_vec();
        sorted.sort_unstable();
        let at = |part: usize| {
            sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1)))
        };
        Percentiles([50, 99, 100].map(|part| at(part).copied().unwrap_or(0)))
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, late, worst] = self.0;
        write!(f, "{median} (99 %: {late}, worst: {worst})")
    }
}

/// Returns the name of the current fault, or of the last one before this time.
fn fault_at(windows: &[&FaultWindow], at: Millis) -> &'static str {
    let started = windows.iter().filter(|window| window.began <= at);
    started.max_by_key(|window| window.began).map_or("(before the first)", |window| window.fault)
}

/// Formats the violations with the command that reproduces them.
pub fn failure_report(plan: &Plan, found: &Violations) -> String {
    let mut text = format!(
        "seed {}, {:?}, {:?}: {} violations\n",
        plan.seed,
        plan.store,
        plan.pace,
        found.len()
    );
    for (fault, violation) in found.iter().take(12) {
        text.push_str(&format!("  [{fault}] {violation}\n"));
    }
    let mut faults: Vec<_> = found.iter().map(|(fault, _)| *fault).collect();
    faults.dedup();
    text.push_str(&format!("again: tests/system/chaos/run --seed {}", plan.seed));
    if let [only] = faults.as_slice() {
        text.push_str(&format!(" --fault '{only}'"));
    }
    text
}

fn print_progress(plan: &Plan, fault: Fault) {
    let mut out = std::io::stderr().lock();
    let end = if out.is_terminal() { '\r' } else { '\n' };
    // Progress output is best effort.
    let Plan { seed, store, pace, .. } = plan;
    let _ = write!(out, "seed {seed} {store:?} {pace:?}: {:40}{end}", fault.as_str());
    let _ = out.flush();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs all faults with each seed until the number of seeds or the time limit is reached.
pub async fn many_seeds() {
    let first = number("CHAOS_SEED").unwrap_or(1);
    let seeds = number("CHAOS_SEEDS").unwrap_or(3);
    let minutes = number("CHAOS_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let lasts = Duration::from_millis(number("CHAOS_LASTS").unwrap_or(3_000));
    let only = std::env::var("CHAOS_FAULT").unwrap_or_default();
    let (started, mut table, mut reports) = (Instant::now(), Table::default(), Vec::new());
    for seed in first..first + seeds {
        for (store, pace, faults) in groups() {
            let chosen = |fault: &Fault| only.is_empty() || fault.as_str() == only;
            let faults: Vec<_> = faults.into_iter().filter(chosen).collect();
            if faults.is_empty() || minutes.is_some_and(|most| started.elapsed() >= most) {
                continue;
            }
            let plan = Plan { seed, store, pace, faults, lasts };
            let found = table.run_history(&plan).await;
            if !found.is_empty() {
                reports.push(failure_report(&plan, &found));
            }
        }
    }
    println!("\n{table}\n");
    assert!(table.histories > 0, "no fault is called {only:?}");
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

fn groups() -> Vec<(Store, Pace, Vec<Fault>)> {
    vec![
        (Store::Redis, Pace::Fast, NETWORK.to_vec()),
        (Store::Redis, Pace::Fast, SERVER.to_vec()),
        (Store::Redis, Pace::Fast, GATEWAY.to_vec()),
        (Store::Redis, Pace::Fast, DATA_LOSS.to_vec()),
        (Store::Redis, Pace::Real, REAL_TIME.to_vec()),
        (Store::Redis, Pace::Real, ASLEEP.to_vec()),
        (Store::Sentinel, Pace::Fast, SENTINELS.to_vec()),
        (Store::Cluster, Pace::Fast, CLUSTER.to_vec()),
        (Store::Embedded, Pace::Fast, EMBEDDED.to_vec()),
    ]
}
