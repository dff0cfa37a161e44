//! `[limits]`: limits on clients, in total and per network. The defaults suit the open internet;
//! docs/limits.md gives the reasons. `[route.limits]` overrides the body limits of one route.

use std::time::Duration;

use super::diagnostics::KeyDefault::Value;
use super::reader::{Field, Reader};
use super::{duration, size};
use crate::route::BodyLimits;

/// Limits on clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Concurrent client connections.
    pub connections: usize,
    /// Concurrent connections per network (IPv4 address or IPv6 /64).
    pub connections_per_network: usize,
    /// New connections per network and second.
    pub connection_rate: u32,
    /// Concurrent requests.
    pub requests: usize,
    pub memory: Memory,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For a request head, from its first byte or from the handshake.
    pub header_timeout: Duration,
    /// For a connection between two requests.
    pub idle_timeout: Duration,
    /// For a client that receives no data of a response.
    pub write_timeout: Duration,
    /// Header lines per request.
    pub headers: usize,
    /// Bytes per request head.
    pub header_bytes: usize,
    /// Defaults of `[route.limits]`.
    pub bodies: BodyLimits,
}

/// Memory limit of the process; requests are rejected near it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Four fifths of the machine's memory or of the cgroup limit.
    Auto,
    /// In bytes; zero means no limit.
    Bytes(u64),
}

pub(super) fn limits(mut section: Reader<'_>) -> Option<Limits> {
    let connections = section.number("connections", Value("10000"), 1..=10_000_000);
    let per_network = section.number("connections_per_network", Value("1000"), 1..=10_000_000);
    let rate = section.number("connection_rate", Value("200"), 1..=1_000_000);
    let requests = section.number("requests", Value("10000"), 1..=10_000_000);
    let memory = section.quantity("memory", Value(r#""auto""#), memory);
    let mut wait = |key, default| section.quantity(key, Value(default), duration::parse_positive);
    let handshake_timeout = wait("handshake_timeout", r#""10s""#);
    let header_timeout = wait("header_timeout", r#""10s""#);
    let idle_timeout = wait("idle_timeout", r#""60s""#);
    let write_timeout = wait("write_timeout", r#""60s""#);
    let headers = section.number("headers", Value("100"), 16..=10_000);
    let header_bytes = section.quantity("header_bytes", Value(r#""32KiB""#), head_size);
    let body_timeout = section.quantity("body_timeout", Value(r#""30s""#), duration::parse);
    let min_rate = section.quantity("min_rate", Value(r#""500B""#), size::parse);
    let max_body = section.quantity("max_body", Value(r#""0""#), size::parse);
    let upstream_idle =
        section.quantity("upstream_idle_timeout", Value(r#""5m""#), duration::parse);
    let response_headers = section.number("response_headers", Value("256"), 16..=10_000);
    let response_header_bytes =
        section.quantity("response_header_bytes", Value(r#""64KiB""#), head_size);
    let request = section.quantity("request_timeout", Value(r#""0s""#), duration::parse);
    let tunnel = section.quantity("websocket_idle_timeout", Value(r#""1h""#), duration::parse);
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
            max_bytes: max_body?.value,
            upstream_idle: upstream_idle?.value,
            request_timeout: request?.value,
            tunnel_idle: tunnel?.value,
            response_headers: response_headers?.value,
            response_header_bytes: response_header_bytes?.value,
        },
    })
}

/// Reads `[route.limits]`.
pub(super) fn for_route(mut section: Reader<'_>, default: &BodyLimits) -> Option<BodyLimits> {
    let timeout = section.optional_quantity("body_timeout", r#""5m""#, duration::parse);
    let min_rate = section.optional_quantity("min_rate", r#""0""#, size::parse);
    let max = section.optional_quantity("max_body", r#""100MiB""#, size::parse);
    let idle = section.optional_quantity("upstream_idle_timeout", r#""1h""#, duration::parse);
    let request = section.optional_quantity("request_timeout", r#""10m""#, duration::parse);
    let headers = section.optional_number("response_headers", "1000", 16..=10_000);
    let header_bytes = section.optional_quantity("response_header_bytes", r#""256KiB""#, head_size);
    let tunnel = section.optional_quantity("websocket_idle_timeout", r#""0s""#, duration::parse);
    Some(BodyLimits {
        timeout: or(timeout?, default.timeout),
        min_rate: or(min_rate?, default.min_rate),
        max_bytes: or(max?, default.max_bytes),
        upstream_idle: or(idle?, default.upstream_idle),
        request_timeout: or(request?, default.request_timeout),
        tunnel_idle: or(tunnel?, default.tunnel_idle),
        response_headers: or(headers?, default.response_headers),
        response_header_bytes: or(header_bytes?, default.response_header_bytes),
    })
}

fn or<T>(field: Option<Field<T>>, default: T) -> T {
    field.map_or(default, |field| field.value)
}

fn memory(text: &str) -> Result<Memory, size::SizeError> {
    if text == "auto" { Ok(Memory::Auto) } else { size::parse(text).map(Memory::Bytes) }
}

/// Range of sizes of a head: large enough for a browser's cookies, small enough for one buffer per connection.
const HEAD_BYTES: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;

fn head_size(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    let fits = usize::try_from(bytes).ok().filter(|_| HEAD_BYTES.contains(&bytes));
    fits.ok_or_else(|| format!("`{text}` must be from 8KiB to 1MiB; write \"32KiB\""))
}
