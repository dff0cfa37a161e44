//! The audit log as an auditor meets it: files, the command, restarts, rotation, power cuts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::KeyRing;
use doorward::session::{EndReason, SessionId};
use doorward::telemetry::audit::{AuditFileError, Finding, Head, Known, Report, Verifier, verify};
use doorward::telemetry::events::About;
use doorward::telemetry::{Audit, SessionEvent};
use proptest::prelude::*;
use tempfile::TempDir;

/// An installation's keys file and the place of its log.
struct Place {
    directory: TempDir,
    keys: KeyRing,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = KeyRing::generate("2026-11-23T00:00:00Z");
        std::fs::write(directory.path().join("keys.toml"), keys.to_file().as_bytes())
            .expect("a keys file");
        Place { directory, keys }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn key(&self) -> hmac::Key {
        self.keys.audit().clone()
    }

    fn open(&self) -> Audit {
        Audit::open(self.path("audit.jsonl"), self.key(), Clock::System).expect("an audit log")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path("audit.jsonl")).expect("the log")
    }

    fn report(&self) -> Report {
        verify(self.text().as_bytes(), &self.key(), &[]).expect("memory")
    }

    /// A run of the gateway that sees some logins.
    fn run(&self, logins: usize) {
        let audit = self.open();
        for _ in 0..logins {
            audit.event(SessionEvent::Login, &alice(), UnixMillis(1));
        }
        audit.close();
    }

    fn doorward(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.current_dir(self.directory.path()).arg("audit").args(arguments);
        command.output().expect("the program runs")
    }
}

fn alice() -> About<'static> {
    About { user: "alice", client: Some([192, 0, 2, 1].into()), ..About::default() }
}

fn actions(text: &str) -> Vec<String> {
    let line = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
    let action = |line: serde_json::Value| line["event.action"].as_str().unwrap_or("").to_owned();
    text.lines().map(|text| action(line(text))).collect()
}

#[test]
fn a_restart_continues_the_chain() {
    let place = Place::new();
    place.run(2);
    place.run(1);
    let report = place.report();
    assert_eq!((report.lines, report.findings), (5, vec![]));
    assert_eq!(
        actions(&place.text()),
        ["audit.begun", "session.login", "session.login", "audit.begun", "session.login"]
    );
}

#[test]
fn a_line_that_a_power_cut_broke_is_kept_named_and_no_alarm() {
    let place = Place::new();
    place.run(1);
    append(&place.path("audit.jsonl"), b"{\"@timestamp\":\"2026-");
    place.run(1);
    let report = place.report();
    assert_eq!((report.torn, report.findings), (1, vec![]));
}

#[test]
fn a_log_whose_end_somebody_changed_is_not_continued() {
    let place = Place::new();
    place.run(1);
    let changed = place.text().replace("alice", "mallo");
    std::fs::write(place.path("audit.jsonl"), changed).expect("written");
    let refused = Audit::open(place.path("audit.jsonl"), place.key(), Clock::System);
    assert!(matches!(refused, Err(AuditFileError::Changed { .. })), "{refused:?}");
}

#[test]
fn two_gateways_never_write_one_chain() {
    let place = Place::new();
    let first = place.open();
    let second = Audit::open(place.path("audit.jsonl"), place.key(), Clock::System);
    assert!(matches!(second, Err(AuditFileError::InUse { .. })), "{second:?}");
    first.close();
}

#[test]
fn a_log_that_was_moved_away_goes_on_in_a_new_file() {
    let place = Place::new();
    let audit = place.open();
    audit.event(SessionEvent::Login, &alice(), UnixMillis(1));
    wait_until(|| place.text().contains("session.login"));
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.1")).expect("moved");
    wait_until(|| place.path("audit.jsonl").exists());
    audit.event(SessionEvent::Ended(EndReason::Logout), &alice(), UnixMillis(2));
    audit.close();
    let whole =
        std::fs::read_to_string(place.path("audit.1")).expect("the old log") + &place.text();
    let report = verify(whole.as_bytes(), &place.key(), &[]).expect("memory");
    assert_eq!((report.lines, report.findings), (3, vec![]));
    let report = place.report();
    assert_eq!(report.first, 3);
    assert_eq!(report.findings, [Finding::BeginsLate { line: 1, from: 1, first: 3 }]);
}

