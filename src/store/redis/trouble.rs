//! What errors mean: to the connection, to the route, and to an operator.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::dial::Dialer;
use super::measure::Refusal;
use crate::config::HostPort;
use crate::store::Unavailable;

/// Whether the server did not answer in time, which a breaker counts.
pub(super) fn is_silence(error: &RedisError) -> bool {
    error.is_timeout()
}

/// Whether the connection broke before the answer came.
pub(super) fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout() && (error.is_io_error() || error.is_connection_dropped())
}

/// Whether an answer was more than we take. Asked again, it would be again.
pub(super) fn is_too_much(error: &RedisError) -> bool {
    type Inner = Arc<dyn Error + Send + Sync>;
    let inner = error.source().and_then(|source| source.downcast_ref::<Inner>());
    let inner = inner.and_then(|inner| inner.downcast_ref::<std::io::Error>());
    inner.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<Refusal>())
}

/// Whether the connection is of no more use: it broke, or belongs to a user or a role that changed.
pub(super) fn is_spoilt(error: &RedisError) -> bool {
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

/// What to do about an error before anybody hears of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The slot belongs to another server for good.
    Moved(HostPort),
    /// This one question goes to another server.
    Ask(HostPort),
    /// Half of the keys are on their way to another server.
    Patience,
    /// Another server may be the one to ask by now.
    Look,
    /// The connection broke: once more.
    Again,
    None,
}

/// `asked` is the host that answered: a node that does not know its own address leaves it out.
#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
pub(super) fn remedy(error: &RedisError, asked: &str) -> Remedy {
    let there = || redirected(error.redirect_node().map_or("", |(address, _)| address), asked);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => there().map_or(Remedy::Look, Remedy::Moved),
        ErrorKind::Server(ServerErrorKind::Ask) => there().map_or(Remedy::Look, Remedy::Ask),
        ErrorKind::Server(ServerErrorKind::TryAgain) => Remedy::Patience,
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::BusyLoading,
        ) => Remedy::Look,
        _ if is_too_much(error) => Remedy::None,
        _ if is_broken(error) => Remedy::Again,
        _ if error.is_timeout() => Remedy::None,
        _ => Remedy::None,
    }
}

/// `HOST:PORT`, where an IPv6 address has no brackets.
pub(super) fn redirected(address: &str, asked: &str) -> Option<HostPort> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() || host == "?" { asked } else { host };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(HostPort { host: host.to_owned(), port })
}

impl Dialer {
    pub(super) fn silent(&self, address: &str, limit: Duration) -> Unavailable {
        Unavailable(format!("Redis at {address} does not answer within {} ms", limit.as_millis()))
    }

    /// What an operator can act on.
    pub(super) fn told(&self, address: &str, error: &RedisError) -> Unavailable {
        if error.is_timeout() {
            return self.silent(address, self.response_timeout);
        }
        let detail = self.without_secrets(error.to_string());
        Unavailable(format!("Redis at {address} {}: {detail}", cause(error)))
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn cause(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "is a read-only replica; the store must name the master"
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "is still loading its data",
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            "does not permit the user a command or a key; docs/redis.md has what it needs"
        }
        ErrorKind::Server(ServerErrorKind::MasterDown) => "is a replica that has lost its master",
        ErrorKind::Server(ServerErrorKind::ClusterDown) => {
            "says that its cluster is down; look at CLUSTER INFO"
        }
        ErrorKind::Server(ServerErrorKind::TryAgain) => {
            "is moving these sessions to another server"
        }
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => {
            "sends to another server again and again; or it is a cluster, and the store must say \
             redis+cluster://"
        }
        ErrorKind::AuthenticationFailed => "refuses the username or the password",
        _ if is_too_much(error) => "answers strangely",
        _ if error.is_connection_refusal() => "refuses the connection; is it running?",
        _ => match error.code() {
            Some("NOAUTH") => "wants a password",
            Some("WRONGPASS") => "refuses the username or the password",
            Some("OOM") => "is out of memory; raise maxmemory",
            Some("MISCONF") => "cannot save to its disk and takes no writes",
            Some("NOREPLICAS") => "has fewer replicas than min-replicas-to-write asks for",
            Some("BUSY") => "is busy with a script; SCRIPT KILL ends it",
            _ => "fails",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::make_extension_error;

    #[test]
    fn a_redirect_names_a_server_also_by_ipv6_and_without_a_host() {
        let at = |host: &str, port| Some(HostPort { host: host.to_owned(), port });
        assert_eq!(redirected("10.0.0.1:7000", "asked"), at("10.0.0.1", 7000));
        assert_eq!(redirected("::1:7000", "asked"), at("::1", 7000));
        assert_eq!(redirected("[::1]:7000", "asked"), at("::1", 7000));
        assert_eq!(redirected(":7000", "asked"), at("asked", 7000));
        for wrong in ["", "7000", "host:", "host:0", "host:70000"] {
            assert_eq!(redirected(wrong, "asked"), None, "{wrong}");
        }
    }

    #[test]
    fn an_operator_can_act_on_what_redis_says() {
        for (code, help) in [
            ("NOAUTH", "wants a password"),
            ("WRONGPASS", "refuses the username"),
            ("OOM", "raise maxmemory"),
            ("MISCONF", "disk"),
            ("NOREPLICAS", "min-replicas-to-write"),
        ] {
            assert!(cause(&make_extension_error(code.to_owned(), None)).contains(help), "{code}");
        }
    }
}
