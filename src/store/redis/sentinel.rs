//! Who the master is, as sentinels say.
//!
//! All are asked at once. Of the answers of more than half of them, or of all that answered in time, the
//! one with the greatest epoch is the last failover: a sentinel that was cut off has an older one. The
//! master is then asked for its role, since for a moment it may still be what it was: a replica.

use std::collections::HashMap;

use ::redis::{Value, cmd, from_redis_value};
use tokio::task::JoinSet;

use super::connection::Target;
use super::dial::{Dialer, Patience};
use super::server;
use super::topology::{Found, Map};
use crate::config::HostPort;
use crate::store::Unavailable;

/// What one sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    at: HostPort,
    epoch: u64,
}

/// Finds the master. Whether it is one is asked only if it is not the one of before.
pub(super) async fn find(
    dialer: &Dialer,
    sentinels: &[HostPort],
    master: &str,
    before: &Map,
) -> Result<Found, Unavailable> {
    let (named, by_most) = named(dialer, sentinels, master, before.epoch).await?;
    let address = named.at.to_string();
    if before.primaries.iter().all(|server| server.address != address) {
        is_master(dialer, &named.at).await?;
    }
    let (epoch, primaries) = (named.epoch, vec![named.at]);
    Ok(Found { epoch, primaries, ranges: Vec::new(), names: HashMap::new(), by_most })
}

/// The newest that they say, and whether more than half of them were heard.
async fn named(
    dialer: &Dialer,
    sentinels: &[HostPort],
    master: &str,
    epoch: u64,
) -> Result<(Named, bool), Unavailable> {
    let mut asked = JoinSet::new();
    for at in sentinels {
        asked.spawn(ask(dialer.sentinel(at), dialer.patience(), at.clone(), master.to_owned()));
    }
    let (mut newest, mut heard): (Option<Named>, usize) = (None, 0);
    let mut trouble = String::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(named)) => {
                heard += 1;
                if newest.as_ref().is_none_or(|newest| newest.epoch < named.epoch) {
                    newest = Some(named);
                }
            }
            Ok(Err(error)) => trouble = error,
            Err(error) => trouble = error.to_string(),
        }
        // One that remembers less is believed only when nobody knows better.
        let is_newest = newest.as_ref().is_some_and(|newest| newest.epoch >= epoch);
        if is_newest && heard * 2 > sentinels.len() {
            break;
        }
    }
    let by_most = heard * 2 > sentinels.len();
    newest.map(|named| (named, by_most)).ok_or_else(|| {
        let trouble = dialer.without_secrets(trouble);
        Unavailable(format!("no sentinel names a master called {master}: {trouble}"))
    })
}

async fn ask(
    target: Target,
    patience: Patience,
    at: HostPort,
    master: String,
) -> Result<Named, String> {
    let told = |error: ::redis::RedisError| format!("sentinel {at}: {error}");
    let mut connection = patience.connect(&target).await.map_err(told)?;
    let mut command = cmd("SENTINEL");
    command.arg("MASTER").arg(&master);
    let answer: Value = command.query_async(&mut connection).await.map_err(told)?;
    read(answer, &at.host).ok_or_else(|| format!("sentinel {at} answers strangely"))
}

fn read(answer: Value, asked: &str) -> Option<Named> {
    let fields: HashMap<String, String> = from_redis_value(answer).ok()?;
    let host = fields.get("ip").filter(|host| !host.is_empty()).map_or(asked, String::as_str);
    let port = fields.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Some(Named { at: HostPort { host: host.to_owned(), port }, epoch })
}

async fn is_master(dialer: &Dialer, at: &HostPort) -> Result<(), Unavailable> {
    let address = at.to_string();
    let told = |error: ::redis::RedisError| dialer.told(&address, &error);
    let mut connection = dialer.patience().connect(&dialer.target(at)).await.map_err(told)?;
    server::is_master(&mut connection).await.map_err(|error| {
        let Unavailable(detail) = told(error);
        Unavailable(format!("the failover goes on: {detail}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_a_sentinel_says_is_read_and_foreign_text_is_not() {
        let pairs = ["name", "m", "ip", "10.0.0.1", "port", "7000", "config-epoch", "4"];
        let named = read(Value::Array(pairs.map(bulk).to_vec()), "asked").expect("read");
        assert_eq!((named.at.to_string(), named.epoch), ("10.0.0.1:7000".to_owned(), 4));
        for foreign in [Value::Nil, Value::Array(vec![bulk("ip")]), bulk("x")] {
            assert_eq!(read(foreign, "asked"), None);
        }
        let portless = ["ip", "10.0.0.1", "port", "0"];
        assert_eq!(read(Value::Array(portless.map(bulk).to_vec()), "asked"), None);
    }
}