#[test]
fn a_flood_of_strangers_fills_no_disk_and_is_counted() {
    let place = Place::new();
    let audit = place.open();
    for _ in 0..1_000 {
        audit.event(SessionEvent::Forged, &About::default(), UnixMillis(1));
    }
    audit.event(SessionEvent::Theft, &alice(), UnixMillis(2));
    audit.close();
    let text = place.text();
    let forged = actions(&text).iter().filter(|action| *action == "session.forged").count();
    // A second may have turned while they came.
    assert!((10..=20).contains(&forged), "{forged}");
    assert!(text.contains("session.theft"));
    assert_eq!(suppressed(&text) + forged as u64, 1_000);
}

#[test]
fn one_token_that_is_replayed_for_ever_fills_no_disk_and_is_counted() {
    let place = Place::new();
    let audit = place.open();
    let replayed = About { session: Some(SessionId([1; 16])), ..alice() };
    for _ in 0..1_000 {
        audit.event(SessionEvent::Theft, &replayed, UnixMillis(1));
    }
    let other = About { session: Some(SessionId([2; 16])), ..alice() };
    audit.event(SessionEvent::Theft, &other, UnixMillis(2));
    audit.close();
    let text = place.text();
    let thefts = actions(&text).iter().filter(|action| *action == "session.theft").count();
    // A minute may have turned while they came.
    assert!((6..=11).contains(&thefts), "{thefts}");
    assert!(text.contains(&SessionId([2; 16]).handle()), "another session makes its line");
    assert_eq!(suppressed(&text) + thefts as u64, 1_001);
}

