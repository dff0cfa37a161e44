//! The gateway as a whole: real sockets, real TLS, upstreams that record every byte.

#[path = "../support/browser.rs"]
mod browser;
#[path = "../chaos/chance.rs"]
#[allow(dead_code, reason = "chaos uses the rest of it")]
mod chance;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../chaos/proxy.rs"]
#[allow(dead_code, reason = "chaos uses the rest of it")]
mod proxy;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis;
#[path = "../support/streams.rs"]
mod streams;
#[path = "../support/upstream.rs"]
#[allow(dead_code, reason = "the suite of the commands uses the rest of it")]
mod upstream;

mod advisories;
mod csrf;
mod endings;
mod framing;
mod hyp;
mod identity;
mod limits;
mod live;
mod login;
mod notify;
mod operator;
mod origin;
mod outage;
mod paths;
mod poison;
mod redirects;
mod remembered;
mod replay;
mod responses;
mod restarts;
mod reuse;
mod revocation;
mod session;
mod shared_store;
mod signals;
mod steering;
mod step_up;
mod two_gateways;
mod websocket;
