//! What goes wrong in a cache that is told of changes, each played by hand: a change between a question
//! and its answer, several in one push, words that come late or never, servers that stop.
//!
//! For each test a line stands in `src/store` without which it fails; the test names it.

#[path = "support/following.rs"]
mod following;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis;
#[path = "support/scripted_redis.rs"]
mod scripted_redis;

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use doorward::clock::{Clock, UnixMillis};
use doorward::session::{EndReason, NotBefore, SessionKey, UserTag};
use doorward::store::{Change, Loaded, Slot, Store};
use following::{BOUND, Gateway, key, revision, until};
use redis::{How, RedisServer};
use scripted_redis::Scripted;
use tokio::task::JoinSet;

fn record(key: &SessionKey) -> String {
    format!("dw:s:{{{}}}:{}", HEXLOWER.encode(&key.tag.0), HEXLOWER.encode(&key.id.0))
}

fn line(tag: &UserTag) -> String {
    format!("dw:nb:{{{}}}", HEXLOWER.encode(&tag.0))
}

/// A record as it lies in Redis.
fn packed(revision: u64) -> Vec<u8> {
    [&[1], revision.to_be_bytes().as_slice(), b"sealed"].concat()
}

async fn scripted() -> (Scripted, Gateway, SessionKey) {
    let server = Scripted::start().await;
    let gateway = Gateway::on(&server.settings()).await;
    let key = key();
    server.put(&record(&key), &packed(1));
    (server, gateway, key)
}

/// A load whose answer the server holds back. Gives the answer once it is let go.
async fn asked(server: &Scripted, gateway: &Gateway, key: SessionKey) -> JoinSet<Loaded> {
    let store = gateway.store.for_worker();
    // A worker's first command makes its connection, which the server must answer.
    store.ping().await.expect("available");
    server.hold_answers();
    let mut load = JoinSet::new();
    load.spawn(async move { store.load(&key).await.expect("in time") });
    server.held(1).await;
    load
}

async fn answered(mut load: JoinSet<Loaded>) -> Loaded {
    load.join_next().await.expect("one").expect("no panic")
}

/// Guard: the nonce in `Shard::finish_record`.
#[tokio::test]
async fn a_change_told_between_question_and_answer_keeps_the_answer_out() {
    let (server, mut gateway, key) = scripted().await;
    let load = asked(&server, &gateway, key).await;
    server.put(&record(&key), &packed(2));
    server.tell(&[&record(&key)]);
    gateway.hears(Change::Session(key)).await;
    server.release_answers();
    assert_eq!(revision(Some(answered(load).await)), Some(1), "the answer was on its way");
    assert_eq!(gateway.known(&key), None, "and is not kept");
    gateway.load(&key).await;
    assert_eq!(revision(gateway.known(&key)), Some(2));
}

/// Guard: the nonce in `Shard::finish_line`.
#[tokio::test]
async fn a_line_drawn_between_question_and_answer_keeps_the_answer_out() {
    let (server, mut gateway, key) = scripted().await;
    let load = asked(&server, &gateway, key).await;
    server.put(&line(&key.tag), b"77");
    server.tell(&[&line(&key.tag)]);
    gateway.hears(Change::User(key.tag)).await;
    server.release_answers();
    assert_eq!(answered(load).await.not_before, NotBefore::default());
    assert_eq!(gateway.known(&key), None);
    gateway.load(&key).await;
    assert_eq!(gateway.known(&key).expect("known").not_before.at, UnixMillis(77));
}

/// Guard: `Link::on_push` goes through all names.
#[tokio::test]
async fn every_key_of_a_push_is_forgotten_and_not_only_the_first() {
    let (server, mut gateway, first) = scripted().await;
    let keys = [first, key(), key()];
    for key in &keys {
        server.put(&record(key), &packed(1));
        gateway.knows(key).await;
    }
    let stays = key();
    server.put(&record(&stays), &packed(1));
    gateway.knows(&stays).await;
    server.tell(&[&record(&keys[0]), "dw:s:not-ours", &record(&keys[1]), &line(&keys[2].tag)]);
    gateway.hears(Change::User(keys[2].tag)).await;
    for key in &keys {
        assert_eq!(gateway.known(key), None);
    }
    assert!(gateway.known(&stays).is_some(), "what did not change is still known");
}

