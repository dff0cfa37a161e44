//! `doorward audit`: whether an audit log is whole, and where it stands.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::secret::KeyRing;
use crate::telemetry::audit::{Head, Report, head_of, read_heads, verify};

#[derive(Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Find an edited, removed or cut-off line
    Verify(VerifyArgs),
    /// Print the place that a log has reached, to keep it elsewhere
    Head {
        /// The audit log
        file: PathBuf,
    },
}

#[derive(Args)]
struct VerifyArgs {
    /// The audit log
    file: PathBuf,
    /// The installation's keys file
    #[arg(long, value_name = "FILE", default_value = "state/keys.toml")]
    keys: PathBuf,
    /// Heads that were kept: what `doorward audit head` printed, or the ordinary log as JSON
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// Write JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        AuditCommand::Verify(args) => check(&args),
        AuditCommand::Head { file } => head(&file),
    }
}

fn head(file: &Path) -> anyhow::Result<ExitCode> {
    let Some(Head { chain, seq, mac }) = head_of(file)? else {
        bail!("{} is empty", file.display());
    };
    writeln!(io::stdout(), "{chain} {seq} {mac}")?;
    Ok(ExitCode::SUCCESS)
}

/// Exit code 0 when nothing was found, 1 when something was.
fn check(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let keys = keys(&args.keys)?;
    let heads = match &args.heads {
        Some(path) => read_heads(open(path)?).with_context(|| path.display().to_string())?,
        None => Vec::new(),
    };
    let log = BufReader::new(open(&args.file)?);
    let report = verify(log, keys.audit(), &heads)
        .with_context(|| format!("{} cannot be read", args.file.display()))?;
    let text = match args.json {
        true => format!("{:#}\n", as_json(&report)),
        false => drawn(&args.file, &report),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn keys(path: &Path) -> anyhow::Result<KeyRing> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).with_context(|| {
        format!("{} cannot be read; name the keys file with --keys", path.display())
    })?;
    KeyRing::parse(&text).with_context(|| path.display().to_string())
}

fn drawn(path: &Path, report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{}: {finding}\n", path.display()));
    }
    let last = report.last.as_ref().map_or(0, |head| head.seq);
    let verdict = if report.findings.is_empty() { "whole" } else { "NOT whole" };
    text.push_str(&format!("{}: {verdict}: lines {} to {last}", path.display(), report.first));
    if report.torn > 0 {
        text.push_str(&format!(", {} of them broken by a power cut", report.torn));
    }
    text.push('\n');
    if report.first > 1 {
        text.push_str("  its beginning lies in an older file; verify that too\n");
    }
    text
}

fn as_json(report: &Report) -> serde_json::Value {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    let last = report
        .last
        .as_ref()
        .map(|head| json!({ "chain": head.chain, "seq": head.seq, "mac": head.mac }));
    json!({
        "whole": findings.is_empty(),
        "first": report.first,
        "last": last,
        "torn": report.torn,
        "findings": findings,
    })
}
