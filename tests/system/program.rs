//! The doorward binary: long-running processes, killed when dropped, and commands.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running process. Its output goes to files.
pub struct Program {
    pub directory: Arc<TempDir>,
    child: Child,
}

impl Program {
    /// Starts `doorward run` with this configuration in a prepared directory.
    pub fn run(configuration: &str, directory: Arc<TempDir>, level: &str) -> Program {
        let config = write_configuration(configuration, &directory);
        let arguments = [OsStr::new("run"), OsStr::new("--config"), config.as_os_str()];
        Program::start(arguments, directory, level)
    }

    /// Starts `doorward run` with a listening socket, as systemd passes it. A shell moves the socket from
    /// standard input to the descriptor that systemd uses.
    pub fn with_socket(configuration: &str, directory: Arc<TempDir>, socket: OwnedFd) -> Program {
        let config = write_configuration(configuration, &directory);
        let script =
            r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" run --config "$1""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_doorward")]).arg(config).stdin(socket);
        Program::spawn(command, directory, "info")
    }

    /// Starts `doorward run` with a socket for notifications of the service manager.
    pub fn notifying(configuration: &str, directory: Arc<TempDir>, socket: &Path) -> Program {
        let config = write_configuration(configuration, &directory);
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.arg("run").arg("--config").arg(config).env("NOTIFY_SOCKET", socket);
        Program::spawn(command, directory, "info")
    }

    /// Starts `doorward run` within another program, such as valgrind.
    pub fn run_under(wrapper: &[&str], configuration: &str, directory: Arc<TempDir>) -> Program {
        let config = write_configuration(configuration, &directory);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_doorward")).stdin(Stdio::null());
        command.arg("run").arg("--config").arg(config);
        Program::spawn(command, directory, "info")
    }

    /// Starts a long-running command; `directory` also holds its temporary files.
    pub fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        directory: Arc<TempDir>,
        level: &str,
    ) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(arguments).stdin(Stdio::null());
        Program::spawn(command, directory, level)
    }

    fn spawn(mut command: Command, directory: Arc<TempDir>, level: &str) -> Program {
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file");
        let child = command
            .env("DOORWARD_LOG", level)
            .env("TMPDIR", directory.path())
            .stdout(file("out"))
            .stderr(file("log"))
            .spawn()
            .expect("the program starts");
        Program { directory, child }
    }

    /// Returns the process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the standard error output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    /// Returns the HTTPS address; the log format must be JSON.
    pub fn address(&self) -> SocketAddr {
        let line = self.wait_for_line("the listener", |line| {
            line["event"] == "gateway.listening" && line["scheme"] == "https"
        });
        line["address"].as_str().expect("an address").parse().expect("an address")
    }

    /// Waits for an entry of a JSON log.
    pub fn wait_for_line(
        &self,
        what: &str,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        self.wait_for(what, || {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(&wanted)
        })
    }

    /// Polls for at most half a minute.
    pub fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(found) = check() {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what} in:\n{}\n{}", self.stdout(), self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, as in `-TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Waits for the process to exit and returns its exit code.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.wait_for_exit()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}

fn write_configuration(text: &str, directory: &TempDir) -> PathBuf {
    let path = directory.path().join("doorward.toml");
    std::fs::write(&path, text).expect("written");
    path
}

/// Output and exit status of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Asserts success and returns the standard output.
    pub fn expect_success(self) -> String {
        assert_eq!(self.status.code(), Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts that standard output is empty; returns the exit code and the standard error output.
    pub fn expect_failure(self) -> (i32, String) {
        assert_eq!(self.stdout, "", "a failure writes to standard error");
        (self.status.code().expect("no signal"), self.stderr)
    }
}

/// Runs a command in `directory` with `input` on standard input.
pub fn command(directory: &Path, arguments: &[&str], input: &str) -> CommandOutput {
    let path = directory.join(format!("input-{}", std::process::id()));
    std::fs::write(&path, input).expect("written");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(arguments)
        .current_dir(directory)
        .stdin(File::open(&path).expect("readable"))
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    CommandOutput { status, stdout: text(stdout), stderr: text(stderr) }
}
