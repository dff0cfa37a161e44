//! A highly available Redis client: one server, sentinels or a cluster, Redis or Valkey.
//!
//! | part | content |
//! | --- | --- |
//! | `client` | one command: destination, attempts, deadline |
//! | `topology` | the primaries, from `sentinel`s or a `cluster`, refreshed every second (`refresh`) |
//! | `pool` | a worker's connections to one node |
//! | `node` | a node with its circuit `breaker` |
//! | `connection` | a connection with limited replies (`bounded_stream`) |
//! | `primaries` | the primaries and their changes, with push connections |
//!
//! Every command must be idempotent. It is retried once after a broken connection. After a timeout
//! it is not: Redis is slow then, and a retry would add load. Errors never contain a password.

mod bounded_stream;
mod breaker;
mod client;
mod cluster;
mod connection;
mod connector;
mod errors;
mod node;
mod pool;
mod primaries;
mod refresh;
mod reply_limit;
mod script;
mod sentinel;
mod settings;
mod slots;
mod tls;
mod topology;
mod topology_map;

pub(crate) use self::client::{CommandError, CommandRef, CommandTarget, RedisClient, Replication};
pub(crate) use self::connection::RedisConnection;
pub(crate) use self::errors::RedisUnavailable;
pub(crate) use self::node::RedisNode;
pub(crate) use self::primaries::{Primaries, Primary};
pub(crate) use self::script::{Script, ScriptCall};
pub use self::settings::RedisSettings;
pub(crate) use self::slots::HashSlot;
