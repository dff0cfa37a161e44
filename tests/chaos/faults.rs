//! Everything that goes wrong, how it is brought about, and what it may cost honest people.

use std::time::Duration;

use crate::history::May;
use crate::proxy::Mode;
use crate::world::World;

/// An hour of session time.
const HOUR: i64 = 3_600_000;
/// The gateway that is cut off, killed, stopped or wrong alone.
const ONE: usize = 1;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    // The network between all gateways and Redis.
    Reset,
    HalfOpen,
    Jitter,
    LateReplies,
    RepliesHeld,
    RequestsHeld,
    Throttle,
    /// Between one gateway and Redis, for longer than anything may be believed unheard.
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
    /// Everything is gone.
    Flushed,
    /// A replica that was cut off becomes the master: what it did not hear of is gone.
    Failover,
    // A Redis of several servers.
    /// The sentinels are told to choose another master.
    MasterChanged,
    MasterLost,
    PrimaryLost,
    // One gateway.
    GatewayKilled,
    GatewayRestarted,
    GatewayStopped,
    ClockAhead,
    ClockBehind,
}

pub const NETWORK: [Fault; 8] = [
    Fault::Reset,
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

pub const LOSS: [Fault; 2] = [Fault::Flushed, Fault::Failover];

pub const SENTINELS: [Fault; 2] = [Fault::MasterChanged, Fault::MasterLost];
pub const CLUSTER: [Fault; 1] = [Fault::PrimaryLost];

/// What can happen to a gateway with a store of its own.
pub const ALONE: [Fault; 3] =
    [Fault::GatewayKilled, Fault::GatewayRestarted, Fault::GatewayStopped];

impl Fault {
    pub fn word(self) -> &'static str {
        match self {
            Fault::Reset => "connections reset",
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
            Fault::ClockAhead => "clock of one gateway +1 h",
            Fault::ClockBehind => "clock of one gateway -1 h",
        }
    }

    /// What is excused. A fault that is not named in a line of this excuses nothing.
    pub fn may(self) -> May {
        let none = May::default();
        match self {
            Fault::Reset
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
            | Fault::NoAuth => May { refuse: true, ..none },
            Fault::Jitter => none,
            Fault::Flushed => May { lose_writes: true, ..none },
            Fault::Failover | Fault::MasterChanged | Fault::MasterLost | Fault::PrimaryLost => {
                May { refuse: true, lose_writes: true, ..none }
            }
            Fault::GatewayKilled | Fault::GatewayRestarted | Fault::GatewayStopped => {
                May { silence: true, ..none }
            }
            Fault::ClockAhead | Fault::ClockBehind => May { bend_time: true, ..none },
        }
    }

    /// The only gateway that notices.
    pub fn gateway(self) -> Option<usize> {
        match self {
            Fault::OneCutOff
            | Fault::GatewayKilled
            | Fault::GatewayRestarted
            | Fault::GatewayStopped
            | Fault::ClockAhead
            | Fault::ClockBehind => Some(ONE),
            Fault::Reset
            | Fault::HalfOpen
            | Fault::Jitter
            | Fault::LateReplies
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::Throttle
            | Fault::Stopped
            | Fault::Killed
            | Fault::ClientsKilled
            | Fault::ClientsPaused
            | Fault::Asleep
            | Fault::OutOfMemory
            | Fault::ReadOnly
            | Fault::Loading
            | Fault::NoAuth
            | Fault::Flushed
            | Fault::Failover
            | Fault::MasterChanged
            | Fault::MasterLost
            | Fault::PrimaryLost => None,
        }
    }

    /// Brings it about, lets it last, and takes it away.
    pub async fn happen(self, world: &World, lasts: Duration) {
        let rest = || tokio::time::sleep(lasts);
        let network = |mode| world.backend.redis().all_links(mode);
        let seconds = lasts.as_secs_f64();
        match self {
            Fault::Reset => network(Mode::Reset),
            Fault::HalfOpen => network(Mode::Swallow),
            Fault::Jitter => {
                network(Mode::Jitter(Duration::from_millis(1), Duration::from_millis(40)));
            }
            Fault::LateReplies => network(Mode::LateReplies(Duration::from_millis(450))),
            Fault::RepliesHeld => network(Mode::HoldReplies),
            Fault::RequestsHeld => network(Mode::HoldRequests),
            Fault::Throttle => network(Mode::Throttle(4_096)),
            Fault::OneCutOff => world.backend.redis().link(ONE, Mode::Swallow),
            Fault::Stopped => world.backend.redis().master(|redis| redis.pause()).await,
            Fault::Killed => world.backend.redis().master(|redis| redis.kill()).await,
            Fault::ClientsKilled => return kill_clients(world, lasts).await,
            Fault::ClientsPaused => {
                world
                    .backend
                    .redis()
                    .tell_master(format!("CLIENT PAUSE {} ALL", lasts.as_millis()))
                    .await;
            }
            Fault::Asleep => {
                return world.backend.redis().tell_master(format!("DEBUG SLEEP {seconds}")).await;
            }
            Fault::OutOfMemory => {
                world.backend.redis().tell_master("CONFIG SET maxmemory 1".to_owned()).await
            }
            Fault::ReadOnly => {
                world.backend.redis().tell_master("REPLICAOF 127.0.0.1 1".to_owned()).await
            }
            Fault::Loading => return load_slowly(world, lasts).await,
            Fault::NoAuth => {
                let text = "CONFIG SET requirepass chaos\r\nCLIENT KILL TYPE normal";
                world.backend.redis().tell_master(text.to_owned()).await;
            }
            Fault::Flushed => {
                return world.backend.redis().tell_master("FLUSHALL".to_owned()).await;
            }
            Fault::Failover => return world.backend.redis().fail_over(lasts).await,
            Fault::MasterChanged => return world.backend.change_master(false).await,
            Fault::MasterLost => return world.backend.change_master(true).await,
            Fault::PrimaryLost => return world.backend.lose_primary().await,
            Fault::GatewayKilled => world.gateway(ONE, |gateway| gateway.kill()).await,
            Fault::GatewayRestarted => {
                return world
                    .gateway(ONE, |gateway| {
                        gateway.stop_gently();
                        gateway.restart();
                    })
                    .await;
            }
            Fault::GatewayStopped => world.gateway(ONE, |gateway| gateway.signal("-STOP")).await,
            Fault::ClockAhead => world.gateway(ONE, |gateway| gateway.skew(HOUR)).await,
            Fault::ClockBehind => world.gateway(ONE, |gateway| gateway.skew(-HOUR)).await,
        }
        rest().await;
        self.over(world).await;
    }

    async fn over(self, world: &World) {
        match self {
            Fault::Reset
            | Fault::HalfOpen
            | Fault::Jitter
            | Fault::LateReplies
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::Throttle
            | Fault::OneCutOff => world.backend.redis().all_links(Mode::Pass),
            Fault::Stopped => world.backend.redis().master(|redis| redis.resume()).await,
            Fault::Killed => world.backend.redis().master(|redis| redis.restart()).await,
            Fault::OutOfMemory => {
                world.backend.redis().tell_master("CONFIG SET maxmemory 0".to_owned()).await
            }
            Fault::ReadOnly => {
                world.backend.redis().tell_master("REPLICAOF NO ONE".to_owned()).await
            }
            Fault::NoAuth => {
                let text = "AUTH chaos\r\nCONFIG SET requirepass \"\"";
                world.backend.redis().tell_master(text.to_owned()).await;
            }
            Fault::GatewayKilled => world.gateway(ONE, |gateway| gateway.restart()).await,
            Fault::GatewayStopped => world.gateway(ONE, |gateway| gateway.signal("-CONT")).await,
            Fault::ClockAhead | Fault::ClockBehind => {
                world.gateway(ONE, |gateway| gateway.skew(0)).await;
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

async fn kill_clients(world: &World, lasts: Duration) {
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        world.backend.redis().tell_master("CLIENT KILL TYPE normal".to_owned()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

/// Redis reads its own data again, slowly: until then it answers LOADING.
async fn load_slowly(world: &World, lasts: Duration) {
    let keys = 2_000;
    let delay = lasts.as_micros() / keys;
    world.backend.redis().tell_master(format!(
            "DEBUG POPULATE {keys} ballast 100\r\nCONFIG SET loading-process-events-interval-bytes 1024\r\n\
             CONFIG SET key-load-delay {delay}\r\nDEBUG RELOAD\r\nCONFIG SET key-load-delay 0"
        ))
        .await;
}
