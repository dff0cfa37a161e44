//! The table of faults and invariants, the story of a failure, and the long form.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::backend::Store;
use crate::checker::{self, Findings, Invariant, Violation};
use crate::faults::{
    ALONE, ASLEEP, CLUSTER, Fault, GATEWAY, LOSS, NETWORK, REAL, SENTINELS, SERVER,
};
use crate::history::{Actor, At, Event, Window};
use crate::world::{self, Pace, Plan};

/// How often an invariant was judged around a fault, and how often it did not hold.
#[derive(Clone, Copy, Default)]
struct Cell {
    judged: u64,
    broken: u64,
}

/// What was found, by fault.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, BTreeMap<Invariant, Cell>>,
    /// Milliseconds between an acknowledged revocation and the last pass that was sent after it.
    outlived: Vec<u64>,
    /// Milliseconds that each answer took.
    took: Vec<u64>,
    histories: u64,
}

/// What was found wrong in one history, with the fault that it belongs to.
pub type Played = Vec<(&'static str, Violation)>;

impl Table {
    /// Plays a history, judges it and adds it.
    pub async fn play(&mut self, plan: &Plan) -> Played {
        let (history, terms) = world::play(plan, &|fault| tell_progress(plan, fault)).await;
        let findings = checker::check(&history, &terms);
        self.histories += 1;
        self.measure(&history);
        self.add(plan.pace, &history, &findings)
    }

    fn add(&mut self, pace: Pace, history: &[Event], findings: &Findings) -> Played {
        let windows: Vec<_> = history.iter().filter_map(Event::window).collect();
        for (invariant, at) in &findings.judged {
            self.cell(pace, fault_at(&windows, *at), *invariant).judged += 1;
        }
        let mut played = Played::new();
        for violation in &findings.violations {
            let fault = fault_at(&windows, violation.at);
            self.cell(pace, fault, violation.invariant).broken += 1;
            played.push((fault, violation.clone()));
        }
        played
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
        self.took.extend(
            requests
                .iter()
                .filter(|asked| asked.answer().is_some())
                .map(|asked| asked.done - asked.sent),
        );
        let probes = requests.iter().filter(|asked| asked.by == Actor::Prober);
        let mut last: BTreeMap<_, (At, At)> = BTreeMap::new();
        for probe in probes {
            let Some(token) = probe.token else { continue };
            let (first, passed) = last.entry(token.session).or_insert((probe.sent, probe.sent));
            *first = probe.sent.min(*first);
            if probe.passed() {
                *passed = probe.sent.max(*passed);
            }
        }
        self.outlived.extend(last.values().map(|(first, passed)| passed - first));
    }

    fn total(&self, invariant: Invariant) -> u64 {
        self.rows.values().filter_map(|row| row.get(&invariant)).map(|cell| cell.judged).sum()
    }

    /// A suite that judged nothing has shown nothing.
    pub fn assert_not_idle(&self, rarely: &[Invariant]) {
        for invariant in Invariant::ALL {
            let judged = self.total(invariant) > 0 || rarely.contains(&invariant);
            assert!(judged, "{} was never put to the test", invariant.word());
        }
        assert!(self.total(Invariant::Honest) > 100, "hardly anybody came through");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:36}", "facts judged (broken!)")?;
        for invariant in Invariant::ALL {
            write!(f, "{:>10}", invariant.word())?;
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
        let outlived = Spread::of(&self.outlived);
        let took = Spread::of(&self.took);
        write!(
            f,
            "\n{} histories; {} answers in {took} ms; {} ended sessions' cookies passed for {outlived} ms more",
            self.histories,
            self.took.len(),
            self.outlived.len()
        )
    }
}

/// Median, ninety-ninth percentile and worst.
struct Spread([u64; 3]);

impl Spread {
    fn of(all: &[u64]) -> Spread {
        let mut sorted = all.to_vec();
        sorted.sort_unstable();
        let at = |part: usize| {
            sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1)))
        };
        Spread([50, 99, 100].map(|part| at(part).copied().unwrap_or(0)))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, late, worst] = self.0;
        write!(f, "{median} (99 %: {late}, worst: {worst})")
    }
}

/// The fault that was at work, or the last one before.
fn fault_at(windows: &[&Window], at: At) -> &'static str {
    let begun = windows.iter().filter(|window| window.began <= at);
    begun.max_by_key(|window| window.began).map_or("(before the first)", |window| window.fault)
}

/// What went wrong, and how to see it again.
pub fn story(plan: &Plan, played: &Played) -> String {
    let mut text = format!(
        "seed {}, {:?}, {:?}: {} violations\n",
        plan.seed,
        plan.store,
        plan.pace,
        played.len()
    );
    for (fault, violation) in played.iter().take(12) {
        text.push_str(&format!("  [{fault}] {violation}\n"));
    }
    let mut faults: Vec<_> = played.iter().map(|(fault, _)| *fault).collect();
    faults.dedup();
    text.push_str(&format!("again: tests/chaos/run --seed {}", plan.seed));
    if let [only] = faults.as_slice() {
        text.push_str(&format!(" --fault '{only}'"));
    }
    text
}

fn tell_progress(plan: &Plan, fault: Fault) {
    let mut out = std::io::stderr().lock();
    let end = if out.is_terminal() { '\r' } else { '\n' };
    // Whether anybody reads this is of no importance.
    let Plan { seed, store, pace, .. } = plan;
    let _ = write!(out, "seed {seed} {store:?} {pace:?}: {:40}{end}", fault.word());
    let _ = out.flush();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Seeds until their number or the time is up; all faults with each.
pub async fn many_seeds() {
    let first = number("CHAOS_SEED").unwrap_or(1);
    let seeds = number("CHAOS_SEEDS").unwrap_or(3);
    let minutes = number("CHAOS_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let lasts = Duration::from_millis(number("CHAOS_LASTS").unwrap_or(3_000));
    let only = std::env::var("CHAOS_FAULT").unwrap_or_default();
    let (begun, mut table, mut stories) = (Instant::now(), Table::default(), Vec::new());
    for seed in first..first + seeds {
        for (store, pace, faults) in groups() {
            let chosen = |fault: &Fault| only.is_empty() || fault.word() == only;
            let faults: Vec<_> = faults.into_iter().filter(chosen).collect();
            if faults.is_empty() || minutes.is_some_and(|most| begun.elapsed() >= most) {
                continue;
            }
            let plan = Plan { seed, store, pace, faults, lasts };
            let played = table.play(&plan).await;
            if !played.is_empty() {
                stories.push(story(&plan, &played));
            }
        }
    }
    println!("\n{table}\n");
    assert!(table.histories > 0, "no fault is called {only:?}");
    assert!(stories.is_empty(), "{}", stories.join("\n"));
}

fn groups() -> Vec<(Store, Pace, Vec<Fault>)> {
    vec![
        (Store::Redis, Pace::Fast, NETWORK.to_vec()),
        (Store::Redis, Pace::Fast, SERVER.to_vec()),
        (Store::Redis, Pace::Fast, GATEWAY.to_vec()),
        (Store::Redis, Pace::Fast, LOSS.to_vec()),
        (Store::Redis, Pace::Real, REAL.to_vec()),
        (Store::Redis, Pace::Real, ASLEEP.to_vec()),
        (Store::Sentinel, Pace::Fast, SENTINELS.to_vec()),
        (Store::Cluster, Pace::Fast, CLUSTER.to_vec()),
        (Store::Embedded, Pace::Fast, ALONE.to_vec()),
    ]
}
