//! `doorward check` and `doorward print-config`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::config::{Config, Problem, Problems, Style, Warning};

/// Every key at its default, with what it means.
const EVERY_KEY: &str = include_str!("../../config/doorward.toml");

#[derive(Args)]
pub struct CheckArgs {
    /// The configuration
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    /// Write JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let result = Config::check(&args.config);
    let text = match &result {
        Ok((_, warnings)) if args.json => as_json(&[], warnings),
        Err(problems) if args.json => as_json(&problems.list, &[]),
        Ok((config, warnings)) => good_news(&args.config, config, warnings),
        Err(problems) => problems.render(style(&io::stdout())),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn print_config() -> anyhow::Result<ExitCode> {
    io::stdout().write_all(EVERY_KEY.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes why a configuration does not load, for a command that needs one.
pub(super) fn refuse(problems: &Problems) -> ExitCode {
    eprint!("{}", problems.render(style(&io::stderr())));
    ExitCode::FAILURE
}

fn good_news(path: &Path, config: &Config, warnings: &[Warning]) -> String {
    let style = style(&io::stdout());
    // Only for drawing: a file that went away meanwhile is shown without its lines.
    let source = std::fs::read_to_string(path).unwrap_or_default();
    let mut text: String = warnings.iter().map(|warning| warning.render(style, &source)).collect();
    let routes = counted(config.routes.iter().len(), "route");
    let warnings = counted(warnings.len(), "warning");
    text.push_str(&format!("{}: good: {routes}, {warnings}\n", path.display()));
    text
}

fn as_json(problems: &[Problem], warnings: &[Warning]) -> String {
    let problems: Vec<_> = problems.iter().map(Problem::json).collect();
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.0.json()).collect();
    format!("{:#}\n", json!({ "problems": problems, "warnings": warnings }))
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Drawn with colour for whoever watches, one line each for what reads.
fn style(stream: &impl IsTerminal) -> Style {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !is_plain { Style::Terminal } else { Style::Plain }
}
