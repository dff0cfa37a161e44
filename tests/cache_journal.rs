//! A store that goes backwards: a restart from an old snapshot, a flush, a key that is gone. What was
//! ended stays ended, at the gateway that ended it from the first request on, and elsewhere soon.

#[path = "support/following.rs"]
#[allow(dead_code, reason = "the suite of races uses the rest of it")]
mod following;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis;

use std::time::{Duration, Instant};

use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, NotBefore, SessionId, SessionKey};
use doorward::store::{Slot, Store};
use following::{Gateway, key, until};
use redis::{How, RedisServer};

const PATIENCE: Duration = Duration::from_secs(20);
const LATER: UnixMillis = UnixMillis(u64::MAX);

/// A gateway that ends things, and a store that only Redis tells anything.
struct Two {
    server: RedisServer,
    here: Gateway,
    elsewhere: Store,
    now: UnixMillis,
}

impl Two {
    async fn start() -> Two {
        let server = RedisServer::start(How::default());
        let here = Gateway::on(&server.settings()).await;
        let elsewhere = Store::redis(&server.settings()).expect("good settings");
        Two { server, here, elsewhere, now: Clock::System.now() }
    }

    async fn session(&self, of: SessionKey, created: UnixMillis) -> SessionKey {
        self.here.store.create(&of, b"sealed", created, LATER).await.expect("available");
        of
    }

    /// What Redis itself says.
    async fn slot(&self, key: &SessionKey) -> Option<Slot> {
        self.elsewhere.load(key).await.ok().map(|loaded| loaded.slot)
    }

    async fn line(&self, key: &SessionKey) -> Option<NotBefore> {
        self.elsewhere.load(key).await.ok().map(|loaded| loaded.not_before)
    }

    async fn ends(&self, key: &SessionKey) -> Duration {
        let began = Instant::now();
        while !matches!(self.slot(key).await, Some(Slot::Ended { .. })) {
            assert!(began.elapsed() < PATIENCE, "it is not written again");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    }

    /// Redis keeps what it has now, and comes back with no more than that.
    fn snapshot(&self) {
        assert_eq!(self.server.command(&["SAVE"]), "+OK");
    }
}

/// Guard: `Journal::over` in `Distributed::ask` here; `Follower::recognise` elsewhere.
#[tokio::test]
async fn a_session_revoked_before_a_restart_from_an_older_snapshot_stays_dead() {
    let mut two = Two::start().await;
    let key = two.session(key(), two.now).await;
    let other = two.session(following::key(), two.now).await;
    two.snapshot();
    two.here.store.end(&key, EndReason::Revoked, two.now, LATER).await.expect("available");
    two.server.restart();
    assert!(matches!(two.slot(&key).await, Some(Slot::Live { .. })), "the snapshot is older");
    let here = two.here.load(&key).await.slot;
    assert_eq!(here, Slot::Ended { reason: EndReason::Revoked, at: two.now });
    println!("written again {:?} after the restart", two.ends(&key).await);
    assert!(matches!(two.slot(&other).await, Some(Slot::Live { .. })), "nobody else is out");
}

/// Guard: the script that restores a line ends what it ended then, not what began since.
#[tokio::test]
async fn a_line_lost_in_a_restart_is_drawn_where_it_was_and_a_login_since_lives() {
    let mut two = Two::start().await;
    let old = two.session(key(), two.now).await;
    let kept = two.session(SessionKey { id: SessionId([7; 16]), ..old }, two.now).await;
    let line = two.here.store.revoke_user(&old.tag, two.now, Some(kept.id)).await;
    let line = line.expect("available").line;
    let since = two.now.plus(Duration::from_secs(60));
    let new = two.session(SessionKey { id: SessionId([8; 16]), ..old }, since).await;
    let name = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&old.tag.0));
    assert_eq!(two.server.command(&["DEL", &name]), ":1");
    two.snapshot();
    two.server.restart();
    assert_eq!(two.here.load(&old).await.not_before, line, "held against what is loaded");
    let deadline = Instant::now() + PATIENCE;
    while two.line(&old).await != Some(line) {
        assert!(Instant::now() < deadline, "the line is not drawn again");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(line.ends(old.id, two.now) && !line.ends(kept.id, two.now));
    assert!(!line.ends(new.id, since), "who logged in since is not out");
}

/// Guard: a null push is taken for a store that went backwards, and so is a beat that is gone; either
/// alone is enough, the first is sooner.
#[tokio::test]
async fn what_ended_before_a_flush_gets_its_tombstone_back() {
    let two = Two::start().await;
    let key = two.session(key(), two.now).await;
    two.here.store.end(&key, EndReason::Theft, two.now, LATER).await.expect("available");
    let line = two.here.store.revoke_everyone(two.now).await.expect("available").line;
    assert_eq!(two.server.command(&["FLUSHALL"]), "+OK");
    two.ends(&key).await;
    assert_eq!(two.elsewhere.everyone_line().await, Ok(line), "and so does the line of all");
}

/// Guard: a beat that Redis forgot.
#[tokio::test]
async fn a_store_that_lost_the_last_beat_is_taken_for_one_that_went_backwards() {
    let two = Two::start().await;
    let key = two.session(key(), two.now).await;
    two.here.store.end(&key, EndReason::Logout, two.now, LATER).await.expect("available");
    let lose = "for _, key in ipairs(redis.call('KEYS', 'dw:*')) do redis.call('DEL', key) end";
    two.server.command(&["EVAL", lose, "0"]);
    two.ends(&key).await;
}

/// Guard: `restore` goes on to the next end, and comes back to this one.
#[tokio::test]
async fn a_line_that_somebody_spoiled_keeps_no_other_end_from_being_written_again() {
    let two = Two::start().await;
    let spoiled = two.session(key(), two.now).await;
    let key = two.session(following::key(), two.now).await;
    let line = two.here.store.revoke_user(&spoiled.tag, two.now, None).await;
    let line = line.expect("available").line;
    two.here.store.end(&key, EndReason::Revoked, two.now, LATER).await.expect("available");
    let name = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&spoiled.tag.0));
    let lose = "for _, key in ipairs(redis.call('KEYS', 'dw:*')) do redis.call('DEL', key) end";
    let spoil = format!("{lose} redis.call('SET', KEYS[1], 'no line')");
    two.server.command(&["EVAL", &spoil, "1", &name]);
    two.ends(&key).await;
    two.server.command(&["DEL", &name]);
    let deadline = Instant::now() + PATIENCE;
    while two.line(&spoiled).await != Some(line) {
        assert!(Instant::now() < deadline, "the line is not drawn again");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Guard: `Journal::note` comes after the answer.
#[tokio::test]
async fn an_end_that_redis_did_not_acknowledge_is_not_remembered() {
    let mut two = Two::start().await;
    let key = two.session(key(), two.now).await;
    two.snapshot();
    two.server.pause();
    let ended = two.here.store.end(&key, EndReason::Logout, two.now, LATER).await;
    assert!(ended.is_err(), "nobody answers");
    two.server.kill();
    two.server.restart();
    until(|| two.here.store.figures().is_some_and(|figures| figures.proof_age.is_some())).await;
    assert!(matches!(two.here.load(&key).await.slot, Slot::Live { .. }));
}
