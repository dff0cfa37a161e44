//! Sessions in Redis or Valkey, shared by several gateways.
//!
//! | key | value |
//! | --- | --- |
//! | `dw:s:{TAG}:ID` | packed slot: a sealed record or a tombstone |
//! | `dw:t:{TAG}:ID` | last touch, decimal |
//! | `dw:nb:{TAG}` | user's cutoff: `at`, or `at id` with the excepted session |
//! | `dw:u:{TAG}` | hash: ID to `created retain_until`; `max`: the greatest `created`; `kept`: entries left by the last sweep |
//! | `dw:m:{TAG}` | user's sealed history |
//! | `dw:lc:{TAG}:NAME` | login counter: when it is replenished completely |
//! | `dw:lk:{TAG}:NAME` | place from which the user has logged in |
//! | `dw:everyone` | global cutoff |
//! | `dw:probe:{dw:everyone}` | written to check that Redis accepts writes |
//! | `dw:ahead:{dw:everyone}` | greatest `created` that was ahead of Redis' own clock |
//!
//! Invariants:
//! - all keys of a user share the hash tag `{TAG}` and so a cluster slot: every change of a user is
//!   one script
//! - the hot path is one MGET; scripts run only for changes
//! - keys expire by Redis' clock an hour after `retain_until`; an expiry only moves later
//! - errors never contain the password
//!
//! Requires Redis 6 or Valkey. An ACL user needs the keys `~dw:*` and the commands `+mget +get +set
//! +del +getrange +pexpire +pttl +hget +hset +hdel +hlen +hgetall +scan +time +ping +eval +evalsha
//! +info +role +client|tracking +wait +asking +cluster|nodes`. A sentinel user needs
//! `sentinel|master`.
//!
//! | part | content |
//! | --- | --- |
//! | [`commands`] | the store: one command or script per operation |
//! | [`cutoffs`] | the same for revocation cutoffs |
//! | [`login_limits`] | counters of failed logins |
//! | [`listing`] | listings and the search for a session |
//! | [`scripts`] | the Lua scripts |
//! | [`keys`] | names of keys |
//! | [`shared_state`] | the state of this process: cache, revocation log, freshness |
//! | [`diagnostics`] | checks of the Redis configuration |

mod commands;
mod cutoffs;
mod diagnostics;
pub(in crate::store) mod keys;
mod listing;
mod login_limits;
mod scripts;
mod shared_state;

pub use self::commands::{RedisStats, RedisStore};
pub use self::diagnostics::Advice;
pub(in crate::store) use self::shared_state::SharedState;
