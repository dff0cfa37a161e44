//! `[limits]`: what clients may take, all of them together and each network for itself. Every limit
//! holds from the start, with a default for the open internet; docs/limits.md says why each is what
//! it is. `[route.limits]` changes those of bodies where an app needs it.

use std::time::Duration;

use super::findings::Usual::Is;
use super::reader::{Reader, Setting};
use super::{duration, size};
use crate::route::BodyLimits;

/// What clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at once.
    pub connections: usize,
    /// The same for one network: an IPv4 address, or an IPv6 /64.
    pub connections_per_network: usize,
    /// New connections of one network in a second.
    pub connection_rate: u32,
    /// Requests under way at once.
    pub requests: usize,
    pub memory: Memory,
    /// To the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// To the end of a request's head, from its first byte or from the handshake.
    pub header_timeout: Duration,
    /// Of a connection between two requests.
    pub idle_timeout: Duration,
    /// While a client takes nothing of what is being sent to it.
    pub write_timeout: Duration,
    /// Fields of one head.
    pub headers: usize,
    /// Bytes of one head.
    pub header_bytes: usize,
    /// What routes start from.
    pub bodies: BodyLimits,
}

/// How much memory the process may hold before it turns clients away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Four fifths of what the machine or the control group gives.
    Auto,
    /// In bytes; 0: no limit.
    Bytes(u64),
}

pub(super) fn limits(mut section: Reader<'_>) -> Option<Limits> {
    let connections = section.number("connections", Is("10000"), 1..=10_000_000);
    let per_network = section.number("connections_per_network", Is("1000"), 1..=10_000_000);
    let rate = section.number("connection_rate", Is("200"), 1..=1_000_000);
    let requests = section.number("requests", Is("10000"), 1..=10_000_000);
    let memory = section.measure("memory", Is(r#""auto""#), memory);
    let mut wait = |key, usual| section.measure(key, Is(usual), duration::parse_positive);
    let handshake_timeout = wait("handshake_timeout", r#""10s""#);
    let header_timeout = wait("header_timeout", r#""10s""#);
    let idle_timeout = wait("idle_timeout", r#""60s""#);
    let write_timeout = wait("write_timeout", r#""60s""#);
    let headers = section.number("headers", Is("100"), 16..=10_000);
    let header_bytes = section.measure("header_bytes", Is(r#""32KiB""#), head_size);
    let body_timeout = section.measure("body_timeout", Is(r#""30s""#), duration::parse);
    let min_rate = section.measure("min_rate", Is(r#""500B""#), size::parse);
    let max_body = section.measure("max_body", Is(r#""0""#), size::parse);
    let upstream_idle = section.measure("upstream_idle_timeout", Is(r#""5m""#), duration::parse);
    let request = section.measure("request_timeout", Is(r#""0s""#), duration::parse);
    let tunnel = section.measure("websocket_idle_timeout", Is(r#""1h""#), duration::parse);
    Some(Limits {
        connections: connections?.value,
        connections_per_network: per_network?.value,
        connection_rate: u32::try_from(rate?.value).unwrap_or(u32::MAX),
        requests: requests?.value,
        memory: memory?.value,
        handshake_timeout: handshake_timeout?.value,
        header_timeout: header_timeout?.value,
        idle_timeout: idle_timeout?.value,
        write_timeout: write_timeout?.value,
        headers: headers?.value,
        header_bytes: header_bytes?.value,
        bodies: BodyLimits {
            timeout: body_timeout?.value,
            min_rate: min_rate?.value,
            max: max_body?.value,
            upstream_idle: upstream_idle?.value,
            request: request?.value,
            tunnel_idle: tunnel?.value,
        },
    })
}

/// `[route.limits]`: what differs on this route.
pub(super) fn of_route(mut section: Reader<'_>, usual: &BodyLimits) -> Option<BodyLimits> {
    let timeout = section.optional_measure("body_timeout", r#""5m""#, duration::parse);
    let min_rate = section.optional_measure("min_rate", r#""0""#, size::parse);
    let max = section.optional_measure("max_body", r#""100MiB""#, size::parse);
    let idle = section.optional_measure("upstream_idle_timeout", r#""1h""#, duration::parse);
    let request = section.optional_measure("request_timeout", r#""10m""#, duration::parse);
    let tunnel = section.optional_measure("websocket_idle_timeout", r#""0s""#, duration::parse);
    Some(BodyLimits {
        timeout: or(timeout?, usual.timeout),
        min_rate: or(min_rate?, usual.min_rate),
        max: or(max?, usual.max),
        upstream_idle: or(idle?, usual.upstream_idle),
        request: or(request?, usual.request),
        tunnel_idle: or(tunnel?, usual.tunnel_idle),
    })
}

fn or<T>(written: Option<Setting<T>>, usual: T) -> T {
    written.map_or(usual, |setting| setting.value)
}

fn memory(text: &str) -> Result<Memory, size::SizeError> {
    if text == "auto" { Ok(Memory::Auto) } else { size::parse(text).map(Memory::Bytes) }
}

/// Least and most bytes of a head: a browser's cookies must fit, and each connection holds one.
const HEADS: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;

fn head_size(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    let fits = usize::try_from(bytes).ok().filter(|_| HEADS.contains(&bytes));
    fits.ok_or_else(|| format!("`{text}` must be from 8KiB to 1MiB; write \"32KiB\""))
}
