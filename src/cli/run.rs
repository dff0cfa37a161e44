//! `doorward run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::app::{self, Running};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry::log;

#[derive(Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (config, warnings) = match Config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(super::check::refuse(&problems)),
    };
    let log = log::start(&config.log);
    for warning in warnings {
        warn!(event = "config-warning", "{warning}");
    }
    let running = app::start(config, Clock::System, Some(log.request_lines()))?;
    wait(&running)?;
    let whole = running.is_whole();
    running.stop();
    info!(event = "stopped");
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for SIGTERM or SIGINT, or for a thread that should not have ended.
pub(super) fn wait(running: &Running) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = look.tick() => if !running.is_whole() { break },
            }
        }
        info!(event = "stopping", "no new connections; what is under way may end");
        Ok(())
    })
}
