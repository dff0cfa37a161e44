//! doorward: a reverse proxy that adds login and secure sessions to web apps.
//!
//! Each layer uses only the layers below it; `tests/repository/layers.rs` verifies this:
//!
//! | layer | modules | content |
//! | --- | --- | --- |
//! | 14 | `cli` (and `main`) | the commands |
//! | 13 | [`app`] | composition root: builds the gateway, contains no rules |
//! | 12 | [`server`], [`explain`] | sockets: listener, TLS handshake, connection, drain, redirect; explanation of a request |
//! | 11 | [`proxy`] | request pipeline: route, authenticate, forward, respond |
//! | 10 | [`portal`], [`admin`] | login and session pages; admin API |
//! | 9 | [`auth`] | authentication: from the cookie to a permit |
//! | 8 | [`sessions`] | session service: create, list, rotate, restrict, end |
//! | 7 | [`connections`], [`audit`], [`notify`] | tracked connections, which end with their session; audit log; notifications |
//! | 6 | [`store`], [`upstream`], [`tls`], [`identity`], [`telemetry`] | adapters |
//! | 5 | [`redis`], [`oidc`], [`ldap`] | Redis client: topology, connections, reply limits, circuit breaker; OpenID Connect providers; LDAP directories |
//! | 4 | [`config`], [`http_client`] | configuration file to checked values; client for occasional requests |
//! | 3 | [`route`], [`risk`] | pure: route table and access rules; risk signals and scores |
//! | 2 | [`message`] | pure: request heads, hop-by-hop headers, identity headers, cookies, targets |
//! | 1 | [`session`], [`rate_limit`] | pure: token, session record, policy, decision; rate limits |
//! | 0 | [`clock`], [`secret`] | pure: clock; keys, sealing, hashes |

#![forbid(unsafe_code)]
#![deny(unreachable_pub, reason = "an item is `pub` only if other crates can reach it")]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "one bad request must not end a worker: errors are values"
)]
// Not for unit tests, which choose their own lengths.
#![cfg_attr(
    not(test),
    deny(
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "lengths come from the network: a wrong slice panics and a wrong cast changes the value"
    )
)]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "only the commands print; everything else logs"
)]

pub mod admin;
pub mod app;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod explain;
pub mod http_client;
pub mod identity;
pub mod ldap;
pub mod message;
pub mod notify;
pub mod oidc;
pub mod portal;
pub mod proxy;
pub mod rate_limit;
pub mod redis;
pub mod risk;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod sessions;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
