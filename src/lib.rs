//! doorward: a reverse proxy that keeps the sessions of apps that cannot.
//!
//! Layers, each naming only those below it (`tests/layers.rs` keeps it so):
//!
//! | layer | modules | what |
//! | --- | --- | --- |
//! | 9 | `cli` (and `main`) | the commands |
//! | 8 | [`app`] | composition root: builds everything, decides nothing |
//! | 7 | [`server`] | sockets: listener, TLS handshake, connection, drain, redirect |
//! | 6 | [`gateway`] | the story of a request |
//! | 5 | [`portal`], [`admin`] | doorward's own pages; the operator's API |
//! | 4 | [`guard`] | from a cookie to a permit: load, decide, compare-and-swap |
//! | 3 | [`store`], [`upstream`], [`tls`], [`login`], [`telemetry`] | adapters |
//! | 2 | [`config`] | raw to checked |
//! | 1 | [`http`], [`route`] | pure: heads, hop-by-hop, identity, cookies, targets, table and access |
//! | 0 | [`session`], [`clock`], [`secret`] | pure: token, record, policy, decide |

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gateway;
pub mod guard;
pub mod http;
pub mod login;
pub mod portal;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