fn suppressed(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["event.action"] == "audit.suppressed")
        .filter_map(|line| line["doorward.count"].as_u64())
        .sum()
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.run(1);
    let mode = std::fs::metadata(place.path("audit.jsonl")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_command_finds_what_was_changed_removed_and_cut_off() {
    let place = Place::new();
    place.run(4);
    let whole = place.text();
    let verify = |more: &[&str]| {
        let output =
            place.doorward(&[&["verify", "audit.jsonl", "--keys", "keys.toml"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(verify(&[]), (Some(0), "audit.jsonl: whole: lines 1 to 5\n".to_owned()));
    let head = place.doorward(&["head", "audit.jsonl"]);
    std::fs::write(place.path("heads"), head.stdout).expect("written");

    let mut lines: Vec<&str> = whole.lines().collect();
    let cut_off = lines[..3].join("\n") + "\n";
    std::fs::write(place.path("audit.jsonl"), cut_off).expect("written");
    assert_eq!(verify(&[]).0, Some(0), "nobody can see it without a head");
    let (code, text) = verify(&["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("the end is cut off: line number 5"), "{text}");

    lines.remove(2);
    std::fs::write(place.path("audit.jsonl"), lines.join("\n") + "\n").expect("written");
    let (code, text) = verify(&[]);
    assert!(code == Some(1) && text.contains("line 3: 1 lines before it are missing"), "{text}");

    std::fs::write(place.path("audit.jsonl"), whole.replacen("alice", "carol", 1))
        .expect("written");
    let (code, text) = verify(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &report["whole"]), (Some(1), &serde_json::Value::Bool(false)), "{text}");
}

/// A log of three files: `audit.2` is the oldest.
fn rotated() -> Place {
    let place = Place::new();
    for old in ["audit.2", "audit.1"] {
        let audit = place.open();
        audit.event(SessionEvent::Login, &alice(), UnixMillis(1));
        wait_until(|| place.text().contains("session.login"));
        std::fs::rename(place.path("audit.jsonl"), place.path(old)).expect("moved");
        wait_until(|| place.path("audit.jsonl").exists());
        audit.event(SessionEvent::Ended(EndReason::Logout), &alice(), UnixMillis(2));
        audit.close();
    }
    place
}

fn verify_files(place: &Place, files: &[&str], more: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["verify", "--keys", "keys.toml"], files, more].concat();
    let output = place.doorward(&arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_chain_is_followed_from_file_to_file_in_any_order() {
    let place = rotated();
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1", "audit.2"], &[]);
    assert_eq!(code, Some(0), "{text}");
    let named: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(named, ["audit.2", "audit.1", "audit.jsonl"], "the oldest first: {text}");
}

#[test]
fn a_whole_file_that_is_gone_is_found() {
    let place = rotated();
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.2"], &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("audit.jsonl: line 1: 3 lines before it are missing"), "{text}");
    let head = place.doorward(&["head", "audit.jsonl"]);
    std::fs::write(place.path("heads"), head.stdout).expect("written");
    let (code, text) = verify_files(&place, &["audit.2", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("audit.1: the end is cut off"), "{text}");
}

#[test]
fn the_first_line_of_a_later_file_is_held_against_the_last_of_the_file_before() {
    let place = rotated();
    let changed = place.text().replacen("alice", "mallo", 1);
    std::fs::write(place.path("audit.jsonl"), changed).expect("written");
    let (code, text) = verify_files(&place, &["audit.2", "audit.1", "audit.jsonl"], &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &report["whole"]), (Some(1), &false.into()), "{text}");
    let finding = "line 1: it was changed, or put here from elsewhere";
    assert_eq!(report["files"][2]["findings"], serde_json::json!([finding]));
    let first = report["files"][2]["first"].to_string();
    let (code, text) = verify_files(&place, &["audit.jsonl"], &["--from", &first]);
    assert!(code == Some(1) && text.contains(finding), "alone, by the line that it names: {text}");
}

#[test]
fn files_deleted_on_purpose_are_said_and_lines_removed_from_the_beginning_are_found() {
    let place = rotated();
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1"], &[]);
    assert!(
        code == Some(1) && text.contains("audit.1: line 1: lines 1 to 2 are not here"),
        "{text}"
    );
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1"], &["--from", "3"]);
    assert_eq!(code, Some(0), "{text}");
    let older = std::fs::read_to_string(place.path("audit.1")).expect("the log");
    let shorter = older.split_inclusive('\n').skip(1).collect::<String>();
    std::fs::write(place.path("audit.1"), shorter).expect("written");
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1"], &["--from", "3"]);
    assert!(code == Some(1) && text.contains("lines 3 to 3 are not here"), "{text}");
}

#[test]
fn a_log_that_was_deleted_while_nobody_ran_is_found_by_a_head_that_was_kept() {
    let place = Place::new();
    place.run(2);
    let head = place.doorward(&["head", "audit.jsonl"]).stdout;
    std::fs::write(place.path("heads"), &head).expect("written");
    std::fs::remove_file(place.path("audit.jsonl")).expect("removed");
    place.run(1);
    assert_eq!(verify_files(&place, &["audit.jsonl"], &[]).0, Some(0), "nobody can see it alone");
    let (code, text) = verify_files(&place, &["audit.jsonl"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("line number 3 of the chain"), "{text}");
    let head = String::from_utf8(head).expect("text");
    let chain = head.split(' ').next().expect("a chain");
    let on_purpose = ["--heads", "heads", "--without", chain];
    let (code, text) = verify_files(&place, &["audit.jsonl"], &on_purpose);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_line_that_nothing_proves_is_not_continued() {
    let place = Place::new();
    let mac = "0".repeat(64);
    for seq in [0, 7, u64::MAX] {
        let line = format!(
            "{{\"event.action\":\"x\",\"doorward.chain\":\"c\",\"doorward.seq\":{seq},\"doorward.mac\":\"{mac}\"}}\n"
        );
        for before in ["", "torn\n"] {
            std::fs::write(place.path("audit.jsonl"), before.to_owned() + &line).expect("written");
            let refused = Audit::open(place.path("audit.jsonl"), place.key(), Clock::System);
            assert!(matches!(refused, Err(AuditFileError::Changed { .. })), "{seq}: {refused:?}");
        }
    }
}

#[test]
fn a_file_of_one_line_that_names_the_one_before_is_continued() {
    let place = Place::new();
    place.run(1);
    let text = place.text();
    let last = text.split_inclusive('\n').next_back().expect("a line");
    std::fs::write(place.path("audit.jsonl"), last).expect("written");
    place.run(1);
    assert_eq!(actions(&place.text()), ["session.login", "audit.begun", "session.login"]);
    assert_eq!(verify_files(&place, &["audit.jsonl"], &["--from", "2"]).0, Some(0));
}

#[test]
fn a_log_that_was_moved_away_while_nobody_ran_begins_another_and_its_end_is_found_with_a_head() {
    let place = Place::new();
    place.run(2);
    let head = place.doorward(&["head", "audit.jsonl"]);
    std::fs::write(place.path("heads"), head.stdout).expect("written");
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.1")).expect("moved");
    place.run(1);
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(0) && text.contains("another log begins"), "{text}");
    let old = std::fs::read_to_string(place.path("audit.1")).expect("the old log");
    let kept: Vec<&str> = old.lines().take(2).collect();
    std::fs::write(place.path("audit.1"), kept.join("\n") + "\n").expect("written");
    let (code, text) = verify_files(&place, &["audit.jsonl", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("the end is cut off: line number 3"), "{text}");
}

/// A log of seven lines, its key, and its last head.
fn seven() -> &'static (String, hmac::Key, Head) {
    static LOG: OnceLock<(String, hmac::Key, Head)> = OnceLock::new();
    LOG.get_or_init(|| {
        let place = Place::new();
        place.run(6);
        let report = place.report();
        assert_eq!((report.lines, &report.findings), (7, &vec![]));
        (place.text(), place.key(), report.last.expect("seven lines"))
    })
}

/// What is found in the lines of a log that begins at `from` on purpose.
fn found(from: u64, text: &[u8]) -> Vec<Finding> {
    let (_, key, head) = seven();
    let known = Known { heads: vec![head.clone()], from, ..Known::default() };
    let mut verifier = Verifier::new(key, &known);
    let mut findings = verifier.file(text).expect("memory").findings;
    findings.extend(verifier.conclude());
    findings
}

proptest! {
    #[test]
    fn whatever_is_changed_in_a_log_is_found_wherever_it_begins(
        from in 1_u64..=7,
        at in any::<prop::sample::Index>(),
        length in 0_usize..900,
        put in prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..90)],
    ) {
        let older = usize::try_from(from).expect("few") - 1;
        let whole: String = seven().0.split_inclusive('\n').skip(older).collect();
        let whole = whole.into_bytes();
        prop_assert_eq!(found(from, &whole), []);
        let at = at.index(whole.len() + 1);
        let rest = (at + length).min(whole.len());
        let changed = [&whole[..at], &put, &whole[rest..]].concat();
        // The end of the last line alone is nobody's word.
        let told = |text: &[u8]| text.strip_suffix(b"\n").unwrap_or(text).to_vec();
        prop_assert_eq!(found(from, &changed).is_empty(), told(&changed) == told(&whole));
    }
}

#[test]
fn the_command_says_what_is_missing() {
    let place = Place::new();
    let output = place.doorward(&["verify", "audit.jsonl"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("--keys"), "{text}");
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the log");
    file.write_all(bytes).expect("written");
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < end, "it never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
