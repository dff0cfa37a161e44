//! `doorward signals simulate`: tries `[signals]` settings on recorded audit logs.
//!
//! Scores every `session.location-changed` line again with the thresholds and `allow` of a configuration, as if
//! every route enforced them.
//!
//! Invariants:
//! - it verifies no MAC and writes no file
//! - an invalid line is counted and reported, and does not end the command
//! - memory grows with users, days and open sessions, not with lines

mod audit_reader;
mod render;
mod summary;

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::config::Config;

use super::{check, terminal};
use audit_reader::{AuditReader, ParsedLine};
use summary::Summary;

#[derive(Args)]
pub struct SignalsArgs {
    #[command(subcommand)]
    command: SignalsCommand,
}

#[derive(Subcommand)]
enum SignalsCommand {
    /// Try other [signals] settings on recorded audit logs
    Simulate(SimulateArgs),
}

#[derive(Args)]
pub struct SimulateArgs {
    /// Audit logs, rotated files included, in any order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Configuration with the [signals] settings to try
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SignalsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        SignalsCommand::Simulate(args) => simulate(args),
    }
}

/// Runs `doorward replay`, the former name of the command.
pub(super) fn replay(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    eprintln!("`doorward replay` is now `doorward signals simulate`");
    simulate(args)
}

/// Returns exit code 0 whatever the result, and 1 if a file cannot be read.
fn simulate(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok((config, _)) => config,
        Err(error) => return Ok(check::print_config_error(&error)),
    };
    let mut summary = Summary::new(&config.signals.settings, config.session.policy.absolute());
    for path in oldest_first(&args.files)? {
        read_file(&path, &mut summary).with_context(|| read_error(&path))?;
    }
    let report = summary.finish();
    let text = match args.json {
        true => format!("{:#}\n", serde_json::to_value(&report)?),
        false => render::render(&report),
    };
    terminal::out().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read_file(path: &Path, summary: &mut Summary<'_>) -> io::Result<()> {
    let mut lines = AuditReader::new(BufReader::new(File::open(path)?));
    while let Some((number, parsed)) = lines.next()? {
        match parsed {
            ParsedLine::Line(line) => summary.add(*line),
            ParsedLine::Invalid => summary.record_invalid(&path.display().to_string(), number),
        }
    }
    Ok(())
}

/// Sorts the files by their first timestamp.
fn oldest_first(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut dated = Vec::new();
    for path in files {
        dated.push((first_timestamp(path).with_context(|| read_error(path))?, path.clone()));
    }
    dated.sort();
    Ok(dated.into_iter().map(|(_, path)| path).collect())
}

fn first_timestamp(path: &Path) -> io::Result<Option<jiff::Timestamp>> {
    let mut lines = AuditReader::new(BufReader::new(File::open(path)?));
    while let Some((_, parsed)) = lines.next()? {
        if let ParsedLine::Line(line) = parsed {
            return Ok(Some(line.timestamp));
        }
    }
    Ok(None)
}

fn read_error(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}
