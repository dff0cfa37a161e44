//! `doorward audit`: shows and verifies an audit log, and prints its head.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::audit::{
    FileReport, FileStart, Head, Verifier, VerifyOptions, file_start, read_heads, read_last_head,
};
use crate::secret::KeyRing;

use super::keys::KeysFileArgs;
use super::{audit_show, terminal};

#[derive(Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Show the events of a user or a session: why a session ended, and by whom
    Show(audit_show::ShowArgs),
    /// Find edited, removed or truncated lines
    Verify(VerifyArgs),
    /// Print the head of the log, to store it on another machine
    Head {
        /// Audit log
        file: PathBuf,
    },
}

#[derive(Args)]
struct VerifyArgs {
    /// Audit log and its rotated files, in any order; by default that of the configuration
    files: Vec<PathBuf>,
    #[command(flatten)]
    keys: KeysFileArgs,
    /// Stored heads: the output of `doorward audit head`, or the ordinary log as JSON
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// First expected line number, if older files were deleted on purpose
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    from: u64,
    /// Chain with a stored head whose files are omitted on purpose; repeatable
    #[arg(long, value_name = "CHAIN")]
    without: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        AuditCommand::Show(args) => audit_show::run(&args),
        AuditCommand::Verify(args) => verify(&args),
        AuditCommand::Head { file } => head(&file),
    }
}

fn head(file: &Path) -> anyhow::Result<ExitCode> {
    let Some(Head { chain, seq, mac }) = read_last_head(file)? else {
        bail!("{} is empty", file.display());
    };
    writeln!(terminal::out(), "{chain} {seq} {mac}")?;
    Ok(ExitCode::SUCCESS)
}

/// Returns exit code 0 without findings, else 1.
fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let keys = keys(&args.keys.path()?)?;
    let files = audit_show::files_or_configured(&args.files, &args.keys.config)?;
    let heads = match &args.heads {
        Some(path) => read_heads(open(path)?).with_context(|| path.display().to_string())?,
        None => Vec::new(),
    };
    let options =
        VerifyOptions { heads, first_seq: args.from, absent_chains: args.without.clone() };
    let mut verifier = Verifier::new(keys.audit(), &options);
    let mut verified = Vec::new();
    for path in oldest_first(&files)? {
        let report =
            verifier.file(BufReader::new(open(&path)?)).with_context(|| read_error(&path))?;
        verified.push(VerifiedFile { path, report });
    }
    if let Some(last) = verified.last_mut() {
        last.report.findings.extend(verifier.finish());
    }
    let text = match args.json {
        true => format!("{:#}\n", as_json(&verified)),
        false => render(&verified),
    };
    terminal::out().write_all(text.as_bytes())?;
    let intact = verified.iter().all(|file| file.report.findings.is_empty());
    Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct VerifiedFile {
    path: PathBuf,
    report: FileReport,
}

/// Sorts chains by the time of their first line, and the files of a chain by line number.
fn oldest_first(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut chain_starts: BTreeMap<String, String> = BTreeMap::new();
    let mut starts = Vec::new();
    for path in files {
        let start = file_start(BufReader::new(open(path)?)).with_context(|| read_error(path))?;
        // A file without a readable line is reported when it is verified.
        let FileStart { timestamp, chain, seq } = start.unwrap_or_default();
        let first = chain_starts.entry(chain.clone()).or_insert_with(|| timestamp.clone());
        *first = timestamp.min(first.clone());
        starts.push((chain, seq, path.clone()));
    }
    starts.sort_by_key(|(chain, seq, _)| (chain_starts.get(chain).cloned(), chain.clone(), *seq));
    Ok(starts.into_iter().map(|(_, _, path)| path).collect())
}

fn read_error(path: &Path) -> String {
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

fn render(files: &[VerifiedFile]) -> String {
    let mut text: String = files.iter().map(render_file).collect();
    if files.iter().any(|file| file.report.new_chain) {
        text.push_str("  a new chain starts where a file was moved while no gateway ran; only --heads can show that no line is missing there\n");
    }
    text
}

fn render_file(VerifiedFile { path, report }: &VerifiedFile) -> String {
    let path = path.display();
    let mut text: String =
        report.findings.iter().map(|finding| format!("{path}: {finding}\n")).collect();
    let last = report.last.as_ref().map_or(0, |head| head.seq);
    let verdict = if report.findings.is_empty() { "intact" } else { "NOT intact" };
    text.push_str(&format!("{path}: {verdict}: lines {} to {last}", report.first));
    if report.torn > 0 {
        text.push_str(&format!(", {} torn by a power failure", report.torn));
    }
    text + "\n"
}

fn as_json(files: &[VerifiedFile]) -> serde_json::Value {
    let each: Vec<serde_json::Value> = files.iter().map(file_as_json).collect();
    let intact = files.iter().all(|file| file.report.findings.is_empty());
    json!({ "intact": intact, "files": each })
}

fn file_as_json(VerifiedFile { path, report }: &VerifiedFile) -> serde_json::Value {
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    let last = report
        .last
        .as_ref()
        .map(|head| json!({ "chain": head.chain, "seq": head.seq, "mac": head.mac }));
    json!({
        "file": path.display().to_string(),
        "intact": findings.is_empty(),
        "first": report.first,
        "last": last,
        "torn": report.torn,
        "new_chain": report.new_chain,
        "findings": findings,
    })
}
