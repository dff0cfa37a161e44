//! The log: JSON or text on standard error. A separate thread writes it, so a slow terminal delays no
//! request. If that thread falls behind, log entries are dropped.

use std::io::BufWriter;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

use super::access_log::AccessLogWriter;
use super::printable::Printable;

/// The thread flushes it when its queue is empty, so that under load one system call writes many entries.
const BUFFER: usize = 64 * 1024;

/// Maximum number of queued writes.
const QUEUE: usize = 65_536;

/// Owns the writing thread. Dropping it flushes the log.
pub struct LogGuard {
    access_log: AccessLogWriter,
    _writer: WorkerGuard,
}

impl LogGuard {
    /// Returns the writer of the access log.
    pub fn access_log(&self) -> AccessLogWriter {
        self.access_log.clone()
    }
}

/// Starts logging for the process. A second call changes nothing.
pub fn start(settings: &Log) -> LogGuard {
    let (writer, thread) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        // The thread escapes what a terminal would not print, so that no request waits for it.
        .finish(Printable(BufWriter::with_capacity(BUFFER, std::io::stderr())));
    let access_log = AccessLogWriter { out: writer.clone(), format: settings.format };
    let filter = EnvFilter::try_from_env("DOORWARD_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,ldap3_proto=off,doorward={0},session={0}",
            level(settings.level)
        ))
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
    LogGuard { access_log, _writer: thread }
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}
