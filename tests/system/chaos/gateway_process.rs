//! Gateways as processes of their own, so that they can be killed, stopped and set to a wrong clock.
//!
//! A gateway is this test program started again. It ends when its standard input does, so none is left
//! behind whatever becomes of the test.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorward::app;
use doorward::clock::{Clock, UnixMillis};
use doorward::config::Config;

const CONFIG: &str = "DOORWARD_CHAOS_CONFIG";
const EPOCH: &str = "DOORWARD_CHAOS_EPOCH";
const SCALE: &str = "DOORWARD_CHAOS_SCALE";
/// The ignored test that is a gateway.
const CHILD: &str = "chaos::gateway_process";
const READY: &str = "chaos-ready ";

/// The time of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTime {
    /// At the beginning of the history.
    pub epoch: u64,
    /// Its milliseconds in one of the history.
    pub scale: u64,
}

/// One gateway, running or not.
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

/// Unix time in milliseconds.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl GatewayProcess {
    /// A gateway on this configuration.
    pub fn start(config: PathBuf, socket: PathBuf, time: SessionTime) -> GatewayProcess {
        let (process, address) = (Mutex::default(), Mutex::default());
        let member = GatewayProcess { config, socket, time, process, address };
        member.restart();
        member
    }

    /// Where it listens; another port after each start.
    pub fn address(&self) -> Option<SocketAddr> {
        *lock(&self.address)
    }

    /// Starts it again; what runs is killed before.
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
        *lock(&self.process) = Some(Process { child, stdin });
        let mut lines = stdout.lines().map_while(Result::ok);
        // The test harness writes on the same line before us.
        let ready = lines.find_map(|line| Some(line.split_once(READY)?.1.to_owned()));
        let ready = ready.unwrap_or_else(|| panic!("no gateway: {}", self.log()));
        *lock(&self.address) = Some(ready.parse().expect("an address"));
        std::thread::spawn(move || lines.count());
    }

    /// kill -9.
    pub fn kill(&self) {
        *lock(&self.address) = None;
        drop(lock(&self.process).take());
    }

    /// As after SIGTERM: what is under way may end.
    pub fn stop_gracefully(&self) {
        self.send_command("stop");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let mut process = lock(&self.process);
        while let Some(running) = process.as_mut() {
            match running.child.try_wait().expect("a child of ours") {
                Some(_) => *process = None,
                None => assert!(std::time::Instant::now() < deadline, "it does not stop"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *lock(&self.address) = None;
    }

    /// Stops the process without ending it, or lets it go on.
    pub fn signal(&self, name: &str) {
        let process = lock(&self.process);
        let id = process.as_ref().expect("a running gateway").child.id().to_string();
        let status = Command::new("kill").args([name, &id]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Sets its clock this many milliseconds of session time wrong.
    pub fn skew(&self, offset: i64) {
        self.send_command(&format!("skew {offset}"));
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    fn send_command(&self, line: &str) {
        if let Some(process) = lock(&self.process).as_mut() {
            writeln!(process.stdin, "{line}").expect("the gateway listens");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the child does: a gateway until standard input says otherwise.
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

/// Session time, the same in every gateway of a history.
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
