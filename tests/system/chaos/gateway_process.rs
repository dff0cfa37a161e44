//! Gateways in separate processes, which can be killed, suspended and given a wrong clock.
//!
//! A gateway process is the test binary started again. It exits when its standard input closes, so no process
//! outlives the test.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorward::app;
use doorward::clock::{Clock, UnixMillis};
use doorward::config::Config;
use parking_lot::Mutex;

const CONFIG: &str = "DOORWARD_CHAOS_CONFIG";
const EPOCH: &str = "DOORWARD_CHAOS_EPOCH";
const SCALE: &str = "DOORWARD_CHAOS_SCALE";
/// Name of the ignored test that runs a gateway.
const CHILD: &str = "chaos::gateway_process";
const READY: &str = "chaos-ready ";

/// The clock of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTime {
    /// Unix time at the start of the history, in milliseconds.
    pub epoch: u64,
    /// Milliseconds of session time per millisecond of history.
    pub scale: u64,
}

/// A gateway process, running or not.
pub struct GatewayProcess {
    config: PathBuf,
    pub socket: PathBuf,
    time: SessionTime,
    process: Mutex<Option<Process>>,
    address: Mutex<Option<SocketAddr>>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the Unix time in milliseconds.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl GatewayProcess {
    /// Starts a gateway with this configuration.
    pub fn start(config: PathBuf, socket: PathBuf, time: SessionTime) -> GatewayProcess {
        let (process, address) = (Mutex::default(), Mutex::default());
        let member = GatewayProcess { config, socket, time, process, address };
        member.restart();
        member
    }

    /// Returns the listening address, which changes with each start; `None` while stopped.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.address.lock()
    }

    /// Kills the process, if running, and starts a new one.
    pub fn restart(&self) {
        self.kill();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", CHILD, "--ignored", "--nocapture"]);
        let SessionTime { epoch, scale } = self.time;
        command.env(CONFIG, &self.config);
        command.env(EPOCH, epoch.to_string()).env(SCALE, scale.to_string());
        let log = std::fs::File::create(self.config.with_extension("log")).expect("a log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("this program starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        *self.process.lock() = Some(Process { child, stdin });
        let mut lines = stdout.lines().map_while(Result::ok);
        // The test harness writes its own text on the same line.
        let ready = lines.find_map(|line| Some(line.split_once(READY)?.1.to_owned()));
        let ready = ready.unwrap_or_else(|| panic!("no gateway: {}", self.log()));
        *self.address.lock() = Some(ready.parse().expect("an address"));
        std::thread::spawn(move || lines.count());
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&self) {
        *self.address.lock() = None;
        drop(self.process.lock().take());
    }

    /// Shuts down gracefully, as after SIGTERM.
    pub fn stop_gracefully(&self) {
        self.send_command("stop");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let mut process = self.process.lock();
        while let Some(running) = process.as_mut() {
            match running.child.try_wait().expect("a child of ours") {
                Some(_) => *process = None,
                None => assert!(std::time::Instant::now() < deadline, "it does not stop"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.address.lock() = None;
    }

    /// Sends a signal, such as STOP or CONT.
    pub fn signal(&self, name: &str) {
        let process = self.process.lock();
        let id = process.as_ref().expect("a running gateway").child.id().to_string();
        let status = Command::new("kill").args([name, &id]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Shifts the clock by this many milliseconds of session time.
    pub fn skew(&self, offset: i64) {
        self.send_command(&format!("skew {offset}"));
    }

    /// Returns the standard error output.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    fn send_command(&self, line: &str) {
        if let Some(process) = self.process.lock().as_mut() {
            writeln!(process.stdin, "{line}").expect("the gateway listens");
        }
    }
}

/// Runs a gateway in the child process until standard input closes.
pub fn run_gateway() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let [epoch, scale] = [EPOCH, SCALE].map(|name| number(name).expect("a number"));
    let (config, _) = match Config::load(config.as_ref()) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems}"),
    };
    let skew = Arc::new(AtomicU64::new(0));
    let clock = clock(SessionTime { epoch, scale }, Arc::clone(&skew));
    let running = app::start(config, clock, None).expect("the gateway starts");
    println!("{READY}{}", running.https[0]);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("skew", offset)) => {
                let offset: i64 = offset.parse().expect("a number");
                skew.store(offset.cast_unsigned(), Ordering::SeqCst);
            }
            _ => break,
        }
    }
    running.stop();
}

/// Returns a clock with session time, which is the same in every gateway.
fn clock(time: SessionTime, skew: Arc<AtomicU64>) -> Clock {
    let clock = Clock::manual(UnixMillis(time.now()));
    let Clock::Manual(hand) = clock.clone() else { return clock };
    std::thread::spawn(move || {
        loop {
            let now = time.now().wrapping_add(skew.load(Ordering::SeqCst));
            hand.store(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    clock
}

impl SessionTime {
    fn now(self) -> u64 {
        self.epoch + unix_millis().saturating_sub(self.epoch) * self.scale
    }
}
