//! `doorward check` and `doorward print-config`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::app::Preflight;
use crate::config::{Config, ConfigError, Diagnostic, RenderStyle, Warning};

use super::terminal;

/// The reference configuration: every key with its default.
const REFERENCE_CONFIG: &str = include_str!("../../config/doorward.toml");

#[derive(Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let result = check(&args.config);
    let text = match &result {
        Ok((_, warnings)) if args.json => as_json(&[], warnings),
        Err(error) if args.json => as_json(&error.diagnostics, &[]),
        Ok((config, warnings)) => summary(&args.config, config, warnings),
        Err(error) => error.render(style(&io::stdout())),
    };
    match style(&io::stdout()) {
        // Contains colours; the messages in it are escaped.
        RenderStyle::Terminal if !args.json => io::stdout().write_all(text.as_bytes())?,
        RenderStyle::Terminal | RenderStyle::Plain => terminal::out().write_all(text.as_bytes())?,
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the configuration, and loads what a start loads.
fn check(path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
    let (config, mut warnings) = Config::check(path)?;
    let found = Preflight::run(&config, Timestamp::now());
    let file = path.display().to_string();
    let diagnostic = |message| Diagnostic::for_file(&file, message);
    if !found.errors.is_empty() {
        return Err(ConfigError::of(found.errors.into_iter().map(diagnostic).collect()));
    }
    warnings.extend(found.warnings.into_iter().map(diagnostic).map(Warning));
    Ok((config, warnings))
}

pub(super) fn print_config() -> anyhow::Result<ExitCode> {
    io::stdout().write_all(REFERENCE_CONFIG.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints why a configuration does not load, for commands that need one.
pub(super) fn print_config_error(error: &ConfigError) -> ExitCode {
    eprint!("{}", error.render(style(&io::stderr())));
    ExitCode::FAILURE
}

fn summary(path: &Path, config: &Config, warnings: &[Warning]) -> String {
    let style = style(&io::stdout());
    // Only for rendering: if the file has vanished, warnings are shown without source lines.
    let source = std::fs::read_to_string(path).unwrap_or_default();
    let mut text: String = warnings.iter().map(|warning| warning.render(style, &source)).collect();
    let routes = counted(config.routes.iter().len(), "route");
    let warnings = counted(warnings.len(), "warning");
    let state_dir = &config.server.state_dir;
    if config.written_paths().any(|file| file.starts_with(state_dir)) {
        text.push_str(&format!("state directory: {}\n", state_dir.display()));
    }
    text.push_str(&format!("{}: valid: {routes}, {warnings}\n", path.display()));
    text
}

fn as_json(problems: &[Diagnostic], warnings: &[Warning]) -> String {
    let problems: Vec<_> = problems.iter().map(Diagnostic::json).collect();
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.0.json()).collect();
    format!("{:#}\n", json!({ "problems": problems, "warnings": warnings }))
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Returns the colour style on a terminal without `NO_COLOR`, else one line per diagnostic.
fn style(stream: &impl IsTerminal) -> RenderStyle {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !is_plain { RenderStyle::Terminal } else { RenderStyle::Plain }
}
