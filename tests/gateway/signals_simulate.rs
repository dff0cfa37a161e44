//! `doorward signals simulate` on an audit log that the gateway wrote in monitor mode.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::risk::{ATTACKER, ClientOrigin, HOME, RiskTest, VPN_ABROAD, verdict};

const CONFIG: &str = r#"
[server]
https = ["127.0.0.1:0"]
[[tls.certificate]]
cert = "cert.pem"
key = "key.pem"
[login.password]
users = "users.toml"
[[route]]
host = "app.test"
upstream = "http://127.0.0.1:3000"
access = "session"
"#;

/// The audit log of a month in monitor mode: alice travels, then an attacker uses her session from two locations.
struct RecordedMonth {
    directory: Arc<tempfile::TempDir>,
}

impl RecordedMonth {
    async fn watched() -> RecordedMonth {
        let mut scene = RiskTest::with("monitor").await;
        VPN_ABROAD.apply_to(&mut scene.alice);
        assert_eq!(verdict(&mut scene.alice).await, "admitted");
        scene.gateway.advance(Duration::from_secs(600));
        for origin in [ATTACKER, ClientOrigin("100.64.0.9", "python-requests/2.32")] {
            assert_eq!(verdict(&mut scene.attacker(origin)).await, "admitted");
        }
        let mut second = scene.new_profile(HOME).await;
        scene.gateway.advance(Duration::from_secs(600));
        ClientOrigin(HOME.0, "curl/8.5.0").apply_to(&mut second);
        assert_eq!(verdict(&mut second).await, "admitted");
        let recorded = RecordedMonth { directory: Arc::clone(&scene.gateway.directory) };
        scene.gateway.stop();
        recorded
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("audit.jsonl")
    }

    fn simulate(&self, files: &[&Path], signals: &str, more: &[&str]) -> String {
        let config = self.directory.path().join("tried.toml");
        std::fs::write(&config, format!("{CONFIG}[signals]\n{signals}")).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(["signals", "simulate"]).args(files).arg("--config").arg(&config).args(more);
        let out = command.output().expect("the program runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }

    fn report(&self, signals: &str) -> Value {
        let text = self.simulate(&[&self.log()], signals, &["--json"]);
        serde_json::from_str(&text).expect("JSON")
    }
}

#[tokio::test]
async fn simulation_counts_logins_and_stops_a_session_once() {
    let recorded = RecordedMonth::watched().await;
    let report = recorded.report("");
    assert_eq!(report["recorded"], serde_json::json!({"rotate": 2, "login": 2}), "{report:#}");
    assert_eq!(report["simulated"], serde_json::json!({"rotate": 2, "login": 1}), "{report:#}");
    assert_eq!((&report["after_stop"], &report["verified"]), (&1.into(), &false.into()));
    let stops = report["stops"].as_array().expect("a list");
    assert_eq!(stops.len(), 1, "{stops:#?}");
    assert_eq!(
        (&stops[0]["user"], &stops[0]["from"]),
        (&"alice".into(), &"203.0.113.9 AU curl/8.5.0".into())
    );
    assert_eq!(stops[0]["signals"]["browser"], 50);
    assert_eq!((&report["users_seen"], &report["user_days"]), (&1.into(), &1.into()));
    assert_eq!(report["per_1000_user_days"], 1_000.0);
    assert_eq!(
        (&report["users"][0]["user"], &report["days"][0]["users"]),
        (&"alice".into(), &1.into())
    );
}

#[tokio::test]
async fn simulation_applies_thresholds_and_allowed_networks() {
    let recorded = RecordedMonth::watched().await;
    let report = recorded.report("rotate_at = 101\nlogin_at = 102\n");
    assert_eq!(report["simulated"], serde_json::json!({"log": 4}), "{report:#}");
    assert_eq!(report["users_affected"], 0);
    let report =
        recorded.report("login_at = 50\nallow = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\n");
    assert_eq!(report["simulated"], serde_json::json!({"nothing": 1, "login": 2}), "{report:#}");
    for stop in report["stops"].as_array().expect("a list") {
        assert_eq!(
            stop["signals"],
            serde_json::json!({"browser": 50}),
            "of an office, software alone"
        );
    }
    let report = recorded.report("end_at = 60\n");
    assert_eq!(report["stops"][0]["action"], "end");
}

#[tokio::test]
async fn simulation_reads_rotated_files_and_names_bad_lines() {
    let recorded = RecordedMonth::watched().await;
    let text = std::fs::read_to_string(recorded.log()).expect("a log");
    let lines: Vec<&str> = text.lines().collect();
    let (first, second) = lines.split_at(4);
    let [older, newer] =
        ["older.jsonl", "newer.jsonl"].map(|name| recorded.directory.path().join(name));
    std::fs::write(&older, first.join("\n")).expect("written");
    std::fs::write(&newer, format!("\u{1b}[2Jtorn\n{}\n{{\"half\":", second.join("\n")))
        .expect("written");
    let simulate = recorded.simulate(&[&newer, &older], "", &[]);
    let bad = format!("{0}:1, {0}:{1}", newer.display(), second.len() + 2);
    assert!(simulate.contains(&bad), "{bad}\n{simulate}");
    for line in [
        "The audit log is not verified; use `doorward audit verify`.",
        "Scores below the log_at of that time were not logged and are missing here.",
        "Of 1 user in 1 day, 1 would have had to log in again or lost the session, 1 time in total: 1000 per 1,000 user-days (1).",
    ] {
        assert!(simulate.contains(line), "{line}\n{simulate}");
    }
    assert!(!simulate.contains('\u{1b}'));
    let whole: Value =
        serde_json::from_str(&recorded.simulate(&[&newer, &older], "", &["--json"])).expect("JSON");
    assert_eq!(whole["stops"], recorded.report("")["stops"], "the first attacker");
}
