//! `kill -9` at any moment: the embedded store loses nothing that it acknowledged, revives nothing that
//! ended, and loses no touch older than a second.
//!
//! The test runs itself again as a child that writes and prints what was acknowledged, kills it, opens the
//! file and compares; the same file serves all rounds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, SessionId, SessionKey, UserTag};
use doorward::store::{Commit, Slot, Store};

const DIRECTORY: &str = "DOORWARD_KILL_DIRECTORY";
const SEED: &str = "DOORWARD_KILL_SEED";
const CHILD: &str = "the_child_that_writes_until_it_is_killed";
const ROUNDS: u64 = 6;
const WRITERS: u64 = 6;

/// A small generator: rounds can be repeated by their seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What one session must be after the kill.
#[derive(Default)]
struct Known {
    revision: u64,
    ending: bool,
    ended: bool,
    /// The touches acknowledged, with the child's time.
    touches: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Model {
    sessions: HashMap<SessionKey, Known>,
    lines: HashMap<UserTag, u64>,
    last_heard: u64,
}

impl Model {
    /// One line of the child: `ms what key number`.
    fn hear(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [ms, what, key, number] = words.as_slice() else {
            return None;
        };
        let (ms, number): (u64, u64) = (ms.parse().ok()?, number.parse().ok()?);
        let bytes: [u8; 24] = HEXLOWER.decode(key.as_bytes()).ok()?.try_into().ok()?;
        let key = key_of(&bytes);
        self.last_heard = ms;
        if *what == "revoked" {
            let line = self.lines.entry(key.tag).or_default();
            *line = number.max(*line);
            return Some(());
        }
        let known = self.sessions.entry(key).or_default();
        match *what {
            "wrote" => known.revision = number,
            "ending" => known.ending = true,
            "ended" => known.ended = true,
            "touched" => known.touches.push((ms, number)),
            _ => return None,
        }
        Some(())
    }

    async fn check(&self, store: &Store) {
        for (key, known) in &self.sessions {
            let loaded = store.load(key).await.expect("available");
            match loaded.slot {
                Slot::Absent => panic!("a session that was acknowledged is gone"),
                Slot::Ended { .. } => assert!(known.ending, "nobody ended this session"),
                Slot::Live { revision, sealed } => {
                    assert!(!known.ended, "an ended session lives again");
                    let range = known.revision..=known.revision + 1;
                    assert!(range.contains(&revision), "{revision}, not {range:?}");
                    assert_eq!(sealed.as_ref(), revision.to_be_bytes(), "torn");
                    let old = known.touches.iter().rev();
                    let mut old = old.filter(|(ms, _)| ms + 1_000 < self.last_heard);
                    if let Some((_, touch)) = old.next() {
                        assert!(loaded.touched.0 >= *touch, "a touch older than 1 s is lost");
                    }
                }
            }
        }
        for (tag, line) in &self.lines {
            let found = store.not_before(tag).await.expect("available");
            assert!(found.at.0 >= *line, "a line moved back");
        }
    }

    /// What a later round still holds: touches are compared within their round only.
    fn next_round(&mut self) {
        self.last_heard = 0;
        for known in self.sessions.values_mut() {
            known.touches.clear();
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

/// Ends the child also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_acknowledged_and_revives_nothing() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let mut model = Model::default();
    for seed in 1..=ROUNDS {
        let lines = run_child(directory.path(), seed);
        let heard = lines.iter().filter_map(|line| model.hear(line)).count();
        println!("round {seed}: {heard} acknowledged in {} ms", model.last_heard);
        assert!(heard > 20, "the child wrote nothing in round {seed}");
        let store = Store::embedded(directory.path(), Clock::System).expect("opens after a kill");
        model.check(&store).await;
        store.close().await.expect("closed");
        model.next_round();
    }
    let ended = model.sessions.values().filter(|known| known.ended).count();
    assert!(ended > 20 && model.lines.len() > 5, "too little happened");
}

/// Lets a child write for a random time, kills it, and gives the whole lines that it printed.
fn run_child(directory: &Path, seed: u64) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", CHILD, "--ignored", "--nocapture"]);
    command.env(DIRECTORY, directory).env(SEED, seed.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Killed(command.spawn().expect("starts"));
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
    // Not a wait for something to happen: the moment of the kill is what the test varies.
    let chance = &mut Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    std::thread::sleep(Duration::from_millis(50 + chance.below(1_400)));
    drop(child);
    reader.join().expect("read to the end")
}

#[tokio::test]
#[ignore = "started by the test above"]
async fn the_child_that_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let seed: u64 = std::env::var(SEED).expect("a seed").parse().expect("a number");
    let store = Store::embedded(&directory, Clock::System).expect("opens");
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 1..=WRITERS {
        let chance = Chance(seed.wrapping_mul(31) + writer);
        writers.spawn(write_on(store.clone(), chance, begun));
    }
    writers.join_all().await;
}

async fn write_on(store: Store, mut chance: Chance, begun: Instant) {
    let forget_at = Clock::System.now().plus(Duration::from_secs(3_600));
    let say = |what: &str, key: &SessionKey, number: u64| {
        let row = [key.tag.0.as_slice(), &key.id.0].concat();
        let ms = begun.elapsed().as_millis();
        let line = format!("{ms} {what} {} {number}\n", HEXLOWER.encode(&row));
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    };
    loop {
        let key = key_of(&random_bytes());
        let created = Clock::System.now();
        let sealed = 1_u64.to_be_bytes();
        store.create(&key, &sealed, created, forget_at).await.expect("created");
        say("wrote", &key, 1);
        for revision in 1..1 + chance.below(6) {
            let next = revision + 1;
            let sealed = next.to_be_bytes();
            let committed = store.commit(&key, revision, &sealed, forget_at).await;
            assert_eq!(committed, Ok(Commit::Swapped));
            say("wrote", &key, next);
            let at = Clock::System.now();
            store.touch(&key, at, forget_at).await.expect("touched");
            say("touched", &key, at.0);
        }
        match chance.below(4) {
            0 => {
                say("ending", &key, 0);
                let at = UnixMillis(7);
                store.end(&key, EndReason::Logout, at, forget_at).await.expect("ended");
                say("ended", &key, 0);
            }
            1 => {
                let line = store.revoke_user(&key.tag, created, None).await.expect("revoked").line;
                say("revoked", &key, line.at.0);
            }
            _ => {}
        }
    }
}
