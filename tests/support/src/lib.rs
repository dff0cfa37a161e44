//! Shared by the test binaries and benchmarks: a gateway, a client, upstreams, Redis servers and an identity provider.

pub mod browser;
pub mod fault_proxy;
pub mod gateway;
pub mod identity_provider;
pub mod jwt_signer;
pub mod ldap_server;
pub mod oidc_server;
pub mod redis_fleet;
pub mod redis_server;
pub mod seeded_rng;
pub mod upstream;
