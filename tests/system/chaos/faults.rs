//! The injected faults, and the effects on honest users that each one may have.

use std::time::Duration;

use crate::chaos::history::{AllowedEffects, Millis};
use crate::chaos::testbed::Testbed;
use test_support::fault_proxy::FaultMode;

/// An hour of session time.
const HOUR: i64 = 3_600_000;
/// The gateway that single-gateway faults affect.
const ONE: usize = 1;

/// An injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    // Network between all gateways and Redis.
    Reset,
    /// New connections are accepted and get no replies.
    ResetThenMute,
    HalfOpen,
    Jitter,
    LateReplies,
    RepliesHeld,
    RequestsHeld,
    Throttle,
    /// Between one gateway and Redis, for longer than the staleness bound of the cache.
    OneCutOff,
    // Redis.
    Stopped,
    Killed,
    ClientsKilled,
    ClientsPaused,
    Asleep,
    OutOfMemory,
    ReadOnly,
    Loading,
    NoAuth,
    /// All data is lost.
    Flushed,
    /// A disconnected replica becomes the master; writes that it missed are lost.
    Failover,
    // Redis with several servers.
    /// The sentinels fail over to another master on command.
    MasterChanged,
    MasterLost,
    PrimaryLost,
    // One gateway.
    GatewayKilled,
    GatewayRestarted,
    GatewayStopped,
    /// Suspended for a minute.
    GatewayAsleep,
    ClockAhead,
    ClockBehind,
}

/// Course of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// Ends with its injection.
    Momentary,
    /// Lasts until it is removed.
    UntilCleared,
    /// Lasts until it is removed; the store sends nothing in the meantime.
    BlocksStore,
}

pub const NETWORK: [Fault; 9] = [
    Fault::Reset,
    Fault::ResetThenMute,
    Fault::HalfOpen,
    Fault::OneCutOff,
    Fault::Jitter,
    Fault::LateReplies,
    Fault::RepliesHeld,
    Fault::RequestsHeld,
    Fault::Throttle,
];

pub const SERVER: [Fault; 9] = [
    Fault::Stopped,
    Fault::Killed,
    Fault::ClientsKilled,
    Fault::ClientsPaused,
    Fault::Asleep,
    Fault::OutOfMemory,
    Fault::ReadOnly,
    Fault::Loading,
    Fault::NoAuth,
];

pub const GATEWAY: [Fault; 5] = [
    Fault::GatewayKilled,
    Fault::GatewayRestarted,
    Fault::GatewayStopped,
    Fault::ClockAhead,
    Fault::ClockBehind,
];

pub const DATA_LOSS: [Fault; 2] = [Fault::Flushed, Fault::Failover];

pub const SENTINELS: [Fault; 2] = [Fault::MasterChanged, Fault::MasterLost];
pub const CLUSTER: [Fault; 1] = [Fault::PrimaryLost];

/// Faults of a gateway with an embedded store.
pub const EMBEDDED: [Fault; 3] =
    [Fault::GatewayKilled, Fault::GatewayRestarted, Fault::GatewayStopped];

/// Faults for real-time histories, in which cache lifetimes have their normal length.
pub const REAL_TIME: [Fault; 4] =
    [Fault::OneCutOff, Fault::HalfOpen, Fault::Stopped, Fault::GatewayStopped];