/// Guard: `names` reads nil as everything.
#[tokio::test]
async fn a_push_without_names_forgets_everything_and_answers_on_their_way() {
    let (server, mut gateway, first) = scripted().await;
    gateway.knows(&first).await;
    let second = key();
    server.put(&record(&second), &packed(1));
    let load = asked(&server, &gateway, second).await;
    server.tell_of_a_flush();
    gateway.hears(Change::All).await;
    server.release_answers();
    answered(load).await;
    assert_eq!((gateway.known(&first), gateway.known(&second)), (None, None));
}

/// Guard: `Link::lose` clears, when the connection says that it broke.
#[tokio::test]
async fn a_connection_that_breaks_forgets_everything_at_once() {
    let (server, gateway, key) = scripted().await;
    gateway.knows(&key).await;
    let began = Instant::now();
    server.cut_followers();
    until(|| gateway.known(&key).is_none()).await;
    // Far before the proof is too old.
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(gateway.age(), None, "and nothing is proven");
}

/// Guard: the deadline of a beat, or the age of the proof: either alone keeps the bound.
#[tokio::test]
async fn a_half_open_connection_is_believed_for_three_seconds_at_most() {
    let (server, gateway, key) = scripted().await;
    gateway.knows(&key).await;
    server.fall_silent();
    let began = Instant::now();
    server.put(&record(&key), &packed(2));
    while gateway.known(&key).is_some() {
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(revision(Some(gateway.load(&key).await)), Some(2), "and Redis is asked");
    assert_eq!(gateway.known(&key), None, "whose answers are not kept while nothing is proven");
}

/// Guard: the age of the proof, and nothing else: the task that would give the connection up stood too.
#[tokio::test]
async fn a_gateway_that_stood_still_believes_nothing_of_what_it_knew() {
    let (server, gateway, key) = scripted().await;
    gateway.knows(&key).await;
    // Everything of this gateway and of its server lives on this thread: it stands, as under SIGSTOP.
    std::thread::sleep(BOUND);
    assert_eq!(gateway.known(&key), None);
    server.put(&record(&key), &packed(2));
    assert_eq!(revision(Some(gateway.load(&key).await)), Some(2));
    gateway.follows().await;
}

/// Guard: `Link::expect` takes the time before the beat is sent.
#[tokio::test]
async fn a_word_that_comes_late_proves_only_the_time_its_beat_was_sent() {
    let (server, gateway, key) = scripted().await;
    let late = Duration::from_millis(1_500);
    server.tell_of_beats_late(late);
    // Two words later, the last proof is of a beat that was told of late.
    for _ in 0..2 {
        let before = gateway.age().expect("followed");
        until(|| gateway.age().is_some_and(|age| age < before) || gateway.age() > Some(late)).await;
        until(|| gateway.age().is_some_and(|age| age >= late)).await;
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let age = gateway.age().expect("it is late and not too late");
        assert!(age >= late, "proven {age:?} ago, by a word that took {late:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.knows(&key).await;
}

/// Guard: `Distributed::load` keeps nothing of a load that was given up.
#[tokio::test]
async fn an_answer_after_its_deadline_is_not_kept_and_is_nobody_elses() {
    let (server, mut gateway, key) = scripted().await;
    let other = following::key();
    server.put(&record(&other), &packed(9));
    let store = gateway.store.for_worker();
    store.ping().await.expect("available");
    server.hold_answers();
    assert!(store.load(&key).await.is_err(), "nobody answers");
    server.put(&record(&key), &packed(2));
    server.tell(&[&record(&key)]);
    gateway.hears(Change::Session(key)).await;
    server.release_answers();
    let loaded = store.load(&other).await.expect("available");
    assert_eq!(revision(Some(loaded)), Some(9), "the late answer is not taken for this one");
    assert_eq!(gateway.known(&key), None);
    assert_eq!(revision(Some(gateway.load(&key).await)), Some(2));
}

/// Guard: the nonce in `Shard::finish_record`, which is not a mere mark.
#[tokio::test]
async fn of_two_workers_with_one_key_the_slower_never_brings_back_what_the_faster_replaced() {
    let (server, mut gateway, key) = scripted().await;
    let slow = asked(&server, &gateway, key).await;
    let late = server.take_held();
    server.put(&record(&key), &packed(2));
    server.tell(&[&record(&key)]);
    gateway.hears(Change::Session(key)).await;
    // The faster one has asked, and its mark stands, when the slow answer comes.
    let fast = asked(&server, &gateway, key).await;
    late.into_iter().for_each(|release| release());
    assert_eq!(revision(Some(answered(slow).await)), Some(1));
    assert_eq!(gateway.known(&key), None, "the slow answer does not take the other's place");
    server.release_answers();
    answered(fast).await;
    assert_eq!(revision(gateway.known(&key)), Some(2));
}

/// Guard: `OwnWrite` forgets when it is dropped.
#[tokio::test]
async fn a_write_of_ones_own_whose_outcome_is_unknown_leaves_nothing_known() {
    let (server, gateway, key) = scripted().await;
    gateway.knows(&key).await;
    let store = gateway.store.for_worker();
    store.ping().await.expect("available");
    server.hold_answers();
    let (now, later) = (UnixMillis(1), UnixMillis(u64::MAX));
    assert!(store.end(&key, EndReason::Logout, now, later).await.is_err(), "nobody answers");
    assert_eq!(gateway.known(&key), None);
}

/// Guard: `OwnWrite`, again: the word of one's own write comes after its answer.
#[tokio::test]
async fn who_wrote_reads_what_he_wrote() {
    let server = RedisServer::start(How::default());
    let gateway = Gateway::on(&server.settings()).await;
    let (now, later) = (Clock::System.now(), UnixMillis(u64::MAX));
    for _ in 0..200 {
        let key = key();
        gateway.store.create(&key, b"sealed", now, later).await.expect("available");
        gateway.load(&key).await;
        gateway.store.commit(&key, 1, b"renewed", later).await.expect("available");
        assert_ne!(revision(gateway.known(&key)), Some(1));
        gateway.load(&key).await;
        gateway.store.end(&key, EndReason::Logout, now, later).await.expect("available");
        assert_eq!(gateway.known(&key), None);
    }
}

/// Guard: `Shard::touched`. Without it, a session in use would be touched at every request.
#[tokio::test]
async fn a_touch_of_ones_own_is_known_without_asking() {
    let server = RedisServer::start(How::default());
    let gateway = Gateway::on(&server.settings()).await;
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.knows(&key).await;
    let touched = now.plus(Duration::from_secs(60));
    gateway.store.touch(&key, touched, later).await.expect("available");
    assert_eq!(gateway.known(&key).expect("still").touched, touched);
}

/// Guard: `FOLLOWED`, and the null push of a real server.
#[tokio::test]
async fn what_another_gateway_does_on_a_real_redis_is_heard() {
    let server = RedisServer::start(How::default());
    let mut gateway = Gateway::on(&server.settings()).await;
    let other = Store::redis(&server.settings()).expect("good settings");
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    other.create(&key, b"sealed", now, later).await.expect("available");

    gateway.knows(&key).await;
    gateway.listens();
    other.commit(&key, 1, b"renewed", later).await.expect("available");
    gateway.hears(Change::Session(key)).await;
    assert_eq!(gateway.known(&key), None);

    gateway.knows(&key).await;
    gateway.listens();
    other.touch(&key, now, later).await.expect("available");
    other.revoke_user(&key.tag, now, None).await.expect("available");
    gateway.hears(Change::User(key.tag)).await;
    assert_eq!(gateway.known(&key), None);

    gateway.knows(&key).await;
    gateway.listens();
    other.revoke_everyone(now).await.expect("available");
    gateway.hears(Change::Everyone).await;
    assert_eq!(gateway.known(&key), None);

    gateway.knows(&key).await;
    gateway.listens();
    other.end(&key, EndReason::Revoked, now, later).await.expect("available");
    gateway.hears(Change::Session(key)).await;
    assert_eq!(gateway.known(&key), None);

    let second = following::key();
    other.create(&second, b"sealed", now, later).await.expect("available");
    gateway.knows(&second).await;
    gateway.listens();
    assert_eq!(server.command(&["FLUSHALL"]), "+OK");
    gateway.hears(Change::All).await;
    assert_eq!(gateway.known(&second), None);
}

/// Guard: touches lie under a prefix of their own.
#[tokio::test]
async fn a_touch_by_another_gateway_is_not_told_to_anybody() {
    let server = RedisServer::start(How::default());
    let mut gateway = Gateway::on(&server.settings()).await;
    let other = Store::redis(&server.settings()).expect("good settings");
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    other.create(&key, b"sealed", now, later).await.expect("available");
    gateway.hears(Change::Session(key)).await;
    gateway.knows(&key).await;
    other.touch(&key, now, later).await.expect("available");
    let marker = following::key();
    other.create(&marker, b"sealed", now, later).await.expect("available");
    assert_eq!(gateway.changes.recv().await, Ok(Change::Session(marker)), "nothing before it");
    assert!(gateway.known(&key).is_some());
}

/// Guard: the deadline of a beat, or the age of the proof; a stopped server closes nothing.
#[tokio::test]
async fn a_stopped_redis_is_believed_for_three_seconds_at_most_and_followed_again_when_it_goes_on()
{
    let server = RedisServer::start(How::default());
    let gateway = Gateway::on(&server.settings()).await;
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.knows(&key).await;
    server.pause();
    let began = Instant::now();
    while gateway.known(&key).is_some() {
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.resume();
    let resumed = Instant::now();
    gateway.follows().await;
    assert!(resumed.elapsed() < Duration::from_secs(3), "{:?}", resumed.elapsed());
    gateway.knows(&key).await;
}

/// Guard: `Link::lose` and `clear(Cleared::Connected)`: either alone is enough.
#[tokio::test]
async fn what_changes_while_the_connection_is_away_is_not_believed_after_it() {
    let mut server = RedisServer::start(How::default());
    let gateway = Gateway::on(&server.settings()).await;
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("available");
    gateway.knows(&key).await;
    server.restart();
    until(|| gateway.age().is_none_or(|age| age > Duration::from_secs(1))).await;
    gateway.follows().await;
    assert_eq!(gateway.known(&key), None);
    assert_eq!(gateway.load(&key).await.slot, Slot::Absent);
}

/// Guard: `Follower::told` tries another tag.
#[tokio::test]
async fn a_primary_that_takes_only_some_names_is_given_one_that_it_takes() {
    let server = Scripted::start().await;
    server.take_only("{23}");
    let gateway = Gateway::on(&server.settings()).await;
    // Its slots move away, and others come.
    server.take_only("{31}");
    until(|| gateway.age().is_some_and(|age| age > Duration::from_millis(900))).await;
    until(|| gateway.age().is_some_and(|age| age < Duration::from_millis(500))).await;
    let key = key();
    server.put(&record(&key), &packed(1));
    gateway.knows(&key).await;
}

/// Guard: the permissions in the documentation of `src/store/redis/mod.rs`.
#[tokio::test]
async fn a_user_with_the_documented_permissions_can_follow() {
    let server = RedisServer::start(How::default());
    let documented = include_str!("../src/store/redis/mod.rs").lines().take(30);
    let documented: String = documented.collect::<Vec<_>>().join(" ");
    let commands = documented.split([' ', '`', '.']).filter(|word| word.starts_with('+'));
    let user = ["ACL", "SETUSER", "gate", "on", ">pw", "~dw:*"];
    let acl: Vec<&str> = user.into_iter().chain(commands).collect();
    assert_eq!(server.command(&acl), "+OK");
    let mut settings = server.settings();
    settings.username = Some("gate".to_owned());
    settings.password = Some("pw".to_owned().into());
    let gateway = Gateway::on(&settings).await;
    let (key, now, later) = (key(), Clock::System.now(), UnixMillis(u64::MAX));
    gateway.store.create(&key, b"sealed", now, later).await.expect("permitted");
    gateway.knows(&key).await;
}
