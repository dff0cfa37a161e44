//! The table of docs/people.md that says how far a thief gets by where he is and what he uses.

use std::fmt;

use super::robbery::Outcome;
use super::thief::{Fate, Place, Tool};

/// A row for each place and tool, a column for each policy.
pub struct Table {
    policies: Vec<&'static str>,
    rows: Vec<(Place, Tool, Vec<String>)>,
}

impl Table {
    pub fn of(policies: &[&'static str]) -> Table {
        Table { policies: policies.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, place: Place, tool: Tool, cells: Vec<String>) {
        self.rows.push((place, tool, cells));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = self.policies.iter().map(|policy| policy_in_words(policy));
        writeln!(f, "| network | software | {} |", heads.collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "| --- | --- |{}", " --- |".repeat(self.policies.len()))?;
        for (place, tool, cells) in &self.rows {
            writeln!(f, "| {} | {} | {} |", network(*place), software(*tool), cells.join(" | "))?;
        }
        Ok(())
    }
}

/// What came of one kind of thief under one policy: how many of each fate, and how long those lasted who
/// were found: half of them at most the first time, none longer than the second.
pub fn cell(outcome: &Outcome) -> String {
    let of = |fate: Fate| outcome.fates.get(fate.word()).copied().unwrap_or_default();
    if of(Fate::AtTheDoor) == outcome.tried {
        return "at the door".to_owned();
    }
    let mut said = Vec::new();
    if of(Fate::AtTheDoor) > 0 {
        said.push(format!("at the door {}", of(Fate::AtTheDoor)));
    }
    if let [.., worst] = outcome.found_after[..] {
        let middle = outcome.found_after[outcome.found_after.len() / 2];
        said.push(format!("found {} ({}, {})", of(Fate::Found), span(middle), span(worst)));
    }
    for (fate, word) in [(Fate::Over, "over"), (Fate::Never, "never")] {
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

fn policy_in_words(policy: &'static str) -> &'static str {
    match policy {
        "off" => "signals off",
        "enforce" => "enforced, defaults (login at 60)",
        other => other,
    }
}

fn network(place: Place) -> &'static str {
    match place {
        Place::Abroad => "abroad",
        Place::CloudAbroad => "a cloud abroad",
        Place::Country => "same country",
        Place::Neighbour => "victim's network",
        Place::Inside => "victim's address",
    }
}

fn software(tool: Tool) -> &'static str {
    match tool {
        Tool::Program => "a program",
        Tool::OtherBrowser => "another browser",
        Tool::Disguised => "a program, copied User-Agent",
        Tool::OtherVersion => "same browser, older version",
        Tool::Newer => "a program that claims a newer version",
        Tool::Same => "the same",
    }
}
