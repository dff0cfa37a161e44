//! `doorward replay`: what other settings of `[signals]` would have done, before anybody sets them.
//!
//! Reads audit logs and judges each line `session.moved` again, with the gateway's own weights and the
//! thresholds and `allow` of a configuration, as if every route enforced them.
//!
//! Invariants:
//! - nothing is verified and nothing is written; a file that somebody changed is believed
//! - what cannot be read is counted and named, and never ends the command
//! - what is kept grows with users, days and open sessions, and not with lines

mod drawn;
mod line;
mod tally;

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::config::Config;

use super::check;
use line::{Lines, Read};
use tally::Tally;

#[derive(Args)]
pub struct ReplayArgs {
    /// Audit logs, with their rotated files, in any order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The configuration whose [signals] is tried
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    /// Write JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Exit code 0 whatever would have happened; 1 when a file cannot be read.
pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(check::refuse(&problems)),
    };
    let mut tally = Tally::new(&config.signals.settings, config.session.policy.absolute());
    for path in in_order(&args.files)? {
        replay(&path, &mut tally).with_context(|| unread(&path))?;
    }
    let summary = tally.conclude();
    let text = match args.json {
        true => format!("{:#}\n", serde_json::to_value(&summary)?),
        false => drawn::drawn(&summary),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn replay(path: &Path, tally: &mut Tally<'_>) -> io::Result<()> {
    let mut lines = Lines::new(BufReader::new(File::open(path)?));
    while let Some((number, read)) = lines.next()? {
        match read {
            Read::Line(line) => tally.add(*line),
            Read::Bad => tally.bad(&path.display().to_string(), number),
        }
    }
    Ok(())
}

/// The oldest first, by the first time that stands in each.
fn in_order(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut begun = Vec::new();
    for path in files {
        begun.push((first_time(path).with_context(|| unread(path))?, path.clone()));
    }
    begun.sort();
    Ok(begun.into_iter().map(|(_, path)| path).collect())
}

fn first_time(path: &Path) -> io::Result<Option<jiff::Timestamp>> {
    let mut lines = Lines::new(BufReader::new(File::open(path)?));
    while let Some((_, read)) = lines.next()? {
        if let Read::Line(line) = read {
            return Ok(Some(line.at));
        }
    }
    Ok(None)
}

fn unread(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}
