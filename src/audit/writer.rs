//! The writing thread, the only owner of the file and of the head of its chain.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use tracing::{error, info};

use crate::clock::{Clock, UnixMillis};
use crate::secret::random_bytes;
use crate::telemetry::AuditStats;
use crate::telemetry::events::EcsEvent;

use super::chain::{Head, TORN, parse_head, seal, verified_head};
use super::files::{self, AuditFileError, HEAD_EVENT, Tail};
use super::rate_limit::AuditRateLimit;

const STARTED: &str = "audit.started";
const LOST: &str = "audit.lost";
const SUPPRESSED: &str = "audit.suppressed";

/// How often lost events are reported and the path of the file is checked.
const TICK: Duration = Duration::from_secs(1);
/// How often suppressed events are reported, so that a flood of them does not fill the disk either.
const SUPPRESSED_INTERVAL: Duration = Duration::from_secs(60);
const HEAD_INTERVAL: Duration = Duration::from_secs(60 * 60);

pub(super) enum WriterCommand {
    Entry(Box<EcsEvent>),
    Close,
}

/// The file and its chain.
pub(super) struct AuditFile {
    path: PathBuf,
    key: hmac::Key,
    clock: Clock,
    file: fs::File,
    /// Length of the complete lines in bytes.
    length: u64,
    head: Head,
}

impl AuditFile {
    pub(super) fn open(
        path: PathBuf,
        key: hmac::Key,
        clock: Clock,
    ) -> Result<AuditFile, AuditFileError> {
        let failed = |error| AuditFileError::File { path: path.clone(), error };
        let mut file = open(&path).map_err(failed)?;
        // Two processes would interleave their chains, and neither could be verified.
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => AuditFileError::InUse { path: path.clone() },
            fs::TryLockError::Error(error) => failed(error),
        })?;
        let tail = files::tail(&mut file).map_err(failed)?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let head = match tail.lines.as_slice() {
            [] => Head { chain: HEXLOWER.encode(&random_bytes::<8>()), seq: 0, mac: String::new() },
            [.., last] => {
                let changed = || AuditFileError::Changed { path: path.clone() };
                resumed_head(&key, &tail.lines, last).ok_or_else(changed)?
            }
        };
        let mut this = AuditFile { path: path.clone(), key, clock, file, length, head };
        this.write_start(&tail).map_err(failed)?;
        Ok(this)
    }

    /// Writes that the log starts, and whether the last line was torn.
    fn write_start(&mut self, tail: &Tail) -> io::Result<()> {
        let now = self.clock.now();
        if tail.torn > 0 {
            self.file.write_all(b"\n")?;
            self.length += 1;
            let torn = u64::try_from(tail.torn).unwrap_or(u64::MAX);
            self.append(&[EcsEvent::process_info(
                TORN,
                "power failure or full disk",
                Some(torn),
                now,
            )])?;
        }
        self.append(&[EcsEvent::process_start(STARTED, now)])
    }

    /// Appends all entries or none: truncates the file after a partial write.
    fn append(&mut self, entries: &[EcsEvent]) -> io::Result<()> {
        let mut head = self.head.clone();
        let mut out = String::new();
        for entry in entries {
            head.seq = head.seq.saturating_add(1);
            let (line, mac) = seal(
                &self.key,
                &head.mac,
                &entry.to_chained_json(&head.chain, head.seq, &head.mac),
            );
            out.push_str(&line);
            head.mac = mac;
        }
        let written = self.file.write_all(out.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::End(0))?;
            return Err(error);
        }
        self.length += u64::try_from(out.len()).unwrap_or_default();
        self.head = head;
        Ok(())
    }

    /// Continues the chain in a new file if the current one was moved away (log rotation).
    fn reopen_if_moved(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = open(&self.path)?;
        file.try_lock()?;
        self.length = file.seek(SeekFrom::End(0))?;
        self.file = file;
        Ok(())
    }

    fn log_head(&self) {
        let Head { chain, seq, mac } = &self.head;
        info!(event = HEAD_EVENT, chain, seq, mac);
    }
}

/// Returns the head to continue from, if the MAC of the last line is valid. The MAC before it comes from
/// the line before, or from the last line itself (after a torn line, or at the start of a file).
fn resumed_head(key: &hmac::Key, lines: &[String], last: &str) -> Option<Head> {
    let before = match lines {
        [.., before, _] => parse_head(before).map(|before| before.mac),
        _ => None,
    };
    verified_head(key, before.as_deref(), last)
}

fn open(path: &Path) -> io::Result<fs::File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
}

/// Counts of events that the file does not have.
#[derive(Debug, Default)]
pub(super) struct LostEvents {
    /// Not reported in the log yet.
    unreported: AtomicU64,
    total: AtomicU64,
    is_failing: AtomicBool,
}

impl LostEvents {
    pub(super) fn count(&self) {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> AuditStats {
        AuditStats {
            lost: self.total.load(Ordering::Relaxed),
            is_failing: self.is_failing.load(Ordering::Relaxed),
        }
    }
}

/// The loop of the writing thread.
pub(super) struct AuditWriter {
    file: AuditFile,
    lost: Arc<LostEvents>,
    rate_limit: Arc<Mutex<AuditRateLimit>>,
    pending: Vec<EcsEvent>,
    next_tick: Instant,
    next_count: Instant,
    next_head: Instant,
    failing: bool,
}

/// Maximum number of lines that are kept while writes fail.
const MAX_PENDING: usize = 8_192;

impl AuditWriter {
    pub(super) fn new(
        file: AuditFile,
        lost: Arc<LostEvents>,
        rate_limit: Arc<Mutex<AuditRateLimit>>,
    ) -> AuditWriter {
        let now = Instant::now();
        AuditWriter {
            file,
            lost,
            rate_limit,
            pending: Vec::new(),
            next_tick: now + TICK,
            next_count: now,
            next_head: now + HEAD_INTERVAL,
            failing: false,
        }
    }

