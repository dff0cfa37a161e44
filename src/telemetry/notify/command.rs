//! A program that is told: the message on standard input, nothing of ours in its environment.

use std::fmt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{self, Child};

use super::channel::{DeliveryError, Stderr};
use super::message::SignedMessage;
use crate::config::NotifyCommand;

pub(super) struct Command(pub(super) NotifyCommand);

impl Command {
    /// Exit code 0 says that it was told. Cancelled, it kills the program and all that it started.
    pub(super) async fn run(
        &self,
        message: &SignedMessage,
        stderr: Stderr,
    ) -> Result<String, DeliveryError> {
        let mut group = Group(self.start(message, stderr).map_err(DeliveryError::Start)?);
        if let Some(mut input) = group.0.stdin.take() {
            // Who does not read to the end says by its exit code whether that was all right.
            input.write_all(&message.body).await.unwrap_or_default();
        }
        let status = group.0.wait().await.map_err(DeliveryError::Start)?;
        if status.success() {
            Ok(status.to_string())
        } else {
            Err(DeliveryError::ExitStatus(status))
        }
    }

    fn start(&self, message: &SignedMessage, stderr: Stderr) -> std::io::Result<Child> {
        let NotifyCommand { program, arguments } = &self.0;
        let mut command = process::Command::new(program);
        command.args(arguments).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("WEBHOOK_ID", &message.id).env("WEBHOOK_TIMESTAMP", &message.timestamp);
        if let Some(signature) = &message.signature {
            command.env("WEBHOOK_SIGNATURE", signature);
        }
        let complaints = match stderr {
            Stderr::Discard => Stdio::null(),
            Stderr::Inherit => Stdio::inherit(),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(complaints);
        command.process_group(0).kill_on_drop(true).spawn()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.program.display().fmt(f)
    }
}

/// The program as the first of its process group. While nobody has waited for its end, the group's
/// number is its own and nobody else's.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It fails only when all of it is gone.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }
}
