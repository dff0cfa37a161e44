//! The gateway's HTTP client against well-behaved, broken and hostile upstreams.

mod client;
mod races;
mod responses;
