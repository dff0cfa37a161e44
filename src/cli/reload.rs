//! `doorward reload`: reloads the configuration of the running gateway.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use http::{Method, StatusCode};

use crate::admin::ReloadReport;

use super::config_file::SocketArgs;
use super::{sessions, terminal};

#[derive(Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Check the configuration and print what would change
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let path = if args.dry_run { "/reload?dry_run=1" } else { "/reload" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) =
        runtime.block_on(sessions::send(&args.socket.path()?, Method::POST, path))?;
    if status != StatusCode::OK && status != StatusCode::UNPROCESSABLE_ENTITY {
        bail!("{}", body.trim_end());
    }
    let report: ReloadReport = serde_json::from_str(&body)?;
    if args.json {
        writeln!(terminal::out(), "{body}")?;
    } else {
        write!(terminal::out(), "{}", success_text(&report, args.dry_run))?;
        write!(terminal::err(), "{}", problem_text(&report))?;
    }
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what changed; empty after a failure.
fn success_text(report: &ReloadReport, dry_run: bool) -> String {
    if !report.is_ok() {
        return String::new();
    }
    let done = if dry_run { "valid; a reload would change" } else { "reloaded; changed" };
    let mut text = match report.changes.len() {
        0 => format!("{done} no key\n"),
        1 => format!("{done} 1 key:\n"),
        number => format!("{done} {number} keys:\n"),
    };
    report.changes.iter().for_each(|change| text.push_str(&format!("  {change}\n")));
    if !report.restart_keys.is_empty() {
        let keys = report.restart_keys.join(", ");
        text.push_str(&format!("unchanged until a restart: {keys}\n"));
    }
    text
}

fn problem_text(report: &ReloadReport) -> String {
    let lines = report.problems.iter().chain(&report.warnings);
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    if !report.is_ok() {
        text.push_str("not reloaded; the configuration loaded before stays in use\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::changes;

    #[test]
    fn a_reload_names_changes_and_keys_that_need_a_restart() {
        let report = ReloadReport {
            changes: changes(
                "[session]\nidle_timeout = \"30m\"\n",
                "[session]\nidle_timeout = \"5m\"\n",
            ),
            restart_keys: vec!["server.workers".to_owned()],
            ..ReloadReport::default()
        };
        let expected = "reloaded; changed 1 key:\n  ~ session.idle_timeout: \"30m\" -> \"5m\"\nunchanged until a restart: server.workers\n";
        assert_eq!(success_text(&report, false), expected);
        assert_eq!(problem_text(&report), "");
        let failed = ReloadReport::failed(vec!["doorward.toml:3: no".to_owned()]);
        assert_eq!(success_text(&failed, false), "");
        assert!(problem_text(&failed).starts_with("doorward.toml:3: no\nnot reloaded"));
    }
}
