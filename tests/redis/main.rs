//! The Redis store and its local cache, against real servers and a scripted one.

mod cache_journal;
mod cache_races;
mod cache_topologies;
mod cancelled;
mod gateway_store;
mod scripted_redis;
mod tls_redis;
mod topologies;
