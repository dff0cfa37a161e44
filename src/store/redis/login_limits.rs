//! Counters of failed logins in Redis. All times are those of its clock, so gateways with different clocks
//! count together.

use std::time::Duration;

use ::redis::cmd;

use super::commands::RedisStore;
use super::keys::{known_place, login_counter, login_target};
use crate::redis::ScriptCall;
use crate::store::login_counters::{CounterGroup, KnownPlace};
use crate::store::types::Unavailable;

impl RedisStore {
    pub(in crate::store) async fn charge_login(
        &self,
        group: &CounterGroup,
    ) -> Result<Result<(), Duration>, Unavailable> {
        let mut call = self.scripts.charge_login.call();
        add_keys(&mut call, group);
        for counter in &group.counters {
            call.arg(millis(counter.rate.every)).arg(millis(counter.rate.window()));
        }
        match self.run::<u64>(login_target(&group.tag), &call).await? {
            0 => Ok(Ok(())),
            wait => Ok(Err(Duration::from_millis(wait))),
        }
    }

    pub(in crate::store) async fn refund_login(
        &self,
        group: &CounterGroup,
    ) -> Result<(), Unavailable> {
        let mut call = self.scripts.refund_login.call();
        add_keys(&mut call, group);
        for counter in &group.counters {
            call.arg(millis(counter.rate.every));
        }
        self.run::<i64>(login_target(&group.tag), &call).await.map(|_| ())
    }

    pub(in crate::store) async fn clear_login(
        &self,
        group: &CounterGroup,
        place: &KnownPlace,
        known_for: Duration,
    ) -> Result<(), Unavailable> {
        let mut call = self.scripts.clear_login.call();
        call.key(known_place(&place.tag, &place.name));
        add_keys(&mut call, group);
        call.arg(millis(known_for));
        self.run::<i64>(login_target(&group.tag), &call).await.map(|_| ())
    }

    pub(in crate::store) async fn is_known_place(
        &self,
        place: &KnownPlace,
    ) -> Result<bool, Unavailable> {
        let mut command = cmd("GET");
        command.arg(known_place(&place.tag, &place.name));
        let known: Option<Vec<u8>> = self.query(login_target(&place.tag), &command).await?;
        Ok(known.is_some())
    }
}

fn add_keys(call: &mut ScriptCall<'_>, group: &CounterGroup) {
    for counter in &group.counters {
        call.key(login_counter(&group.tag, &counter.name));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
