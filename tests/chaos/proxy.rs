//! A TCP proxy that fails on purpose: what a network does between a gateway and its Redis.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::chance::Chance;

/// What the network does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every connection is reset, new ones too.
    Reset,
    /// What is open is reset; new connections are opened, and nobody ever answers on them, also when the
    /// network is well again.
    Mute,
    /// Whatever comes is acknowledged and lost. A connection that lost something stays dumb for ever,
    /// also when the network is well again: nobody tells the gateway.
    Swallow,
    /// Each piece, in both directions, comes this much later.
    Jitter(Duration, Duration),
    /// Answers come this much later: after the gateway stopped waiting for them.
    LateReplies(Duration),
    /// Commands arrive and answers do not, until the network is well: then all of them at once.
    HoldReplies,
    /// Commands do not arrive until the network is well: then all of them at once.
    HoldRequests,
    /// Bytes per second, in each direction.
    Throttle(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Control {
    mode: Mode,
    target: SocketAddr,
}

/// The proxy. Dropping it closes everything.
pub struct Proxy {
    pub address: SocketAddr,
    control: watch::Sender<Control>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Replies,
}

impl Proxy {
    /// Listens, and passes everything to `target`.
    pub async fn start(target: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (control, seen) = watch::channel(Control { mode: Mode::Pass, target });
        let task = tokio::spawn(accept(listener, seen, seed));
        Proxy { address, control, task }
    }

    pub fn set(&self, mode: Mode) {
        self.control.send_modify(|control| control.mode = mode);
    }

    /// Points to another server, as an address does that moves in a failover: what is open is reset.
    pub fn retarget(&self, target: SocketAddr) {
        self.control.send_modify(|control| control.target = target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, control: watch::Receiver<Control>, seed: u64) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(serve(stream, control.clone(), Chance::new(seed, number)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, mut control: watch::Receiver<Control>, chance: Chance) {
    let begun = *control.borrow_and_update();
    if begun.mode == Mode::Mute {
        return listen(client).await;
    }
    if begun.mode != Mode::Reset
        && let Ok(mut server) = TcpStream::connect(begun.target).await
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let [up, down] = [Way::Requests, Way::Replies].map(|way| Pump {
            way,
            control: control.clone(),
            chance: chance.clone(),
            dumb: false,
        });
        tokio::select! {
            () = up.run(from_client, to_server) => return,
            () = down.run(from_server, to_client) => return,
            _ = control.wait_for(|now| now.ends_what_is_open() || now.target != begun.target) => {}
        }
    }
    let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
}

impl Control {
    fn ends_what_is_open(&self) -> bool {
        self.mode == Mode::Reset || self.mode == Mode::Mute
    }
}

/// Until the other side hangs up.
async fn listen(mut client: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(1..) = client.read(&mut buffer).await {}
}

/// One direction of one connection.
struct Pump {
    way: Way,
    control: watch::Receiver<Control>,
    chance: Chance,
    dumb: bool,
}

impl Pump {
    async fn run(
        mut self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.travel(read).await;
            if !self.dumb && to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    /// The time on the way; a piece may also be lost there.
    async fn travel(&mut self, bytes: usize) {
        let mode = self.control.borrow().mode;
        match (mode, self.way) {
            (Mode::Swallow, _) => self.dumb = true,
            (Mode::Jitter(least, most), _) => {
                tokio::time::sleep(self.chance.between(least, most)).await;
            }
            (Mode::LateReplies(by), Way::Replies) => tokio::time::sleep(by).await,
            (Mode::HoldReplies, Way::Replies) | (Mode::HoldRequests, Way::Requests) => {
                let _ = self.control.wait_for(|now| now.mode != mode).await;
            }
            (Mode::Throttle(rate), _) => {
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / f64::from(rate))).await;
            }
            (
                Mode::Pass
                | Mode::Reset
                | Mode::Mute
                | Mode::LateReplies(_)
                | Mode::HoldReplies
                | Mode::HoldRequests,
                _,
            ) => {}
        }
    }
}
