//! doorward: a reverse proxy that keeps the sessions of apps that cannot.
//!
//! Layers, each naming only those below it (`tests/layers.rs` keeps it so):
//!
//! | layer | modules | what |
//! | --- | --- | --- |
//! | 11 | `cli` (and `main`) | the commands |
//! | 10 | [`app`] | composition root: builds everything, decides nothing |
//! | 9 | [`server`] | sockets: listener, TLS handshake, connection, drain, redirect |
//! | 8 | [`proxy`] | the story of a request |
//! | 7 | [`portal`], [`admin`] | doorward's own pages; the operator's API |
//! | 6 | [`guard`] | from a cookie to a permit: load, decide, compare-and-swap |
//! | 5 | [`store`], [`upstream`], [`tls`], [`identity`], [`telemetry`] | adapters |
//! | 4 | [`config`] | raw to checked |
//! | 3 | [`route`], [`risk`] | pure: the table of routes, and who may use one; signs that a session was moved |
//! | 2 | [`message`] | pure: heads, hop-by-hop, identity, cookies, targets |
//! | 1 | [`session`] | pure: token, record, policy, decide |
//! | 0 | [`clock`], [`secret`] | pure: time as a value; keys, seals, hashes |

#![forbid(unsafe_code)]
#![deny(
    unreachable_pub,
    reason = "`pub` in a private place says something untrue about who may call"
)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "one bad request must not end a worker: errors are values here"
)]
// Not for the unit tests, whose lengths and texts are their own.
#![cfg_attr(
    not(test),
    deny(
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "the network chooses lengths: one cut wrongly panics, or is another length"
    )
)]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a terminal belongs to the commands; all else speaks through the log"
)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod guard;
pub mod identity;
pub mod message;
pub mod portal;
pub mod proxy;
pub mod risk;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
