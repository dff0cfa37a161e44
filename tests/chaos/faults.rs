//! Everything that goes wrong, how it is brought about, and what it may cost honest people.

use std::time::Duration;

use crate::history::{At, May};
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
    /// And who connects again hears nothing.
    ResetThenMute,
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
    /// For a minute.
    GatewayAsleep,
    ClockAhead,
    ClockBehind,
}

/// How a fault goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It is over when it has been brought about.
    Passes,
    /// It stays until it is taken away.
    Stays,
    /// It stays, and from its first moment to its last nothing at all comes from the store.
    Blinds,
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

pub const LOSS: [Fault; 2] = [Fault::Flushed, Fault::Failover];

pub const SENTINELS: [Fault; 2] = [Fault::MasterChanged, Fault::MasterLost];
pub const CLUSTER: [Fault; 1] = [Fault::PrimaryLost];

/// What can happen to a gateway with a store of its own.
pub const ALONE: [Fault; 3] =
    [Fault::GatewayKilled, Fault::GatewayRestarted, Fault::GatewayStopped];

/// In real time: what is known without asking is known for as long as it is elsewhere.
pub const REAL: [Fault; 4] =
    [Fault::OneCutOff, Fault::HalfOpen, Fault::Stopped, Fault::GatewayStopped];
pub const ASLEEP: [Fault; 1] = [Fault::GatewayAsleep];

impl Fault {
    pub fn word(self) -> &'static str {
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

    /// What is excused. A fault that is not named in a line of this excuses nothing.
    pub fn may(self) -> May {
        let none = May::default();
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
            | Fault::NoAuth => May { refuse: true, ..none },
            Fault::Jitter => none,
            Fault::Flushed => May { lose_writes: true, ..none },
            Fault::Failover | Fault::MasterChanged | Fault::MasterLost | Fault::PrimaryLost => {
                May { refuse: true, lose_writes: true, ..none }
            }
            Fault::GatewayKilled
            | Fault::GatewayRestarted
            | Fault::GatewayStopped
            | Fault::GatewayAsleep => May { silence: true, ..none },
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
            | Fault::GatewayAsleep
            | Fault::ClockAhead
            | Fault::ClockBehind => Some(ONE),
            Fault::Reset
            | Fault::ResetThenMute
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

    /// How long it lasts, where it is asked to last so long.
    pub fn lasting(self, asked: Duration) -> Duration {
        match self {
            // Longer than a gateway may go on without hearing of a revocation, and serve who is known.
            Fault::OneCutOff => asked.max(Duration::from_millis(5_500)),
            Fault::GatewayAsleep => asked.max(Duration::from_mins(1)),
            Fault::Reset
            | Fault::ResetThenMute
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
            | Fault::PrimaryLost
            | Fault::GatewayKilled
            | Fault::GatewayRestarted
            | Fault::GatewayStopped
            | Fault::ClockAhead
            | Fault::ClockBehind => asked,
        }
    }

    fn course(self) -> Course {
        match self {
            Fault::Reset
            | Fault::ResetThenMute
            | Fault::HalfOpen
            | Fault::RepliesHeld
            | Fault::RequestsHeld
            | Fault::OneCutOff
            | Fault::Stopped
            | Fault::Killed => Course::Blinds,
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
            | Fault::ClockBehind => Course::Stays,
            Fault::ClientsKilled
            | Fault::Asleep
            | Fault::Loading
            | Fault::Flushed
            | Fault::Failover
            | Fault::MasterChanged
            | Fault::MasterLost
            | Fault::PrimaryLost
            | Fault::GatewayRestarted => Course::Passes,
        }
    }

    /// Brings it about, lets it last, and takes it away. Answers until when nothing at all came from the
    /// store, if it is a fault of that kind.
    pub async fn happen(self, world: &World, lasts: Duration) -> Option<At> {
        self.begin(world, lasts).await;
        let course = self.course();
        if course != Course::Passes {
            tokio::time::sleep(lasts).await;
        }
        let lifted = world.now();
        self.over(world).await;
        (course == Course::Blinds).then_some(lifted)
    }

    async fn begin(self, world: &World, lasts: Duration) {
        let network = |mode| world.backend.redis().all_links(mode);
        let seconds = lasts.as_secs_f64();
        match self {
            Fault::Reset => network(Mode::Reset),
            Fault::ResetThenMute => network(Mode::Mute),
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
            Fault::ClientsKilled => kill_clients(world, lasts).await,
            Fault::ClientsPaused => {
                world
                    .backend
                    .redis()
                    .tell_master(format!("CLIENT PAUSE {} ALL", lasts.as_millis()))
                    .await;
            }
            Fault::Asleep => {
                let text = format!("DEBUG SLEEP {seconds}");
                world.backend.redis().tell_busy_master(text, lasts).await;
            }
            Fault::OutOfMemory => {
                world.backend.redis().tell_master("CONFIG SET maxmemory 1".to_owned()).await
            }
            Fault::ReadOnly => {
                world.backend.redis().tell_master("REPLICAOF 127.0.0.1 1".to_owned()).await
            }
            Fault::Loading => load_slowly(world, lasts).await,
            Fault::NoAuth => {
                let text = "CONFIG SET requirepass chaos\r\nCLIENT KILL TYPE normal";
                world.backend.redis().tell_master(text.to_owned()).await;
            }
            Fault::Flushed => {
                world.backend.redis().tell_master("FLUSHALL".to_owned()).await;
            }
            Fault::Failover => world.backend.redis().fail_over(lasts).await,
            Fault::MasterChanged | Fault::MasterLost => {
                world.backend.change_master(self == Fault::MasterLost).await;
            }
            Fault::PrimaryLost => world.backend.lose_primary().await,
            Fault::GatewayKilled => world.gateway(ONE, |gateway| gateway.kill()).await,
            Fault::GatewayRestarted => {
                world
                    .gateway(ONE, |gateway| {
                        gateway.stop_gently();
                        gateway.restart();
                    })
                    .await;
            }
            Fault::GatewayStopped | Fault::GatewayAsleep => {
                world.gateway(ONE, |gateway| gateway.signal("-STOP")).await
            }
            Fault::ClockAhead => world.gateway(ONE, |gateway| gateway.skew(HOUR)).await,
            Fault::ClockBehind => world.gateway(ONE, |gateway| gateway.skew(-HOUR)).await,
        }
    }

    async fn over(self, world: &World) {
        match self {
            Fault::Reset
            | Fault::ResetThenMute
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
            Fault::GatewayStopped | Fault::GatewayAsleep => {
                world.gateway(ONE, |gateway| gateway.signal("-CONT")).await;
            }
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
    let text = format!(
        "DEBUG POPULATE {keys} ballast 100\r\nCONFIG SET loading-process-events-interval-bytes 1024\r\n\
         CONFIG SET key-load-delay {delay}\r\nDEBUG RELOAD\r\nCONFIG SET key-load-delay 0"
    );
    world.backend.redis().tell_busy_master(text, lasts).await;
}
