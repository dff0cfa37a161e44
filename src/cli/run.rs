//! `doorward run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
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
    let whole = until_stopped(running)?;
    info!(event = "stopped");
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for SIGTERM or SIGINT, or for a thread that should not have ended; then drains, and no longer
/// once a second signal comes. Whether every thread ran to the end.
pub(super) fn until_stopped(running: Running) -> std::io::Result<bool> {
    let mut signals = Signals::new()?;
    signals.first(&running);
    let (whole, hurry) = (running.is_whole(), running.hurry());
    let (done, stopped) = oneshot::channel();
    // On a thread of its own, so that this one still hears signals.
    let stopping = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        running.stop();
        // Nobody listens only where this process ends anyway.
        done.send(()).unwrap_or_default();
    })?;
    if signals.second(stopped) {
        warn!(event = "stopping-now", "a second signal: what is under way is cut");
        hurry.cancel();
    }
    Ok(stopping.join().is_ok() && whole)
}

/// The signals that stop the process.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(context);
        Ok(Signals { runtime, terminate, interrupt })
    }

    fn first(&mut self, running: &Running) {
        let Signals { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            let mut look = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = look.tick() => if !running.is_whole() { break },
                }
            }
            info!(
                event = "stopping",
                "no new connections; what is under way may end, a second signal cuts it"
            );
        });
    }

    /// Whether another signal came before the drain was over.
    fn second(&mut self, stopped: oneshot::Receiver<()>) -> bool {
        let Signals { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => false,
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
            }
        })
    }
}
