//! Shared by the test binaries and benchmarks: a gateway, a client, upstreams and Redis servers.

pub mod browser;
pub mod fault_proxy;
pub mod gateway;
pub mod oidc_server;
pub mod redis_fleet;
pub mod redis_server;
pub mod seeded_rng;
pub mod upstream;
