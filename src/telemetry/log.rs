//! Where lines go: standard error, as JSON or as text, written by a thread of its own so that a slow
//! terminal never holds up a request. When it cannot keep up, lines are dropped, not requests.

use std::io::BufWriter;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

use super::requests::RequestLines;

/// The writing thread empties it whenever no line waits: under load many lines make one system call.
const BUFFER: usize = 64 * 1024;

/// Keeps the writing thread; dropping it writes what is left.
pub struct LogGuard {
    lines: RequestLines,
    _writer: WorkerGuard,
}

impl LogGuard {
    /// Where request lines go.
    pub fn request_lines(&self) -> RequestLines {
        self.lines.clone()
    }
}

/// Starts logging for the process. A second call changes nothing.
pub fn start(settings: &Log) -> LogGuard {
    let (writer, thread) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(65_536)
        .finish(BufWriter::with_capacity(BUFFER, std::io::stderr()));
    let lines = RequestLines { out: writer.clone(), format: settings.format };
    let filter = EnvFilter::try_from_env("DOORWARD_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!("warn,doorward={0},session={0}", level(settings.level)))
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match settings.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .try_init(),
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
    };
    drop(started);
    LogGuard { lines, _writer: thread }
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}
