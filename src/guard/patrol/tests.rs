use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use tokio::time::sleep;

use super::super::everyone::tests::guard;
use super::*;
use crate::clock::Clock;
use crate::guard::{LiveLimits, Sight, Terms, Watched};
use crate::session::{ClientContext, Identity, OnReuse, SessionId, SessionPolicy, Token, UserTag};
use crate::store::{RedisSettings, Store};
use crate::telemetry::Metrics;

const HOUR: Duration = Duration::from_hours(1);
const NOW: UnixMillis = UnixMillis(2_000);

fn key(number: usize) -> SessionKey {
    let mut id = [0; 16];
    // The register is spread by the first byte.
    id[..8].copy_from_slice(&number.to_le_bytes());
    SessionKey { tag: UserTag([1; 8]), id: SessionId(id) }
}

fn sight(live: &Live, number: usize) -> Sight {
    let key = key(number);
    let token = Token::new(1, key, 0, [7; 32]);
    let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
    let begun = UnixMillis(1_000);
    let record = Record::begin(Identity::default(), &token, begun, begun.plus(HOUR * 2), from);
    Sight {
        key,
        record: Arc::new(record),
        touched: begun,
        mark: live.mark(),
        checked: Instant::now() - LOOK_EVERY * 2,
        unasked: false,
    }
}

/// A register of so many sessions that nobody asked about for a while.
fn crowd(sessions: usize) -> (Live, Vec<Watched>) {
    let minute = Duration::from_mins(1);
    let policy = SessionPolicy::new(HOUR, HOUR * 2, minute * 10, minute, OnReuse::Revoke);
    let limits = LiveLimits { total: sessions, per_session: 1, unchecked_for: HOUR };
    let live = Live::new(limits, &policy.expect("a policy"), Metrics::default());
    let open = |number| live.watch(&sight(&live, number), Terms::default()).expect("a place");
    let watched = (0..sessions).map(open).collect();
    (live, watched)
}

#[tokio::test]
async fn who_is_doubted_while_5000_wait_for_a_look_is_looked_at_next() {
    let (live, _watched) = crowd(5_000);
    let order = RefCell::new(Vec::new());
    let doubted = Cell::new(None);
    let look = async |asked: SessionKey| {
        let number = order.borrow().len();
        order.borrow_mut().push(asked);
        sleep(Duration::from_millis(2)).await;
        // In the middle of a round, one that it would come to last.
        if number == 1_000 {
            live.vouched(&asked, &sight(&live, 0).record, NOW, Instant::now());
            live.doubt(&asked);
            doubted.set(Some(asked));
        }
        asked
    };
    let seen = async {
        let begun = Instant::now();
        while order.borrow().len() < 2_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody is looked at");
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = walk(&live, || NOW, look) => {}
        () = seen => {}
    }
    let (order, doubted) = (order.into_inner(), doubted.get().expect("one was"));
    let again = order.iter().skip(1_001).position(|asked| *asked == doubted);
    assert!(again.is_some_and(|after| after <= AT_ONCE), "after {again:?} others");
}

/// Cancelled with its round it would be first in the next one, and no breaker would hear of it.
#[tokio::test]
async fn a_look_that_hangs_goes_on_and_holds_up_nobody_else() {
    let (live, _watched) = crowd(AT_ONCE * 2);
    let (hung, others) = (Cell::new(0_usize), Cell::new(0_usize));
    let hangs = |asked: &SessionKey| asked.id.0[0] < 8;
    let answered = Cell::new(0_usize);
    let look = async |asked: SessionKey| {
        if hangs(&asked) {
            hung.set(hung.get() + 1);
            sleep(Duration::from_millis(1_500)).await;
            answered.set(answered.get() + 1);
        } else {
            others.set(others.get() + 1);
            sleep(Duration::from_millis(2)).await;
        }
        asked
    };
    let seen = async {
        let begun = Instant::now();
        while answered.get() < 8 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} of 8", answered.get());
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = walk(&live, || NOW, look) => {}
        () = seen => {}
    }
    assert!(others.get() >= 2 * (AT_ONCE * 2 - 8), "{}", others.get());
    assert!(hung.get() <= 16, "{} questions about 8 sessions", hung.get());
}

/// He would fall behind what changes, and then have to doubt everybody.
#[tokio::test]
async fn who_hears_of_changes_does_not_wait_for_the_store() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", silent.local_addr().expect("an address"));
    let response_timeout = Duration::from_secs(60);
    let settings = RedisSettings { url, response_timeout, ..RedisSettings::default() };
    let store = Store::redis(&settings).expect("settings");
    let guard = guard(&store, &Clock::manual(UnixMillis(1_000_000)));
    let live = &guard.shared.live;
    let sight = Sight { checked: Instant::now(), ..sight(live, 7) };
    let _watched = live.watch(&sight, Terms::default()).expect("a place");
    let (sender, changes) = broadcast::channel(16);
    let hearing = guard.clone();
    let task = tokio::spawn(async move { hearing.hear_all(changes).await });
    for change in [Change::All, Change::Session(sight.key)] {
        sender.send(change).expect("somebody hears");
        let begun = Instant::now();
        while live.next_doubted() != Some(sight.key) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{change:?} is not heard");
            sleep(Duration::from_millis(1)).await;
        }
        live.vouched(&sight.key, &sight.record, NOW, Instant::now());
    }
    task.abort();
}
