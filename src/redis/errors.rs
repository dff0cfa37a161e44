//! Classification of errors: for the connection, for routing, and for the operator.

use std::error::Error;
use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::reply_limit::ReplyLimitError;
use crate::config::HostPort;

/// Redis did not respond, or not in time. The caller must not conclude anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is unavailable: {0}")]
pub(crate) struct RedisUnavailable(pub(crate) String);

/// The settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidSettings(pub(crate) String);

/// Reports whether the response timed out. The circuit breaker counts it.
pub(super) fn is_timeout_error(error: &RedisError) -> bool {
    error.is_timeout()
}

/// Reports whether the connection broke before the response.
pub(super) fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout() && (error.is_io_error() || error.is_connection_dropped())
}

/// Reports whether the reply exceeded a limit. A retry would exceed it again.
pub(super) fn is_over_limit(error: &RedisError) -> bool {
    type Inner = Arc<dyn Error + Send + Sync>;
    let inner = error.source().and_then(|source| source.downcast_ref::<Inner>());
    let inner = inner.and_then(|inner| inner.downcast_ref::<std::io::Error>());
    inner.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<ReplyLimitError>())
}

/// Reports whether the connection is unusable: it broke, or its user or role changed.
pub(super) fn must_reconnect(error: &RedisError) -> bool {
    is_broken(error)
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::Client
                | ErrorKind::Parse
                | ErrorKind::InvalidClientConfig
                | ErrorKind::Server(ServerErrorKind::ReadOnly)
        )
        || error.code() == Some("NOAUTH")
}

/// The reaction to an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ErrorAction {
    /// The slot has moved to another node.
    Moved(HostPort),
    /// Only this command goes to another node.
    Ask(HostPort),
    /// The slot is migrating and only some keys have moved.
    Wait,
    /// Another node may be the primary by now.
    RefreshTopology,
    /// The connection broke. Retry once.
    Retry,
    Fail,
}

/// `responder` is the host that responded: a node that does not have its own address omits it.
#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
pub(super) fn action_for(error: &RedisError, responder: &str) -> ErrorAction {
    let target =
        || parse_redirect(error.redirect_node().map_or("", |(address, _)| address), responder);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => {
            target().map_or(ErrorAction::RefreshTopology, ErrorAction::Moved)
        }
        ErrorKind::Server(ServerErrorKind::Ask) => {
            target().map_or(ErrorAction::RefreshTopology, ErrorAction::Ask)
        }
        ErrorKind::Server(ServerErrorKind::TryAgain) => ErrorAction::Wait,
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::BusyLoading,
        ) => ErrorAction::RefreshTopology,
        _ if is_over_limit(error) => ErrorAction::Fail,
        _ if is_broken(error) => ErrorAction::Retry,
        _ if error.is_timeout() => ErrorAction::Fail,
        _ => ErrorAction::Fail,
    }
}

/// Parses `HOST:PORT`. An IPv6 address may lack brackets.
pub(super) fn parse_redirect(address: &str, responder: &str) -> Option<HostPort> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() || host == "?" { responder } else { host };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(HostPort { host: host.to_owned(), port })
}

/// Describes an error to an operator, after the name of the server.
#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
pub(super) fn describe(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "is a read-only replica; the store must name the master"
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "is still loading its data",
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            "denies the user a command or a key; docs/redis.md lists the required permissions"
        }
        ErrorKind::Server(ServerErrorKind::MasterDown) => "is a replica that has lost its master",
        ErrorKind::Server(ServerErrorKind::ClusterDown) => {
            "reports that its cluster is down; check CLUSTER INFO"
        }
        ErrorKind::Server(ServerErrorKind::TryAgain) => "is moving these keys to another server",
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => {
            "redirects repeatedly; or it is a cluster, and the store URL must start with \
             redis+cluster://"
        }
        ErrorKind::AuthenticationFailed => "rejects the username or the password",
        _ if is_over_limit(error) => "sent an unexpected reply",
        _ if error.is_connection_refusal() => "refused the connection; is it running?",
        _ => match error.code() {
            Some("NOAUTH") => "requires a password",
            Some("WRONGPASS") => "rejects the username or the password",
            Some("OOM") => "is out of memory; raise maxmemory",
            Some("MISCONF") => "cannot save to disk and rejects writes",
            Some("NOREPLICAS") => "has fewer replicas than min-replicas-to-write requires",
            Some("BUSY") => "is busy with a script; SCRIPT KILL stops it",
            _ => "returned an error",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::make_extension_error;

    #[test]
    fn a_redirect_is_parsed_with_ipv6_and_without_a_host() {
        let at = |host: &str, port| Some(HostPort { host: host.to_owned(), port });
        assert_eq!(parse_redirect("10.0.0.1:7000", "host"), at("10.0.0.1", 7000));
        assert_eq!(parse_redirect("::1:7000", "host"), at("::1", 7000));
        assert_eq!(parse_redirect("[::1]:7000", "host"), at("::1", 7000));
        assert_eq!(parse_redirect(":7000", "host"), at("host", 7000));
        for wrong in ["", "7000", "host:", "host:0", "host:70000"] {
            assert_eq!(parse_redirect(wrong, "host"), None, "{wrong}");
        }
    }

    #[test]
    fn each_redis_error_has_an_actionable_description() {
        for (code, help) in [
            ("NOAUTH", "requires a password"),
            ("WRONGPASS", "rejects the username"),
            ("OOM", "raise maxmemory"),
            ("MISCONF", "disk"),
            ("NOREPLICAS", "min-replicas-to-write"),
        ] {
            assert!(
                describe(&make_extension_error(code.to_owned(), None)).contains(help),
                "{code}"
            );
        }
    }
}