pub const ASLEEP: [Fault; 1] = [Fault::GatewayAsleep];

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Reset => "connections reset",
            Fault::ResetThenMute => "reset, new ones are mute",
            Fault::HalfOpen => "half-open connections",
            Fault::Jitter => "delay with jitter",
            Fault::LateReplies => "replies after the timeout",
            Fault::RepliesHeld => "replies held, then delivered",
            Fault::RequestsHeld => "requests held, then delivered",
            Fault::Throttle => "4 KiB/s",
            Fault::OneCutOff => "one gateway cut off",
            Fault::Stopped => "Redis SIGSTOP, SIGCONT",
            Fault::Killed => "Redis kill -9, restart",
            Fault::ClientsKilled => "CLIENT KILL",
            Fault::ClientsPaused => "CLIENT PAUSE",
            Fault::Asleep => "DEBUG SLEEP",
            Fault::OutOfMemory => "maxmemory reached",
            Fault::ReadOnly => "READONLY",
            Fault::Loading => "LOADING",
            Fault::NoAuth => "NOAUTH",
            Fault::Flushed => "FLUSHALL",
            Fault::Failover => "failover to a partitioned replica",
            Fault::MasterChanged => "sentinels change the master",
            Fault::MasterLost => "sentinels, master kill -9",
            Fault::PrimaryLost => "cluster, primary kill -9",
            Fault::GatewayKilled => "gateway kill -9, restart",
            Fault::GatewayRestarted => "gateway restarted",
            Fault::GatewayStopped => "gateway SIGSTOP, SIGCONT",
            Fault::GatewayAsleep => "gateway SIGSTOP for 60 s",
            Fault::ClockAhead => "clock of one gateway +1 h",
            Fault::ClockBehind => "clock of one gateway -1 h",
        }
    }

    /// Returns the effects that this fault may have on honest users.
    pub fn allowed(self) -> AllowedEffects {
        let none = AllowedEffects::default();
        match self {
            Fault::Reset
            | Fault::ResetThenMute
            | Fault::HalfOpen
            | Fault::LateReplies
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::Throttle
            | Fault::OneCutOff
            | Fault::Stopped
            | Fault::Killed
            | Fault::ClientsKilled
            | Fault::ClientsPaused
            | Fault::Asleep
            | Fault::OutOfMemory
            | Fault::ReadOnly
            | Fault::Loading
            | Fault::NoAuth => AllowedEffects { unavailable: true, ..none },
            Fault::Jitter => none,
            Fault::Flushed => AllowedEffects { data_loss: true, ..none },
            Fault::Failover | Fault::MasterChanged | Fault::MasterLost | Fault::PrimaryLost => {
                AllowedEffects { unavailable: true, data_loss: true, ..none }
            }
            Fault::GatewayKilled
            | Fault::GatewayRestarted
            | Fault::GatewayStopped
            | Fault::GatewayAsleep => AllowedEffects { gateway_down: true, ..none },
            Fault::ClockAhead | Fault::ClockBehind => AllowedEffects { wrong_clock: true, ..none },
        }
    }

    /// Returns the only affected gateway; `None` if all are.
    pub fn gateway(self) -> Option<usize> {
        let is_one = matches!(
            self,
            Fault::OneCutOff
                | Fault::GatewayKilled
                | Fault::GatewayRestarted
                | Fault::GatewayStopped
                | Fault::GatewayAsleep
                | Fault::ClockAhead
                | Fault::ClockBehind
        );
        is_one.then_some(ONE)
    }

    /// Returns the duration of the fault for a requested duration.
    pub fn duration(self, requested: Duration) -> Duration {
        // Longer than the staleness bound plus the time of stale reads.
        let cut_off = (self == Fault::OneCutOff).then_some(Duration::from_millis(5_500));
        let asleep = (self == Fault::GatewayAsleep).then_some(Duration::from_mins(1));
        cut_off.or(asleep).map_or(requested, |least| requested.max(least))
    }

    fn course(self) -> FaultKind {
        match self {
            Fault::Reset
            | Fault::ResetThenMute
            | Fault::HalfOpen
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::OneCutOff
            | Fault::Stopped
            | Fault::Killed => FaultKind::BlocksStore,
            Fault::Jitter
            | Fault::LateReplies
            | Fault::Throttle
            | Fault::ClientsPaused
            | Fault::OutOfMemory
            | Fault::ReadOnly
            | Fault::NoAuth
            | Fault::GatewayKilled
            | Fault::GatewayStopped
            | Fault::GatewayAsleep
            | Fault::ClockAhead
            | Fault::ClockBehind => FaultKind::UntilCleared,
            Fault::ClientsKilled
            | Fault::Asleep
            | Fault::Loading
            | Fault::Flushed
            | Fault::Failover
            | Fault::MasterChanged
            | Fault::MasterLost
            | Fault::PrimaryLost
            | Fault::GatewayRestarted => FaultKind::Momentary,
        }
    }

    /// Injects the fault, waits and removes it. Returns the time until which the store was silent, for faults that
    /// silence it.
    pub async fn inject(self, testbed: &Testbed, lasts: Duration) -> Option<Millis> {
        self.begin(testbed, lasts).await;
        let course = self.course();
        if course != FaultKind::Momentary {
            tokio::time::sleep(lasts).await;
        }
        let lifted = testbed.now();
        self.over(testbed).await;
        (course == FaultKind::BlocksStore).then_some(lifted)
    }

    async fn begin(self, testbed: &Testbed, lasts: Duration) {
        let network = |mode| testbed.backend.redis().all_links(mode);
        let seconds = lasts.as_secs_f64();
        match self {
            Fault::Reset => network(FaultMode::Reset),
            Fault::ResetThenMute => network(FaultMode::AcceptSilently),
            Fault::HalfOpen => network(FaultMode::Blackhole),
            Fault::Jitter => {
                network(FaultMode::Jitter(Duration::from_millis(1), Duration::from_millis(40)));
            }
            Fault::LateReplies => network(FaultMode::LateReplies(Duration::from_millis(450))),
            Fault::RepliesHeld => network(FaultMode::HoldReplies),
            Fault::RequestsHeld => network(FaultMode::HoldRequests),
            Fault::Throttle => network(FaultMode::Throttle(4_096)),
            Fault::OneCutOff => testbed.backend.redis().link(ONE, FaultMode::Blackhole),
            Fault::Stopped => testbed.backend.redis().master(|redis| redis.pause()).await,
            Fault::Killed => testbed.backend.redis().master(|redis| redis.kill()).await,
            Fault::ClientsKilled => kill_clients(testbed, lasts).await,
            Fault::ClientsPaused => {
                testbed
                    .backend
                    .redis()
                    .command_master(format!("CLIENT PAUSE {} ALL", lasts.as_millis()))
                    .await;
            }
            Fault::Asleep => {
                let text = format!("DEBUG SLEEP {seconds}");
                testbed.backend.redis().command_busy_master(text, lasts).await;
            }
            Fault::OutOfMemory => {
                testbed.backend.redis().command_master("CONFIG SET maxmemory 1".to_owned()).await
            }
            Fault::ReadOnly => {
                testbed.backend.redis().command_master("REPLICAOF 127.0.0.1 1".to_owned()).await
            }
            Fault::Loading => load_slowly(testbed, lasts).await,
            Fault::NoAuth => {
                let text = "CONFIG SET requirepass chaos\r\nCLIENT KILL TYPE normal";
                testbed.backend.redis().command_master(text.to_owned()).await;
            }
            Fault::Flushed => {
                testbed.backend.redis().command_master("FLUSHALL".to_owned()).await;
            }
            Fault::Failover => testbed.backend.redis().fail_over(lasts).await,
            Fault::MasterChanged | Fault::MasterLost => {
                testbed.backend.change_master(self == Fault::MasterLost).await;
            }
            Fault::PrimaryLost => testbed.backend.kill_primary().await,
            Fault::GatewayKilled => testbed.gateway(ONE, |gateway| gateway.kill()).await,
            Fault::GatewayRestarted => {
                testbed
                    .gateway(ONE, |gateway| {
                        gateway.stop_gracefully();
                        gateway.restart();
                    })
                    .await;
            }
            Fault::GatewayStopped | Fault::GatewayAsleep => {
                testbed.gateway(ONE, |gateway| gateway.signal("-STOP")).await
            }
            Fault::ClockAhead => testbed.gateway(ONE, |gateway| gateway.skew(HOUR)).await,
            Fault::ClockBehind => testbed.gateway(ONE, |gateway| gateway.skew(-HOUR)).await,
        }
    }

    async fn over(self, testbed: &Testbed) {
        match self {
            Fault::Reset
            | Fault::ResetThenMute
            | Fault::HalfOpen
            | Fault::Jitter
            | Fault::LateReplies
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::Throttle
            | Fault::OneCutOff => testbed.backend.redis().all_links(FaultMode::Pass),
            Fault::Stopped => testbed.backend.redis().master(|redis| redis.resume()).await,
            Fault::Killed => testbed.backend.redis().master(|redis| redis.restart()).await,
            Fault::OutOfMemory => {
                testbed.backend.redis().command_master("CONFIG SET maxmemory 0".to_owned()).await
            }
            Fault::ReadOnly => {
                testbed.backend.redis().command_master("REPLICAOF NO ONE".to_owned()).await
            }
            Fault::NoAuth => {
                let text = "AUTH chaos\r\nCONFIG SET requirepass \"\"";
                testbed.backend.redis().command_master(text.to_owned()).await;
            }
            Fault::GatewayKilled => testbed.gateway(ONE, |gateway| gateway.restart()).await,
            Fault::GatewayStopped | Fault::GatewayAsleep => {
                testbed.gateway(ONE, |gateway| gateway.signal("-CONT")).await;
            }
            Fault::ClockAhead | Fault::ClockBehind => {
                testbed.gateway(ONE, |gateway| gateway.skew(0)).await;
            }
            Fault::ClientsKilled
            | Fault::ClientsPaused
            | Fault::Asleep
            | Fault::Loading
            | Fault::Flushed
            | Fault::Failover
            | Fault::MasterChanged
            | Fault::MasterLost
            | Fault::PrimaryLost
            | Fault::GatewayRestarted => {}
        }
    }
}

async fn kill_clients(testbed: &Testbed, lasts: Duration) {
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        testbed.backend.redis().command_master("CLIENT KILL TYPE normal".to_owned()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

/// Makes Redis reload its data slowly; it replies LOADING until then.
async fn load_slowly(testbed: &Testbed, lasts: Duration) {
    let keys = 2_000;
    let delay = lasts.as_micros() / keys;
    let text = format!(
        "DEBUG POPULATE {keys} ballast 100\r\nCONFIG SET loading-process-events-interval-bytes 1024\r\n\
         CONFIG SET key-load-delay {delay}\r\nDEBUG RELOAD\r\nCONFIG SET key-load-delay 0"
    );
    testbed.backend.redis().command_busy_master(text, lasts).await;
}
