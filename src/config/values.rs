//! Values that several sections use.

use std::net::IpAddr;

use super::unknown::unknown_value;
use crate::message::PathPrefix;

/// Whether the host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(unknown_value(other, &["on", "off"])),
    }
}

/// Parses the decoded prefix of a path.
pub(super) fn path_prefix(text: &str) -> Result<PathPrefix, String> {
    if !text.starts_with('/') {
        return Err(format!("a path must start with a slash; write \"/{text}\""));
    }
    if text.contains(['?', '#', '%']) {
        return Err("a path must be decoded, without %, ? or #".to_owned());
    }
    PathPrefix::parse(text).map_err(|error| error.to_string())
}
