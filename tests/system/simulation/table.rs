//! The table of theft outcomes by location and software in docs/simulation.md.

use std::fmt;

use super::attacker::{AttackerLocation, AttackerSoftware, TheftOutcome};
use super::theft::Outcome;

/// A table with a row per location and software and a column per policy.
pub struct Table {
    policies: Vec<&'static str>,
    rows: Vec<(AttackerLocation, AttackerSoftware, Vec<String>)>,
}

impl Table {
    pub fn new(policies: &[&'static str]) -> Table {
        Table { policies: policies.to_vec(), rows: Vec::new() }
    }

    pub fn row(
        &mut self,
        location: AttackerLocation,
        software: AttackerSoftware,
        cells: Vec<String>,
    ) {
        self.rows.push((location, software, cells));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = self.policies.iter().map(|policy| policy_label(policy));
        writeln!(f, "| network | program | {} |", heads.collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "| --- | --- |{}", " --- |".repeat(self.policies.len()))?;
        for (location, software, cells) in &self.rows {
            writeln!(
                f,
                "| {} | {} | {} |",
                location_label(*location),
                software_label(*software),
                cells.join(" | ")
            )?;
        }
        Ok(())
    }
}

/// Formats the outcomes of one kind of attacker under one policy. Detected attackers are shown with the median and the
/// maximum time of use.
pub fn cell(outcome: &Outcome) -> String {
    let of = |theft_outcome: TheftOutcome| {
        outcome.outcomes.get(theft_outcome.as_str()).copied().unwrap_or_default()
    };
    if of(TheftOutcome::AtFirstRequest) == outcome.tried {
        return "refused".to_owned();
    }
    let mut lines = Vec::new();
    if of(TheftOutcome::AtFirstRequest) > 0 {
        lines.push(format!("refused {}", of(TheftOutcome::AtFirstRequest)));
    }
    if let [.., maximum] = outcome.detected_after[..] {
        let median = outcome.detected_after[outcome.detected_after.len() / 2];
        lines.push(format!(
            "detected {} ({}, {})",
            of(TheftOutcome::Detected),
            span(median),
            span(maximum)
        ));
    }
    for (theft_outcome, label) in
        [(TheftOutcome::SessionEnded, "ended"), (TheftOutcome::NeverStopped, "never stopped")]
    {
        if of(theft_outcome) > 0 {
            lines.push(format!("{label} {}", of(theft_outcome)));
        }
    }
    lines.join(", ")
}

fn span(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..1_200 => format!("{seconds} s"),
        seconds @ 1_200..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

fn policy_label(policy: &'static str) -> &'static str {
    match policy {
        "off" => "signals off",
        "enforce" => "enforced, defaults (login_at = 60)",
        other => other,
    }
}

fn location_label(location: AttackerLocation) -> &'static str {
    match location {
        AttackerLocation::Abroad => "abroad",
        AttackerLocation::CloudAbroad => "a cloud abroad",
        AttackerLocation::Country => "same country",
        AttackerLocation::Neighbour => "user's network",
        AttackerLocation::Inside => "user's address",
    }
}

fn software_label(software: AttackerSoftware) -> &'static str {
    match software {
        AttackerSoftware::Program => "a program",
        AttackerSoftware::OtherBrowser => "another browser",
        AttackerSoftware::Disguised => "a program, copied user agent",
        AttackerSoftware::OtherVersion => "same browser, older version",
        AttackerSoftware::Newer => "a program that claims a newer version",
        AttackerSoftware::Same => "the same",
    }
}
