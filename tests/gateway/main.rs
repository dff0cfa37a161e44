//! The gateway as a whole: real sockets, real TLS, upstreams that record every byte.

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/redis.rs"]
mod redis;
#[path = "../support/upstream.rs"]
mod upstream;

mod framing;
mod identity;
mod login;
mod session;
mod two_gateways;
