//! `doorward notify test`: whether who has to be told is told.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::app;
use crate::config::Config;
use crate::telemetry::hook;

#[derive(Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Subcommand)]
enum NotifyCommand {
    /// Tell of a made-up event (notify.test), once, and say what came back
    Test {
        /// The configuration
        #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
        config: PathBuf,
    },
}

pub(super) fn run(args: &NotifyArgs) -> anyhow::Result<ExitCode> {
    let NotifyCommand::Test { config } = &args.command;
    let config = match Config::load(config) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::check::refuse(&problems)),
    };
    let Some(settings) = app::notify::settings(&config.notify)? else {
        bail!("[notify] names nobody; write webhook = \"https://…\" or command = [\"/…\"]");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(hook::try_out(settings));
    runtime.shutdown_background();
    let mut code = ExitCode::SUCCESS;
    for (way, answer) in told {
        match answer {
            Ok(answer) => println!("{way}: told ({answer})"),
            Err(error) => {
                eprintln!("{way}: not told: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
