//! The thread that writes: it alone knows the chain's place.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use tracing::{error, info};

use crate::clock::{Clock, UnixMillis};
use crate::secret::random_bytes;

use super::chain::{Head, head_of_line, seal, sound};
use super::gate::Gate;
use super::line::{BEGUN, Entry, LOST, SUPPRESSED, TORN};
use super::reading::{self, AuditFileError, Tail};

pub(super) const HEAD_EVENT: &str = "audit-head";

/// How often what was counted becomes a line, and the file is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often it is said of a kind of event how many made no line: saying it must not fill the disk either.
const COUNT_EVERY: Duration = Duration::from_secs(60);
const HEAD_EVERY: Duration = Duration::from_secs(60 * 60);

pub(super) enum Message {
    Entry(Box<Entry>),
    Close,
}

/// The file and its chain.
pub(super) struct File {
    path: PathBuf,
    key: hmac::Key,
    clock: Clock,
    file: fs::File,
    /// Bytes that are whole lines.
    length: u64,
    head: Head,
}

impl File {
    pub(super) fn open(
        path: PathBuf,
        key: hmac::Key,
        clock: Clock,
    ) -> Result<File, AuditFileError> {
        let failed = |error| AuditFileError::File { path: path.clone(), error };
        let mut file = open(&path).map_err(failed)?;
        // Two chains in one file are none.
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => AuditFileError::InUse { path: path.clone() },
            fs::TryLockError::Error(error) => failed(error),
        })?;
        let tail = reading::tail(&mut file).map_err(failed)?;
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let head = match tail.lines.as_slice() {
            [] => Head { chain: HEXLOWER.encode(&random_bytes::<8>()), seq: 0, mac: String::new() },
            [.., last] => {
                let changed = || AuditFileError::Changed { path: path.clone() };
                continued(&key, &tail.lines, last).ok_or_else(changed)?
            }
        };
        let mut this = File { path: path.clone(), key, clock, file, length, head };
        this.begin(&tail).map_err(failed)?;
        Ok(this)
    }

    /// The log says when it begins to write, and that the line before it broke.
    fn begin(&mut self, tail: &Tail) -> io::Result<()> {
        let now = self.clock.now();
        if tail.torn > 0 {
            self.file.write_all(b"\n")?;
            self.length += 1;
            let torn = u64::try_from(tail.torn).unwrap_or(u64::MAX);
            self.append(&[Entry::own(
                TORN,
                Some("the power went, or the disk was full"),
                Some(torn),
                now,
            )])?;
        }
        self.append(&[Entry::own(BEGUN, None, None, now)])
    }

    /// All of them, or none: what was written in part is taken back.
    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut head = self.head.clone();
        let mut out = String::new();
        for entry in entries {
            head.seq = head.seq.saturating_add(1);
            let (line, mac) =
                seal(&self.key, &head.mac, &entry.text(&head.chain, head.seq, &head.mac));
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

    /// Somebody moved the file away (log rotation): the chain goes on in a new one.
    fn follow(&mut self) -> io::Result<()> {
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

    fn tell_head(&self) {
        let Head { chain, seq, mac } = &self.head;
        info!(event = HEAD_EVENT, chain, seq, mac);
    }
}

/// Where the chain goes on. The last line must fit to the one before; where that is not there (after a
/// broken line, or at the begin of a file), to the one that it names. A changed end is not continued.
fn continued(key: &hmac::Key, lines: &[String], last: &str) -> Option<Head> {
    let before = match lines {
        [.., before, _] => head_of_line(before).map(|before| before.mac),
        _ => None,
    };
    sound(key, before.as_deref(), last)
}

fn open(path: &Path) -> io::Result<fs::File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
}

/// The loop around the file.
pub(super) struct Writer {
    file: File,
    lost: Arc<AtomicU64>,
    gate: Arc<Mutex<Gate>>,
    waiting: Vec<Entry>,
    next_tick: Instant,
    next_count: Instant,
    next_head: Instant,
    failing: bool,
}

/// Lines that are kept while the disk takes none.
const KEPT: usize = 8_192;

