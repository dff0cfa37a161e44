//! `doorward audit`: whether an audit log is whole, and where it stands.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::secret::KeyRing;
use crate::telemetry::audit::{
    Head, Known, Report, Start, Verifier, head_of, read_heads, start_of,
};

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
    /// The audit log; with its rotated files, in any order, the chain is followed from file to file
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The installation's keys file
    #[arg(long, value_name = "FILE", default_value = "state/keys.toml")]
    keys: PathBuf,
    /// Heads that were kept: what `doorward audit head` printed, or the ordinary log as JSON
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// The line that the oldest file may begin with, where older files were deleted on purpose
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    from: u64,
    /// A chain of which a head was kept and no file is given, on purpose
    #[arg(long, value_name = "CHAIN")]
    without: Vec<String>,
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
    let known = Known { heads, from: args.from, without: args.without.clone() };
    let mut verifier = Verifier::new(keys.audit(), &known);
    let mut verified = Vec::new();
    for path in in_order(&args.files)? {
        let report = verifier.file(BufReader::new(open(&path)?)).with_context(|| unread(&path))?;
        verified.push(Verified { path, report });
    }
    if let Some(last) = verified.last_mut() {
        last.report.findings.extend(verifier.conclude());
    }
    let text = match args.json {
        true => format!("{:#}\n", as_json(&verified)),
        false => drawn(&verified),
    };
    io::stdout().write_all(text.as_bytes())?;
    let whole = verified.iter().all(|file| file.report.findings.is_empty());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One file and what it told.
struct Verified {
    path: PathBuf,
    report: Report,
}

/// The oldest first: chains by the time of their first line here, files of a chain by its numbers.
fn in_order(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut begun: BTreeMap<String, String> = BTreeMap::new();
    let mut starts = Vec::new();
    for path in files {
        let start = start_of(BufReader::new(open(path)?)).with_context(|| unread(path))?;
        // A file without a readable line says so when it is read.
        let Start { timestamp, chain, seq } = start.unwrap_or_default();
        let first = begun.entry(chain.clone()).or_insert_with(|| timestamp.clone());
        *first = timestamp.min(first.clone());
        starts.push((chain, seq, path.clone()));
    }
    starts.sort_by_key(|(chain, seq, _)| (begun.get(chain).cloned(), chain.clone(), *seq));
    Ok(starts.into_iter().map(|(_, _, path)| path).collect())
}

fn unread(path: &Path) -> String {
    format!("{} cannot be read", path.display())
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

fn drawn(files: &[Verified]) -> String {
    let mut text: String = files.iter().map(drawn_one).collect();
    if files.iter().any(|file| file.report.anew) {
        text.push_str("  another log begins where a file was moved away while no gateway ran; that nothing lay between them is shown by --heads only\n");
    }
    text
}

fn drawn_one(Verified { path, report }: &Verified) -> String {
    let path = path.display();
    let mut text: String =
        report.findings.iter().map(|finding| format!("{path}: {finding}\n")).collect();
    let last = report.last.as_ref().map_or(0, |head| head.seq);
    let verdict = if report.findings.is_empty() { "whole" } else { "NOT whole" };
    text.push_str(&format!("{path}: {verdict}: lines {} to {last}", report.first));
    if report.torn > 0 {
        text.push_str(&format!(", {} of them broken by a power cut", report.torn));
    }
    text + "\n"
}

fn as_json(files: &[Verified]) -> serde_json::Value {
    let each: Vec<serde_json::Value> = files.iter().map(one_as_json).collect();
    let whole = files.iter().all(|file| file.report.findings.is_empty());
    json!({ "whole": whole, "files": each })
}

fn one_as_json(Verified { path, report }: &Verified) -> serde_json::Value {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    let last = report
        .last
        .as_ref()
        .map(|head| json!({ "chain": head.chain, "seq": head.seq, "mac": head.mac }));
    json!({
        "file": path.display().to_string(),
        "whole": findings.is_empty(),
        "first": report.first,
        "last": last,
        "torn": report.torn,
        "begins_anew": report.anew,
        "findings": findings,
    })
}
