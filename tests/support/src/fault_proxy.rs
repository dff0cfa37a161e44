//! A TCP proxy that injects network faults between a gateway and its Redis.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::seeded_rng::SeededRng;

/// The current network fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultMode {
    Pass,
    /// Resets every connection, including new ones.
    Reset,
    /// Resets open connections, and accepts new ones without ever replying on them, even after the fault ends.
    AcceptSilently,
    /// Reads and discards all bytes. A connection that lost bytes never forwards again, even after the fault
    /// ends, as with a half-open connection.
    Blackhole,
    /// Delays each chunk by a random duration in this range, in both directions.
    Jitter(Duration, Duration),
    /// Delays replies by this much, beyond the gateway's deadline.
    LateReplies(Duration),
    /// Forwards commands and holds replies; the end of the fault releases them all at once.
    HoldReplies,
    /// Holds commands; the end of the fault releases them all at once.
    HoldRequests,
    /// Limits the rate to this many bytes per second in each direction.
    Throttle(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Control {
    mode: FaultMode,
    target: SocketAddr,
}

/// A running proxy. Dropping it closes all connections.
pub struct FaultProxy {
    pub address: SocketAddr,
    control: watch::Sender<Control>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

impl FaultProxy {
    /// Starts a proxy that forwards to `target` without faults.
    pub async fn start(target: SocketAddr, seed: u64) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (control, seen) = watch::channel(Control { mode: FaultMode::Pass, target });
        let task = tokio::spawn(accept(listener, seen, seed));
        FaultProxy { address, control, task }
    }

    pub fn set(&self, mode: FaultMode) {
        self.control.send_modify(|control| control.mode = mode);
    }

    /// Forwards to another server from now on, as after a failover, and resets open connections.
    pub fn retarget(&self, target: SocketAddr) {
        self.control.send_modify(|control| control.target = target);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, control: watch::Receiver<Control>, seed: u64) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(serve(stream, control.clone(), SeededRng::new(seed, number)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, mut control: watch::Receiver<Control>, chance: SeededRng) {
    let initial = *control.borrow_and_update();
    if initial.mode == FaultMode::AcceptSilently {
        return wait_for_close(client).await;
    }
    if initial.mode != FaultMode::Reset
        && let Ok(mut server) = TcpStream::connect(initial.target).await
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let [up, down] = [Direction::Requests, Direction::Replies].map(|direction| Pipe {
            direction,
            control: control.clone(),
            chance: chance.clone(),
            is_blackholed: false,
        });
        tokio::select! {
            () = up.run(from_client, to_server) => return,
            () = down.run(from_server, to_client) => return,
            _ = control.wait_for(|now| now.resets_connections() || now.target != initial.target) => {}
        }
    }
    let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
}

impl Control {
    fn resets_connections(&self) -> bool {
        self.mode == FaultMode::Reset || self.mode == FaultMode::AcceptSilently
    }
}

/// Reads until the client closes the connection.
async fn wait_for_close(mut client: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(1..) = client.read(&mut buffer).await {}
}

/// One direction of a connection.
struct Pipe {
    direction: Direction,
    control: watch::Receiver<Control>,
    chance: SeededRng,
    is_blackholed: bool,
}

impl Pipe {
    async fn run(
        mut self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.delay(read).await;
            if !self.is_blackholed && to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    /// Applies the current fault to one chunk.
    async fn delay(&mut self, bytes: usize) {
        let mode = self.control.borrow().mode;
        match (mode, self.direction) {
            (FaultMode::Blackhole, _) => self.is_blackholed = true,
            (FaultMode::Jitter(least, most), _) => {
                tokio::time::sleep(self.chance.between(least, most)).await;
            }
            (FaultMode::LateReplies(by), Direction::Replies) => tokio::time::sleep(by).await,
            (FaultMode::HoldReplies, Direction::Replies)
            | (FaultMode::HoldRequests, Direction::Requests) => {
                let _ = self.control.wait_for(|now| now.mode != mode).await;
            }
            (FaultMode::Throttle(rate), _) => {
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / f64::from(rate))).await;
            }
            (
                FaultMode::Pass
                | FaultMode::Reset
                | FaultMode::AcceptSilently
                | FaultMode::LateReplies(_)
                | FaultMode::HoldReplies
                | FaultMode::HoldRequests,
                _,
            ) => {}
        }
    }
}
