//! The command channel: messages on standard input, with a time limit.

use doorward::notify::{RetryPolicy, Settings};
use doorward::secret::SigningSecret;
use serde_json::Value;
use tempfile::TempDir;

use super::SECRET;
use super::notifying_gateway::{NotifyingGateway, notify_config, until};
use super::receivers::{ACCEPTS, Receiver};
use test_support::gateway::prepare_directory;

fn shell(script: &str, directory: &TempDir) -> String {
    let script = script.replace("$DIR", &directory.path().display().to_string());
    format!(
        "command = [\"/bin/sh\", \"-c\", '''{script}''', \"x\", '''$(touch {}/ran)''']",
        directory.path().display()
    )
}

#[test]
fn command_gets_the_message_without_environment_or_shell() {
    let directory = prepare_directory();
    let script = "cat > $DIR/body; printf %s \"$1\" > $DIR/argument; env > $DIR/env";
    let notifier = NotifyingGateway::start(notify_config(&directory, &shell(script, &directory)));
    notifier.theft(1, "a\"\n$(touch x)`id`");
    assert_eq!(notifier.close(), [1, 0, 0, 0]);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
    let message: Value = serde_json::from_str(&read("body")).expect("JSON");
    assert_eq!(message["user.name"], "a\"\n$(touch x)`id`");
    assert!(read("argument").starts_with("$(touch "));
    assert!(!directory.path().join("ran").exists());
    let env = read("env");
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // Set by the shell itself.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["PATH", "WEBHOOK_ID", "WEBHOOK_SIGNATURE", "WEBHOOK_TIMESTAMP"]);
    let of = |name: &str| {
        let line = env.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.expect(name).to_owned()
    };
    let secret = SigningSecret::parse(SECRET).expect("a secret");
    let seconds = of("WEBHOOK_TIMESTAMP").parse().expect("a number");
    let signed = secret.sign(&of("WEBHOOK_ID"), seconds, read("body").as_bytes());
    assert_eq!(of("WEBHOOK_SIGNATURE"), signed);
}

#[test]
fn hanging_command_is_killed_with_its_children() {
    let directory = prepare_directory();
    let script = "sleep 600 & echo $! $$ > $DIR/pids.new; mv $DIR/pids.new $DIR/pids; wait";
    let notify = format!("{}\ntimeout = \"3s\"", shell(script, &directory));
    let settings = notify_config(&directory, &notify);
    let notifier = NotifyingGateway::start(Settings {
        retry: RetryPolicy { attempts: 1, ..settings.retry },
        ..settings
    });
    notifier.theft(1, "alice");
    let pids = until("process", || std::fs::read_to_string(directory.path().join("pids")).ok());
    assert!(pids.split_whitespace().all(is_alive), "{pids}");
    assert_eq!(notifier.close(), [0, 1, 0, 0]);
    until("end of them", || (!pids.split_whitespace().any(is_alive)).then_some(()));
}

/// Returns true if the process runs; a killed process can remain as a zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn failed_command_is_retried_and_unread_stdin_is_allowed() {
    let directory = prepare_directory();
    let script = "echo x >> $DIR/runs; test $(wc -l < $DIR/runs) = 3";
    let notifier = NotifyingGateway::start(notify_config(&directory, &shell(script, &directory)));
    notifier.theft(1, "alice");
    assert_eq!(notifier.close(), [1, 0, 0, 0]);
    let notifier = NotifyingGateway::start(notify_config(&directory, "command = [\"/bin/false\"]"));
    notifier.theft(1, "alice");
    assert_eq!(notifier.close(), [0, 1, 0, 0]);
}

#[test]
fn both_channels_deliver_and_count_separately() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ACCEPTS]);
    let notify = format!("{}\ncommand = [\"/bin/false\"]", receiver.webhook());
    let notifier = NotifyingGateway::start(notify_config(&directory, &notify));
    notifier.theft(1, "alice");
    assert_eq!((notifier.close(), receiver.rest()), ([1, 1, 0, 0], 1));
}
