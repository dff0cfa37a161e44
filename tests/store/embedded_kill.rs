//! `kill -9` at any moment: the embedded store keeps every acknowledged write, revives no ended
//! session, and loses no touch older than a second.
//!
//! The test runs itself as a child process that writes and prints acknowledgements. It kills the
//! child, reopens the file and compares. All rounds use the same file.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, SessionId, SessionKey, UserTag};
use doorward::store::{CommitOutcome, Slot, Store};

const DIRECTORY: &str = "DOORWARD_KILL_DIRECTORY";
const SEED: &str = "DOORWARD_KILL_SEED";
const CHILD: &str = "embedded_kill::child_that_writes_until_killed";
const ROUNDS: u64 = 6;
const WRITERS: u64 = 6;

/// A seeded random generator, so that rounds can be repeated.
struct SeededRng(u64);

impl SeededRng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Expected state of one session after the kill.
#[derive(Default)]
struct ExpectedSession {
    revision: u64,
    ending: bool,
    ended: bool,
    /// Acknowledged touches with the time of the child.
    touches: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Model {
    sessions: HashMap<SessionKey, ExpectedSession>,
    cutoffs: HashMap<UserTag, u64>,
    last_ms: u64,
}

impl Model {
    /// Parses one line of the child: `ms operation key number`.
    fn record(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [ms, operation, key, number] = words.as_slice() else {
            return None;
        };
        let (ms, number): (u64, u64) = (ms.parse().ok()?, number.parse().ok()?);
        let bytes: [u8; 24] = HEXLOWER.decode(key.as_bytes()).ok()?.try_into().ok()?;
        let key = key_of(&bytes);
        self.last_ms = ms;
        if *operation == "revoked" {
            let cutoff = self.cutoffs.entry(key.tag).or_default();
            *cutoff = number.max(*cutoff);
            return Some(());
        }
        let expected = self.sessions.entry(key).or_default();
        match *operation {
            "wrote" => expected.revision = number,
            "ending" => expected.ending = true,
            "ended" => expected.ended = true,
            "touched" => expected.touches.push((ms, number)),
            _ => return None,
        }
        Some(())
    }

    async fn check(&self, store: &Store) {
        for (key, expected) in &self.sessions {
            let loaded = store.load(key).await.expect("available");
            match loaded.slot {
                Slot::Absent => panic!("a session that was acknowledged is gone"),
                Slot::Ended { .. } => assert!(expected.ending, "this session was not ended"),
                Slot::Live { revision, sealed } => {
                    assert!(!expected.ended, "an ended session is live again");
                    let range = expected.revision..=expected.revision + 1;
                    assert!(range.contains(&revision), "{revision}, not {range:?}");
                    assert_eq!(sealed.as_ref(), revision.to_be_bytes(), "torn");
                    let old = expected.touches.iter().rev();
                    let mut old = old.filter(|(ms, _)| ms + 1_000 < self.last_ms);
                    if let Some((_, touch)) = old.next() {
                        assert!(loaded.touched.0 >= *touch, "a touch older than 1 s is lost");
                    }
                }
            }
        }
        for (tag, cutoff) in &self.cutoffs {
            let found = store.user_cutoff(tag).await.expect("available");
            assert!(found.at.0 >= *cutoff, "a cutoff moved back");
        }
    }

    /// Clears the touches, which are compared within one round only.
    fn next_round(&mut self) {
        self.last_ms = 0;
        for expected in self.sessions.values_mut() {
            expected.touches.clear();
        }
    }
}

fn key_of(bytes: &[u8; 24]) -> SessionKey {
    let (tag, id) = bytes.split_at(8);
    SessionKey {
        tag: UserTag(tag.try_into().expect("eight bytes")),
        id: SessionId(id.try_into().expect("sixteen bytes")),
    }
}

/// Kills the child on drop, also when the test fails.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_kill_loses_no_acknowledged_write_and_revives_no_session() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut model = Model::default();
    for seed in 1..=ROUNDS {
        let lines = run_child(directory.path(), seed);
        let recorded = lines.iter().filter_map(|line| model.record(line)).count();
        println!("round {seed}: {recorded} acknowledged in {} ms", model.last_ms);
        assert!(recorded > 20, "the child wrote nothing in round {seed}");
        let store = Store::embedded(directory.path(), Clock::System).expect("opens after a kill");
        model.check(&store).await;
        store.close().await.expect("closed");
        model.next_round();
    }
    let ended = model.sessions.values().filter(|expected| expected.ended).count();
    assert!(ended > 20 && model.cutoffs.len() > 5, "too little happened");
}

/// Lets a child write for a random time, kills it, and returns the complete lines.
fn run_child(directory: &Path, seed: u64) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", CHILD, "--ignored", "--nocapture"]);
    command.env(DIRECTORY, directory).env(SEED, seed.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = KillOnDrop(command.spawn().expect("starts"));
    let mut output = BufReader::new(child.0.stdout.take().expect("piped"));
    let mut first = Vec::new();
    while !String::from_utf8_lossy(&first).contains("wrote") {
        first.clear();
        let read = output.read_until(b'\n', &mut first).expect("readable");
        assert!(read > 0, "the child ended by itself");
    }
    let reader = std::thread::spawn(move || {
        let rest = output.split(b'\n').map_while(Result::ok);
        let all = std::iter::once(first).chain(rest);
        all.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned()).collect::<Vec<_>>()
    });
    // Not a wait for an event: the test varies the moment of the kill.
    let rng = &mut SeededRng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    std::thread::sleep(Duration::from_millis(50 + rng.below(1_400)));
    drop(child);
    reader.join().expect("read to the end")
}

#[tokio::test]
#[ignore = "started by the test above"]
async fn child_that_writes_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let seed: u64 = std::env::var(SEED).expect("a seed").parse().expect("a number");
    let store = Store::embedded(&directory, Clock::System).expect("opens");
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 1..=WRITERS {
        let rng = SeededRng(seed.wrapping_mul(31) + writer);
        writers.spawn(write_on(store.clone(), rng, started));
    }
    writers.join_all().await;
}

async fn write_on(store: Store, mut rng: SeededRng, started: Instant) {
    let forget_at = Clock::System.now().plus(Duration::from_secs(3_600));
    let print = |operation: &str, key: &SessionKey, number: u64| {
        let row = [key.tag.0.as_slice(), &key.id.0].concat();
        let ms = started.elapsed().as_millis();
        let line = format!("{ms} {operation} {} {number}\n", HEXLOWER.encode(&row));
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    };
    loop {
        let key = key_of(&random_bytes());
        let created = Clock::System.now();
        let sealed = 1_u64.to_be_bytes();
        store.create(&key, &sealed, created, forget_at).await.expect("created");
        print("wrote", &key, 1);
        for revision in 1..1 + rng.below(6) {
            let next = revision + 1;
            let sealed = next.to_be_bytes();
            let committed = store.commit(&key, revision, &sealed, forget_at).await;
            assert_eq!(committed, Ok(CommitOutcome::Swapped));
            print("wrote", &key, next);
            let at = Clock::System.now();
            store.touch(&key, at, forget_at).await.expect("touched");
            print("touched", &key, at.0);
        }
        match rng.below(4) {
            0 => {
                print("ending", &key, 0);
                let at = UnixMillis(7);
                store.end(&key, EndReason::Logout, at, forget_at).await.expect("ended");
                print("ended", &key, 0);
            }
            1 => {
                let cutoff =
                    store.revoke_user(&key.tag, created, None).await.expect("revoked").cutoff;
                print("revoked", &key, cutoff.at.0);
            }
            _ => {}
        }
    }
}
