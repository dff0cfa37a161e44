//! The table of theft outcomes by location and software in docs/people.md.

use std::fmt;

use super::theft::Outcome;
use super::thief::{TheftOutcome, ThiefLocation, ThiefSoftware};

/// A table with a row per location and software and a column per policy.
pub struct Table {
    policies: Vec<&'static str>,
    rows: Vec<(ThiefLocation, ThiefSoftware, Vec<String>)>,
}

impl Table {
    pub fn new(policies: &[&'static str]) -> Table {
        Table { policies: policies.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, location: ThiefLocation, software: ThiefSoftware, cells: Vec<String>) {
        self.rows.push((location, software, cells));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = self.policies.iter().map(|policy| policy_label(policy));
        writeln!(f, "| network | software | {} |", heads.collect::<Vec<_>>().join(" | "))?;
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

/// Formats the outcomes of one kind of thief under one policy. Detected thieves are shown with the median and the
/// maximum time of use.
pub fn cell(outcome: &Outcome) -> String {
    let of = |fate: TheftOutcome| outcome.fates.get(fate.as_str()).copied().unwrap_or_default();
    if of(TheftOutcome::AtFirstRequest) == outcome.tried {
        return "at the door".to_owned();
    }
    let mut said = Vec::new();
    if of(TheftOutcome::AtFirstRequest) > 0 {
        said.push(format!("at the door {}", of(TheftOutcome::AtFirstRequest)));
    }
    if let [.., worst] = outcome.detected_after[..] {
        let middle = outcome.detected_after[outcome.detected_after.len() / 2];
        said.push(format!(
            "found {} ({}, {})",
            of(TheftOutcome::Detected),
            span(middle),
            span(worst)
        ));
    }
    for (fate, word) in
        [(TheftOutcome::SessionEnded, "over"), (TheftOutcome::NeverStopped, "never")]
    {
        if of(fate) > 0 {
            said.push(format!("{word} {}", of(fate)));
        }
    }
    said.join(", ")
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
        "enforce" => "enforced, defaults (login at 60)",
        other => other,
    }
}

fn location_label(location: ThiefLocation) -> &'static str {
    match location {
        ThiefLocation::Abroad => "abroad",
        ThiefLocation::CloudAbroad => "a cloud abroad",
        ThiefLocation::Country => "same country",
        ThiefLocation::Neighbour => "victim's network",
        ThiefLocation::Inside => "victim's address",
    }
}

fn software_label(software: ThiefSoftware) -> &'static str {
    match software {
        ThiefSoftware::Program => "a program",
        ThiefSoftware::OtherBrowser => "another browser",
        ThiefSoftware::Disguised => "a program, copied User-Agent",
        ThiefSoftware::OtherVersion => "same browser, older version",
        ThiefSoftware::Newer => "a program that claims a newer version",
        ThiefSoftware::Same => "the same",
    }
}
