//! The audit log: files, `doorward audit`, restarts, rotation, torn lines.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use doorward::audit::{
    AuditFileError, AuditFinding, AuditLog, FileReport, Head, Verifier, VerifyOptions, verify,
};
use doorward::clock::{Clock, UnixMillis};
use doorward::secret::KeyRing;
use doorward::session::{EndReason, SessionId};
use doorward::telemetry::SessionEvent;
use doorward::telemetry::events::{Actor, EventContext};
use proptest::prelude::*;
use tempfile::TempDir;

/// A directory with a keys file and an audit log.
struct Installation {
    directory: TempDir,
    keys: KeyRing,
}

impl Installation {
    fn new() -> Installation {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = KeyRing::generate("2026-11-23T00:00:00Z");
        std::fs::write(directory.path().join("keys.toml"), keys.to_file().as_bytes())
            .expect("a keys file");
        Installation { directory, keys }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn key(&self) -> hmac::Key {
        self.keys.audit().clone()
    }

    /// Opens the log. A process that another test spawns can hold the lock of an earlier log between fork and exec.
    fn open(&self) -> AuditLog {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let opened = AuditLog::open(self.path("audit.jsonl"), self.key(), Clock::System);
            let is_in_use = matches!(opened, Err(AuditFileError::InUse { .. }));
            if !is_in_use || Instant::now() >= deadline {
                return opened.expect("an audit log");
            }
            std::thread::yield_now();
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path("audit.jsonl")).expect("the log")
    }

    fn report(&self) -> FileReport {
        verify(self.text().as_bytes(), &self.key(), &[]).expect("memory")
    }

    /// Opens the log, records some logins and closes it.
    fn run(&self, logins: usize) {
        let audit = self.open();
        for _ in 0..logins {
            audit.record(SessionEvent::Login, &alice(), UnixMillis(1));
        }
        audit.close();
    }

    fn doorward(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.current_dir(self.directory.path()).arg("audit").args(arguments);
        command.output().expect("the program runs")
    }
}

fn alice() -> EventContext<'static> {
    EventContext { user: "alice", client: Some([192, 0, 2, 1].into()), ..EventContext::default() }
}

fn actions(text: &str) -> Vec<String> {
    let line = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
    let action = |line: serde_json::Value| line["event.action"].as_str().unwrap_or("").to_owned();
    text.lines().map(|text| action(line(text))).collect()
}

#[test]
fn a_restart_continues_the_chain() {
    let installation = Installation::new();
    installation.run(2);
    installation.run(1);
    let report = installation.report();
    assert_eq!((report.lines, report.findings), (5, vec![]));
    assert_eq!(
        actions(&installation.text()),
        ["audit.started", "session.login", "session.login", "audit.started", "session.login"]
    );
}

#[test]
fn a_torn_line_is_marked_and_is_not_a_finding() {
    let installation = Installation::new();
    installation.run(1);
    append(&installation.path("audit.jsonl"), b"{\"@timestamp\":\"2026-");
    installation.run(1);
    let report = installation.report();
    assert_eq!((report.torn, report.findings), (1, vec![]));
}

#[test]
fn a_log_with_a_modified_end_is_not_continued() {
    let installation = Installation::new();
    installation.run(1);
    let changed = installation.text().replace("alice", "mallo");
    std::fs::write(installation.path("audit.jsonl"), changed).expect("written");
    let refused =
        AuditLog::open(installation.path("audit.jsonl"), installation.key(), Clock::System);
    assert!(matches!(refused, Err(AuditFileError::Changed { .. })), "{refused:?}");
}

#[test]
fn a_second_process_cannot_open_the_log() {
    let installation = Installation::new();
    let first = installation.open();
    let second =
        AuditLog::open(installation.path("audit.jsonl"), installation.key(), Clock::System);
    assert!(matches!(second, Err(AuditFileError::InUse { .. })), "{second:?}");
    first.close();
}

#[test]
fn a_rotated_log_continues_in_a_new_file() {
    let installation = Installation::new();
    let audit = installation.open();
    audit.record(SessionEvent::Login, &alice(), UnixMillis(1));
    wait_until(|| installation.text().contains("session.login"));
    std::fs::rename(installation.path("audit.jsonl"), installation.path("audit.1")).expect("moved");
    wait_until(|| installation.path("audit.jsonl").exists());
    audit.record(SessionEvent::Ended(EndReason::Logout), &alice(), UnixMillis(2));
    audit.close();
    let whole = std::fs::read_to_string(installation.path("audit.1")).expect("the old log")
        + &installation.text();
    let report = verify(whole.as_bytes(), &installation.key(), &[]).expect("memory");
    assert_eq!((report.lines, report.findings), (3, vec![]));
    let report = installation.report();
    assert_eq!(report.first, 3);
    assert_eq!(report.findings, [AuditFinding::StartsLate { line: 1, from: 1, first: 3 }]);
}

