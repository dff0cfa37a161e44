//! Options of listening sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Unsent bytes that the kernel buffers per connection. Its default is megabytes, outside of all our limits.
/// Bytes in transit do not count, so this is enough for fast links.
#[cfg(target_os = "linux")]
pub(super) const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Detects a vanished client after two minutes, for instance at the other end of an idle tunnel.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Sets the options of a listening socket. Accepted connections inherit them.
pub(super) fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    Ok(())
}