impl Writer {
    pub(super) fn new(file: File, lost: Arc<AtomicU64>, gate: Arc<Mutex<Gate>>) -> Writer {
        let now = Instant::now();
        Writer {
            file,
            lost,
            gate,
            waiting: Vec::new(),
            next_tick: now + TICK,
            next_count: now,
            next_head: now + HEAD_EVERY,
            failing: false,
        }
    }

    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        // At once: a log that is killed and deleted within its first hour has to have a head too.
        self.file.tell_head();
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
        self.file.tell_head();
    }

    /// Everything that waits goes in one write.
    fn take(&mut self, first: Message, queue: &Receiver<Message>) -> ControlFlow<()> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Entry(entry) => self.admit(*entry),
                Message::Close => return ControlFlow::Break(()),
            }
            next = if self.waiting.len() < KEPT { queue.try_recv().ok() } else { None };
        }
        if !self.failing {
            self.write();
        }
        ControlFlow::Continue(())
    }

    fn admit(&mut self, entry: Entry) {
        if self.waiting.len() < KEPT {
            self.waiting.push(entry);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.next_tick = now + TICK;
        if let Err(error) = self.file.follow() {
            self.fail(&error);
        }
        let at = self.file.clock.now();
        self.count_suppressed(now, at);
        self.count_lost(at);
        self.write();
        if now >= self.next_head {
            self.next_head = now + HEAD_EVERY;
            self.file.tell_head();
        }
    }

    fn count_suppressed(&mut self, now: Instant, at: UnixMillis) {
        if now < self.next_count {
            return;
        }
        let counted = self.gate.lock().unwrap_or_else(PoisonError::into_inner).take_suppressed();
        for (action, count) in counted {
            self.next_count = now + COUNT_EVERY;
            self.waiting.push(Entry::own(SUPPRESSED, Some(action), Some(count), at));
        }
    }

    fn count_lost(&mut self, at: UnixMillis) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let reason = "more happened than the disk took";
            self.waiting.push(Entry::own(LOST, Some(reason), Some(lost), at));
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match self.file.append(&self.waiting) {
            Ok(()) => {
                self.waiting.clear();
                if std::mem::take(&mut self.failing) {
                    info!(event = "audit-again", "the audit log is written again");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.file.path.display();
            error!(event = "audit-failed", %path, %error, "the audit log cannot be written; events wait, then only their number is kept. Free the disk or mend its rights");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::events::{About, SessionEvent};

    #[test]
    fn heads_go_to_the_ordinary_log_at_the_beginning_and_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let file = File::open(directory.path().join("log"), key, Clock::System).expect("a log");
        let (queue, waiting) = std::sync::mpsc::sync_channel(1);
        let entry = Entry::new(SessionEvent::Login, &About::default(), UnixMillis(0));
        queue.send(Message::Entry(Box::new(entry))).expect("room");
        drop(queue);
        let told = directory.path().join("ordinary");
        let log = tracing_subscriber::fmt().json().flatten_event(true);
        let log = log.with_writer(Arc::new(fs::File::create(&told).expect("a file"))).finish();
        tracing::subscriber::with_default(log, || {
            Writer::new(file, Arc::default(), Arc::default()).run(&waiting);
        });
        let heads = reading::read_heads(fs::File::open(&told).expect("the file")).expect("read");
        let places: Vec<u64> = heads.iter().map(|head| head.seq).collect();
        assert_eq!(places, [1, 2]);
    }

    #[test]
    fn how_many_made_no_line_is_said_at_once_and_then_once_a_minute() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let file = File::open(directory.path().join("log"), key, Clock::System).expect("a log");
        let gate = Arc::<Mutex<Gate>>::default();
        let mut writer = Writer::new(file, Arc::default(), Arc::clone(&gate));
        let start = Instant::now();
        let said = |writer: &mut Writer, after: u64| {
            let now = start + Duration::from_secs(after);
            for _ in 0..20 {
                gate.lock().expect("a gate").admits(SessionEvent::Forged, None, now);
            }
            writer.count_suppressed(now, UnixMillis(0));
            std::mem::take(&mut writer.waiting).len()
        };
        let lines: Vec<usize> = (1..=120).map(|after| said(&mut writer, after)).collect();
        assert_eq!(lines.iter().sum::<usize>(), 2, "{lines:?}");
        assert_eq!((lines[0], lines[60]), (1, 1));
    }
}
