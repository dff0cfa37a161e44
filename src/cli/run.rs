//! `doorward run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::admin::ReloadMode;
use crate::app::{self, Preflight, Running, StartError};
use crate::clock::Clock;
use crate::config::Config;
use crate::server::InheritedSockets;
use crate::telemetry::log;

use super::config_watch::ConfigWatch;
use super::service_manager;

#[derive(Args)]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (config, warnings) = match Config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(super::check::print_config_error(&error)),
    };
    let log = log::start(&config.log);
    for warning in warnings {
        warn!(event = "config.warning", "{warning}");
    }
    // The start reports errors itself.
    for warning in Preflight::run(&config, Timestamp::now()).warnings {
        warn!(event = "config.warning", "{warning}");
    }
    // Before the start: the default of SIGHUP would end a gateway that is about to start.
    let signals = ProcessSignals::with_reload()?;
    let started = InheritedSockets::from_environment().map_err(StartError::from);
    let started = started.and_then(|inherited| {
        app::start_on(inherited, config, Clock::System, Some(log.access_log()))
    });
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            // In the format of the log, so that a collector does not lose it.
            error!(event = "gateway.start-failed", "{error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let path = args.config.clone();
    running.allow_reload(Box::new(move || Config::check(&path)));
    service_manager::ready();
    let all_alive = until_stopped(running, signals.watch(args.config.clone()))?;
    info!(event = "gateway.stopped");
    Ok(if all_alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for SIGTERM, SIGINT or the unexpected end of a thread, and drains. A second signal ends the drain.
/// Returns whether every thread ran until the stop.
pub(super) fn until_stopped(
    running: Running,
    mut signals: ProcessSignals,
) -> std::io::Result<bool> {
    signals.wait_for_stop(&running);
    let (all_alive, force_shutdown) = (running.all_threads_alive(), running.force_shutdown());
    let (done, stopped) = oneshot::channel();
    // A separate thread, so that this one can receive a second signal.
    let stopping = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        running.stop();
        // The receiver is gone only if the process is about to end.
        done.send(()).unwrap_or_default();
    })?;
    if signals.wait_for_second(stopped) {
        warn!(event = "gateway.shutdown-forced", "second signal: closing all connections");
        force_shutdown.cancel();
    }
    Ok(stopping.join().is_ok() && all_alive)
}

/// Reloads, and reports it to the service manager. The log has the report.
fn reload(running: &Running) {
    service_manager::reloading();
    running.reload(ReloadMode::Apply);
    service_manager::ready();
}

/// Whether the watched file has new content. A file that is missing or not text is not loaded.
fn has_changed(watch: &mut ConfigWatch, config: Option<&Path>, running: &Running) -> bool {
    let Some((path, loaded)) = config.zip(running.watched_config()) else { return false };
    std::fs::read_to_string(path).is_ok_and(|text| watch.observe(text, &loaded))
}

/// SIGTERM and SIGINT, and SIGHUP where it reloads.
pub(super) struct ProcessSignals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    /// The configuration file, for `server.watch`.
    config: Option<PathBuf>,
}

impl ProcessSignals {
    /// SIGHUP keeps its default: it ends the process with its terminal.
    pub(super) fn without_reload() -> std::io::Result<ProcessSignals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(context);
        Ok(ProcessSignals { runtime, terminate, interrupt, hangup: None, config: None })
    }

    fn with_reload() -> std::io::Result<ProcessSignals> {
        let signals = ProcessSignals::without_reload()?;
        let context = signals.runtime.enter();
        let hangup = Some(signal(SignalKind::hangup())?);
        drop(context);
        Ok(ProcessSignals { hangup, ..signals })
    }

    /// Also reloads when this file changes, if `server.watch` is on.
    fn watch(self, config: PathBuf) -> ProcessSignals {
        ProcessSignals { config: Some(config), ..self }
    }

    /// Waits for the first signal to stop. Reloads at each SIGHUP and each change of the watched file.
    fn wait_for_stop(&mut self, running: &Running) {
        let ProcessSignals { runtime, terminate, interrupt, hangup, config } = self;
        runtime.block_on(async {
            let mut watch = ConfigWatch::default();
            let mut poll = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    () = received(hangup) => reload(running),
                    _ = poll.tick() => {
                        if !running.all_threads_alive() { break }
                        if has_changed(&mut watch, config.as_deref(), running) { reload(running) }
                    }
                }
            }
            service_manager::stopping();
            info!(event = "gateway.stopping", "draining; a second signal closes all connections");
        });
    }

    /// Returns whether another signal arrived before the drain ended.
    fn wait_for_second(&mut self, stopped: oneshot::Receiver<()>) -> bool {
        let ProcessSignals { runtime, terminate, interrupt, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => false,
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
            }
        })
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => signal.recv().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