    pub(super) fn run(mut self, queue: &Receiver<WriterCommand>) {
        // At once, so that a head exists if the file is deleted within the first hour.
        self.file.log_head();
        loop {
            let left = self.next_tick.saturating_duration_since(Instant::now());
            match queue.recv_timeout(left) {
                Ok(message) => {
                    if self.take(message, queue).is_break() {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.tick(),
            }
            if Instant::now() >= self.next_tick {
                self.tick();
            }
        }
        self.next_count = Instant::now();
        self.tick();
        self.file.log_head();
    }

    /// Writes all queued entries at once.
    fn take(&mut self, first: WriterCommand, queue: &Receiver<WriterCommand>) -> ControlFlow<()> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                WriterCommand::Entry(entry) => self.enqueue(*entry),
                WriterCommand::Close => return ControlFlow::Break(()),
            }
            next = if self.pending.len() < MAX_PENDING { queue.try_recv().ok() } else { None };
        }
        if !self.failing {
            self.write();
        }
        ControlFlow::Continue(())
    }

    fn enqueue(&mut self, entry: EcsEvent) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push(entry);
        } else {
            self.lost.count();
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.next_tick = now + TICK;
        if let Err(error) = self.file.reopen_if_moved() {
            self.fail(&error);
        }
        let at = self.file.clock.now();
        self.push_suppressed(now, at);
        self.push_lost(at);
        self.write();
        if now >= self.next_head {
            self.next_head = now + HEAD_INTERVAL;
            self.file.log_head();
        }
    }

    fn push_suppressed(&mut self, now: Instant, at: UnixMillis) {
        if now < self.next_count {
            return;
        }
        let counted = self.rate_limit.lock().take_suppressed();
        for (action, count) in counted {
            self.next_count = now + SUPPRESSED_INTERVAL;
            self.pending.push(EcsEvent::process_info(SUPPRESSED, action, Some(count), at));
        }
    }

    fn push_lost(&mut self, at: UnixMillis) {
        let lost = self.lost.unreported.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let reason = "the disk was slower than the events";
            self.pending.push(EcsEvent::process_info(LOST, reason, Some(lost), at));
        }
    }

    fn write(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        match self.file.append(&self.pending) {
            Ok(()) => {
                self.pending.clear();
                self.lost.is_failing.store(false, Ordering::Relaxed);
                if std::mem::take(&mut self.failing) {
                    info!(event = "audit.recovered", "writes to the audit log succeed again");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.lost.is_failing.store(true, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.file.path.display();
            error!(event = "audit.write-failed", %path, %error, "the audit log cannot be written; events are queued, and counted once the queue is full. Free disk space or fix the permissions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::events::{EventContext, SessionEvent};

    #[test]
    fn heads_are_logged_at_start_and_stop() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let file =
            AuditFile::open(directory.path().join("log"), key, Clock::System).expect("a log");
        let (queue, waiting) = std::sync::mpsc::sync_channel(1);
        let entry = EcsEvent::new(SessionEvent::Login, &EventContext::default(), UnixMillis(0));
        queue.send(WriterCommand::Entry(Box::new(entry))).expect("room");
        drop(queue);
        let log_path = directory.path().join("ordinary");
        let log = tracing_subscriber::fmt().json().flatten_event(true);
        let log = log.with_writer(Arc::new(fs::File::create(&log_path).expect("a file"))).finish();
        tracing::subscriber::with_default(log, || {
            let rate_limit = Arc::new(Mutex::new(AuditRateLimit::new(&Clock::System)));
            AuditWriter::new(file, Arc::default(), rate_limit).run(&waiting);
        });
        let heads = files::read_heads(fs::File::open(&log_path).expect("the file")).expect("read");
        let numbers: Vec<u64> = heads.iter().map(|head| head.seq).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn suppressed_events_are_reported_at_once_and_every_minute() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let file =
            AuditFile::open(directory.path().join("log"), key, Clock::System).expect("a log");
        let limit_clock = Clock::manual(UnixMillis(0));
        let rate_limit = Arc::new(Mutex::new(AuditRateLimit::new(&limit_clock)));
        let mut writer = AuditWriter::new(file, Arc::default(), Arc::clone(&rate_limit));
        let start = Instant::now();
        let report = |writer: &mut AuditWriter, after: u64| {
            let now = start + Duration::from_secs(after);
            for _ in 0..20 {
                rate_limit.lock().allows(SessionEvent::TokenInvalid, None);
            }
            writer.push_suppressed(now, UnixMillis(0));
            std::mem::take(&mut writer.pending).len()
        };
        let lines: Vec<usize> = (1..=120).map(|after| report(&mut writer, after)).collect();
        assert_eq!(lines.iter().sum::<usize>(), 2, "{lines:?}");
        assert_eq!((lines[0], lines[60]), (1, 1));
    }
}