#[test]
fn unauthenticated_floods_are_limited_and_counted() {
    let installation = Installation::new();
    let audit = installation.open();
    for _ in 0..1_000 {
        audit.record(SessionEvent::TokenInvalid, &EventContext::default(), UnixMillis(1));
    }
    audit.record(SessionEvent::Theft, &alice(), UnixMillis(2));
    audit.close();
    let text = installation.text();
    let forged = actions(&text).iter().filter(|action| *action == "session.token-invalid").count();
    // The flood may span two seconds.
    assert!((10..=20).contains(&forged), "{forged}");
    assert!(text.contains("session.theft"));
    assert_eq!(suppressed(&text) + forged as u64, 1_000);
}

#[test]
fn a_replay_flood_of_one_token_is_limited_and_counted() {
    let installation = Installation::new();
    let audit = installation.open();
    let replayed = EventContext { session: Some(SessionId([1; 16])), ..alice() };
    for _ in 0..1_000 {
        audit.record(SessionEvent::Theft, &replayed, UnixMillis(1));
    }
    let other = EventContext { session: Some(SessionId([2; 16])), ..alice() };
    audit.record(SessionEvent::Theft, &other, UnixMillis(2));
    audit.close();
    let text = installation.text();
    let thefts = actions(&text).iter().filter(|action| *action == "session.theft").count();
    // The flood may span two minutes.
    assert!((6..=11).contains(&thefts), "{thefts}");
    assert!(text.contains(&SessionId([2; 16]).handle()), "another session has its own limit");
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
fn the_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let installation = Installation::new();
    installation.run(1);
    let mode =
        std::fs::metadata(installation.path("audit.jsonl")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn verify_finds_changed_removed_and_truncated_lines() {
    let installation = Installation::new();
    installation.run(4);
    let whole = installation.text();
    let verify = |more: &[&str]| {
        let output = installation
            .doorward(&[&["verify", "audit.jsonl", "--keys", "keys.toml"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(verify(&[]), (Some(0), "audit.jsonl: intact: lines 1 to 5\n".to_owned()));
    let head = installation.doorward(&["head", "audit.jsonl"]);
    std::fs::write(installation.path("heads"), head.stdout).expect("written");

    let mut lines: Vec<&str> = whole.lines().collect();
    let cut_off = lines[..3].join("\n") + "\n";
    std::fs::write(installation.path("audit.jsonl"), cut_off).expect("written");
    assert_eq!(verify(&[]).0, Some(0), "a truncation needs a head");
    let (code, text) = verify(&["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("the end is cut off: line number 5"), "{text}");

    lines.remove(2);
    std::fs::write(installation.path("audit.jsonl"), lines.join("\n") + "\n").expect("written");
    let (code, text) = verify(&[]);
    assert!(
        code == Some(1) && text.contains("line 3: 1 lines before this line are missing"),
        "{text}"
    );

    std::fs::write(installation.path("audit.jsonl"), whole.replacen("alice", "carol", 1))
        .expect("written");
    let (code, text) = verify(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &report["intact"]), (Some(1), &serde_json::Value::Bool(false)), "{text}");
}

/// A log of three files; `audit.2` is the oldest.
fn rotated() -> Installation {
    let installation = Installation::new();
    for old in ["audit.2", "audit.1"] {
        let audit = installation.open();
        audit.record(SessionEvent::Login, &alice(), UnixMillis(1));
        wait_until(|| installation.text().contains("session.login"));
        std::fs::rename(installation.path("audit.jsonl"), installation.path(old)).expect("moved");
        wait_until(|| installation.path("audit.jsonl").exists());
        audit.record(SessionEvent::Ended(EndReason::Logout), &alice(), UnixMillis(2));
        audit.close();
    }
    installation
}

fn verify_files(
    installation: &Installation,
    files: &[&str],
    more: &[&str],
) -> (Option<i32>, String) {
    let arguments = [&["verify", "--keys", "keys.toml"], files, more].concat();
    let output = installation.doorward(&arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn verify_accepts_rotated_files_in_any_order() {
    let installation = rotated();
    let (code, text) = verify_files(&installation, &["audit.jsonl", "audit.1", "audit.2"], &[]);
    assert_eq!(code, Some(0), "{text}");
    let files: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(files, ["audit.2", "audit.1", "audit.jsonl"], "sorted by age: {text}");
}

#[test]
fn verify_finds_a_missing_file() {
    let installation = rotated();
    let (code, text) = verify_files(&installation, &["audit.jsonl", "audit.2"], &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("audit.jsonl: line 1: 3 lines before this line are missing"), "{text}");
    let head = installation.doorward(&["head", "audit.jsonl"]);
    std::fs::write(installation.path("heads"), head.stdout).expect("written");
    let (code, text) = verify_files(&installation, &["audit.2", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("audit.1: the end is cut off"), "{text}");
}

#[test]
fn verify_checks_the_first_line_of_a_later_file() {
    let installation = rotated();
    let changed = installation.text().replacen("alice", "mallo", 1);
    std::fs::write(installation.path("audit.jsonl"), changed).expect("written");
    let (code, text) =
        verify_files(&installation, &["audit.2", "audit.1", "audit.jsonl"], &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &report["intact"]), (Some(1), &false.into()), "{text}");
    let finding = "line 1: changed, or moved here from elsewhere";
    assert_eq!(report["files"][2]["findings"], serde_json::json!([finding]));
    let first = report["files"][2]["first"].to_string();
    let (code, text) = verify_files(&installation, &["audit.jsonl"], &["--from", &first]);
    assert!(code == Some(1) && text.contains(finding), "without the file before: {text}");
}

#[test]
fn verify_accepts_declared_deletions_only() {
    let installation = rotated();
    let (code, text) = verify_files(&installation, &["audit.jsonl", "audit.1"], &[]);
    assert!(
        code == Some(1) && text.contains("audit.1: line 1: lines 1 to 2 are missing"),
        "{text}"
    );
    let (code, text) = verify_files(&installation, &["audit.jsonl", "audit.1"], &["--from", "3"]);
    assert_eq!(code, Some(0), "{text}");
    let older = std::fs::read_to_string(installation.path("audit.1")).expect("the log");
    let shorter = older.split_inclusive('\n').skip(1).collect::<String>();
    std::fs::write(installation.path("audit.1"), shorter).expect("written");
    let (code, text) = verify_files(&installation, &["audit.jsonl", "audit.1"], &["--from", "3"]);
    assert!(code == Some(1) && text.contains("lines 3 to 3 are missing"), "{text}");
}

#[test]
fn verify_finds_a_deleted_log_with_a_kept_head() {
    let installation = Installation::new();
    installation.run(2);
    let head = installation.doorward(&["head", "audit.jsonl"]).stdout;
    std::fs::write(installation.path("heads"), &head).expect("written");
    std::fs::remove_file(installation.path("audit.jsonl")).expect("removed");
    installation.run(1);
    assert_eq!(
        verify_files(&installation, &["audit.jsonl"], &[]).0,
        Some(0),
        "a deletion needs a head"
    );
    let (code, text) = verify_files(&installation, &["audit.jsonl"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("line number 3 of the chain"), "{text}");
    let head = String::from_utf8(head).expect("text");
    let chain = head.split(' ').next().expect("a chain");
    let without_chain = ["--heads", "heads", "--without", chain];
    let (code, text) = verify_files(&installation, &["audit.jsonl"], &without_chain);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn an_unverifiable_last_line_is_not_continued() {
    let installation = Installation::new();
    let mac = "0".repeat(64);
    for seq in [0, 7, u64::MAX] {
        let line = format!(
            "{{\"event.action\":\"x\",\"doorward.chain\":\"c\",\"doorward.seq\":{seq},\"doorward.mac\":\"{mac}\"}}\n"
        );
        for before in ["", "torn\n"] {
            std::fs::write(installation.path("audit.jsonl"), before.to_owned() + &line)
                .expect("written");
            let refused =
                AuditLog::open(installation.path("audit.jsonl"), installation.key(), Clock::System);
            assert!(matches!(refused, Err(AuditFileError::Changed { .. })), "{seq}: {refused:?}");
        }
    }
}

#[test]
fn a_file_of_one_verifiable_line_is_continued() {
    let installation = Installation::new();
    installation.run(1);
    let text = installation.text();
    let last = text.split_inclusive('\n').next_back().expect("a line");
    std::fs::write(installation.path("audit.jsonl"), last).expect("written");
    installation.run(1);
    assert_eq!(actions(&installation.text()), ["session.login", "audit.started", "session.login"]);
    assert_eq!(verify_files(&installation, &["audit.jsonl"], &["--from", "2"]).0, Some(0));
}

#[test]
fn a_log_moved_away_while_stopped_starts_a_new_chain() {
    let installation = Installation::new();
    installation.run(2);
    let head = installation.doorward(&["head", "audit.jsonl"]);
    std::fs::write(installation.path("heads"), head.stdout).expect("written");
    std::fs::rename(installation.path("audit.jsonl"), installation.path("audit.1")).expect("moved");
    installation.run(1);
    let (code, text) =
        verify_files(&installation, &["audit.jsonl", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(0) && text.contains("a new chain starts"), "{text}");
    let old = std::fs::read_to_string(installation.path("audit.1")).expect("the old log");
    let kept: Vec<&str> = old.lines().take(2).collect();
    std::fs::write(installation.path("audit.1"), kept.join("\n") + "\n").expect("written");
    let (code, text) =
        verify_files(&installation, &["audit.jsonl", "audit.1"], &["--heads", "heads"]);
    assert!(code == Some(1) && text.contains("the end is cut off: line number 3"), "{text}");
}

/// A log of seven lines, its key, and its head.
fn seven() -> &'static (String, hmac::Key, Head) {
    static LOG: OnceLock<(String, hmac::Key, Head)> = OnceLock::new();
    LOG.get_or_init(|| {
        let installation = Installation::new();
        installation.run(6);
        let report = installation.report();
        assert_eq!((report.lines, &report.findings), (7, &vec![]));
        (installation.text(), installation.key(), report.last.expect("seven lines"))
    })
}

/// Verifies a log that starts at line `from`.
fn verify_from(from: u64, text: &[u8]) -> Vec<AuditFinding> {
    let (_, key, head) = seven();
    let known =
        VerifyOptions { heads: vec![head.clone()], first_seq: from, ..VerifyOptions::default() };
    let mut verifier = Verifier::new(key, &known);
    let mut findings = verifier.file(text).expect("memory").findings;
    findings.extend(verifier.finish());
    findings
}

proptest! {
    #[test]
    fn every_change_of_a_log_is_found(
        from in 1_u64..=7,
        at in any::<prop::sample::Index>(),
        length in 0_usize..900,
        put in prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..90)],
    ) {
        let older = usize::try_from(from).expect("few") - 1;
        let whole: String = seven().0.split_inclusive('\n').skip(older).collect();
        let whole = whole.into_bytes();
        prop_assert_eq!(verify_from(from, &whole), []);
        let at = at.index(whole.len() + 1);
        let rest = (at + length).min(whole.len());
        let changed = [&whole[..at], &put, &whole[rest..]].concat();
        // The line end of the last line is not covered by a MAC.
        let content = |text: &[u8]| text.strip_suffix(b"\n").unwrap_or(text).to_vec();
        prop_assert_eq!(verify_from(from, &changed).is_empty(), content(&changed) == content(&whole));
    }
}

#[test]
fn verify_names_the_missing_option() {
    let installation = Installation::new();
    let output = installation.doorward(&["verify", "audit.jsonl"]);
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
        assert!(std::time::Instant::now() < end, "timeout");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn show_filters_by_user_session_and_time() {
    let installation = Installation::new();
    let audit = installation.open();
    let now = Clock::System.now();
    let session = SessionId([7; 16]);
    let operator = Actor::Operator { uid: Some(0) };
    let context = EventContext {
        user: "alice",
        session: Some(session),
        actor: Some(&operator),
        ..EventContext::default()
    };
    let ago = |minutes: u64| now.minus(Duration::from_secs(minutes * 60));
    audit.record(SessionEvent::Login, &alice(), ago(180));
    audit.record(SessionEvent::Ended(EndReason::EndedByOperator), &context, ago(10));
    let bob = EventContext { user: "bob", ..EventContext::default() };
    audit.record(SessionEvent::Login, &bob, ago(5));
    let everyone = EventContext { user: "*", count: Some(4), ..context };
    let everyone = EventContext { session: None, ..everyone };
    audit.record(SessionEvent::UserRevoked(EndReason::EndedByOperator), &everyone, ago(1));
    audit.close();
    let show = |arguments: &[&str]| {
        let output = installation.doorward(&[&["show", "audit.jsonl"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = show(&["--user", "Alice", "--since", "1h"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let handle = session.handle();
    assert!(
        lines[0].contains("session.ended  ended-by-operator  user alice")
            && lines[0].ends_with(&format!("session {handle}  by operator  uid 0")),
        "{text}"
    );
    assert!(lines[1].contains("user.sessions-revoked") && lines[1].contains("count 4"), "{text}");
    assert_eq!(show(&["--user", "alice"]).lines().count(), 3);
    assert_eq!(show(&["--session", &handle]).lines().count(), 2);
    let json = show(&["--user", "bob", "--json", "--since", "6m"]);
    assert!(installation.text().contains(json.lines().next().expect("a line")));
    let missing = installation.doorward(&["show", "no-such-file"]);
    assert_eq!(missing.status.code(), Some(1));
}
