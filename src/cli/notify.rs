//! `doorward notify test`: sends a test notification.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::app;
use crate::config::Config;
use crate::notify;

use super::terminal;

#[derive(Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    command: NotifySubcommand,
}

#[derive(Subcommand)]
enum NotifySubcommand {
    /// Send the test event notify.test once to every channel and print the results
    Test {
        /// Configuration file
        #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
        config: PathBuf,
    },
}

pub(super) fn run(args: &NotifyArgs) -> anyhow::Result<ExitCode> {
    let NotifySubcommand::Test { config } = &args.command;
    let config = match Config::load(config) {
        Ok((config, _)) => config,
        Err(error) => return Ok(super::check::print_config_error(&error)),
    };
    let Some(settings) = app::notify::settings(&config.notify)? else {
        bail!("[notify] has no receiver; write webhook = \"https://…\" or command = [\"/…\"]");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(notify::send_test(settings));
    runtime.shutdown_background();
    let mut code = ExitCode::SUCCESS;
    for (channel, result) in results {
        match result {
            Ok(response) => writeln!(terminal::out(), "{channel}: delivered ({response})")?,
            Err(error) => {
                writeln!(terminal::err(), "{channel}: not delivered: {error}")?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
