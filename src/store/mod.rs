//! Where session records live. A store loads and compares-and-swaps; it judges nothing.
//!
//! Three answers are never mixed: *absent* is a value ([`Slot::Absent`]), *unavailable* is an error
//! ([`Unavailable`], answered with 503 and an untouched cookie), *refused* is for
//! [`crate::session::decide()`].
//!
//! Times to live are housekeeping, never the judge: a store forgets a session only some time after
//! `forget_at`, and never a tombstone before it. `forget_at` must not lie before the session's absolute
//! end: a touch does not prolong the record.
//!
//! | store | for | durable when acknowledged |
//! | --- | --- | --- |
//! | [`Store::Memory`] | tests, the demo | no |
//! | [`Store::Embedded`] | one machine | yes, but for touches (200 ms) |
//! | [`Store::Redis`] | several gateways | as Redis is configured |
//!
//! An operation whose answer is `Unavailable` may or may not have happened. All of them can be called
//! again: none does harm twice.

mod cache;
mod distributed;
mod embedded;
// For fuzzing and the replay of what it found; nothing else outside builds on it.
#[doc(hidden)]
pub mod entry;
mod follow;
mod journal;
mod memory;
mod redis;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

pub use self::cache::{CacheFigures, Cleared};
pub use self::distributed::{Distributed, DistributedFigures};
pub use self::embedded::Embedded;
pub use self::memory::Memory;
pub use self::redis::{Advice, RedisSettings};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// Most sessions in a listing of one user, the newest first.
pub const LISTED_MOST: usize = 1_000;

/// A store. A clone is another handle on the same one.
#[derive(Clone, Debug)]
pub enum Store {
    /// This process' memory.
    Memory(Arc<Memory>),
    /// One file on this machine, read from memory.
    Embedded(Arc<Embedded>),
    /// A Redis or Valkey shared by several gateways.
    Redis(Distributed),
}

/// What lies under a session's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing: never written here, or forgotten.
    Absent,
    /// A sealed record. `revision` rises by one with each commit; the first is 1.
    Live { revision: u64, sealed: Bytes },
    /// A tombstone: the session ended and no commit can bring it back.
    Ended { reason: EndReason, at: UnixMillis },
}

/// One load: the slot, and what stands beside it in the same Redis slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub slot: Slot,
    /// The last touch, zero when there was none.
    pub touched: UnixMillis,
    /// The user's "log out everywhere" line.
    pub not_before: NotBefore,
}

/// What became of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    Swapped,
    /// Somebody else was first, or the session ended: load and decide again.
    Lost,
}

/// How sure it is that a write outlives its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It ends with the process: [`Store::Memory`].
    InMemory,
    /// On this machine's disk.
    OnDisk,
    /// As Redis is configured; no replica was waited for.
    Unasked,
    /// `got` replicas said in time that they have it. With fewer than `asked` a failover may lose it.
    Replicated { asked: u32, got: u32 },
}

impl Durability {
    /// Whether it outlives its server; `None` where nobody asked.
    pub fn is_durable(self) -> Option<bool> {
        match self {
            Durability::InMemory => Some(false),
            Durability::OnDisk => Some(true),
            Durability::Unasked => None,
            Durability::Replicated { asked, got } => Some(got >= asked),
        }
    }
}

/// A line that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn<L> {
    pub line: L,
    pub durability: Durability,
}

/// A session in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: SessionKey,
    pub revision: u64,
    pub sealed: Bytes,
    pub touched: UnixMillis,
}

/// Something in the store changed, here or at another gateway: what was known of it may be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session was renewed, or ended.
    Session(SessionKey),
    /// A user's line moved.
    User(UserTag),
    /// The line of all users moved.
    Everyone,
    /// Nobody knows what: changes were missed, or the store was emptied.
    All,
}

/// The store did not answer, or not in time. Nothing is known; nothing may be concluded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct Unavailable(pub String);

/// Why a store cannot be built. Shown to the operator at start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store's directory {}: {error}", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(
        "{} is in use by another doorward; give each its own directory, or share a Redis",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "{} was written by another version of doorward (schema {found}); start that version, or remove the file, which ends all sessions",
        path.display()
    )]
    Schema { path: PathBuf, found: u64 },
    #[error("{} cannot be read as a session store: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{}: {error}", path.display())]
    Secret { path: PathBuf, error: std::io::Error },
    #[error("the Redis settings: {0}")]
    Redis(String),
}

/// What goes over the network is boxed: its space would lie in the future of each request, and be moved
/// with it, where nothing ever goes over a network.
impl Store {
    /// A store that ends with the process.
    pub fn memory(clock: Clock) -> Store {
        Store::Memory(Arc::new(Memory::new(clock)))
    }

    /// Opens or makes `directory/sessions.redb` and reads it. Blocks; call it at start.
    ///
    /// # Errors
    /// When the directory cannot be made or used, another process has it open, or the file is not ours.
    pub fn embedded(directory: &Path, clock: Clock) -> Result<Store, OpenError> {
        Ok(Store::Embedded(Arc::new(Embedded::open(directory, clock)?)))
    }

    /// A store on Redis or Valkey. Connects only when first asked, so that the gateway starts while
    /// Redis is down.
    ///
    /// # Errors
    /// When the URL or a certificate file is wrong.
    pub fn redis(settings: &RedisSettings) -> Result<Store, OpenError> {
        Ok(Store::Redis(Distributed::new(settings)?))
    }

    /// A handle for one worker: on Redis with a connection of its own, which lives in the runtime that
    /// first uses it. Clones of a handle share its connection.
    pub fn for_worker(&self) -> Store {
        match self {
            Store::Memory(_) | Store::Embedded(_) => self.clone(),
            Store::Redis(redis) => Store::Redis(redis.for_worker()),
        }
    }

    /// What this gateway knows of a session without asking: all of it, and at most three seconds old. It
    /// may admit. To refuse, to end or to write, [`Store::load`] first: activity at another gateway is
    /// not known here.
    pub fn known(&self, key: &SessionKey) -> Option<Loaded> {
        match self {
            // Asking costs nothing.
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => redis.known(key),
        }
    }

    /// Follows what changes in the store, for ever: until it does, nothing is [known](Store::known) and
    /// no [change](Store::changes) is told. Stores of one process return at once.
    pub async fn follow(&self) {
        match self {
            Store::Memory(_) | Store::Embedded(_) => {}
            Store::Redis(redis) => redis.follow().await,
        }
    }

    /// What changes from here on, whoever changed it, this gateway too; `None` where nobody else can.
    /// A listener that falls behind has to look at everything, as after [`Change::All`].
    pub fn changes(&self) -> Option<broadcast::Receiver<Change>> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.changes()),
        }
    }

    /// What the store of several gateways did since the start.
    pub fn figures(&self) -> Option<DistributedFigures> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.figures()),
        }
    }

    /// How long several questions may take together that follow one from the other; no limit where asking
    /// takes no time.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.patience()),
        }
    }

    /// What stands under `key`, and beside it.
    pub async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().load(key)),
            Store::Embedded(embedded) => Ok(embedded.tables().load(key)),
            Store::Redis(redis) => Box::pin(redis.load(key)).await,
        }
    }

    /// Writes a new session as revision 1 and into its user's index.
    ///
    /// # Errors
    /// Also when the id is taken, or the user has 10,000 sessions.
    pub async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.create(key, sealed, created, forget_at).map(|()| Durability::InMemory)
            }
            Store::Embedded(embedded) => {
                let created = embedded.create(key, sealed, created, forget_at).await;
                created.map(|()| Durability::OnDisk)
            }
            Store::Redis(redis) => Box::pin(redis.create(key, sealed, created, forget_at)).await,
        }
    }

    /// Replaces the record if it still is of revision `expected`.
    pub async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.commit(key, expected, sealed, forget_at)),
            Store::Embedded(embedded) => embedded.commit(key, expected, sealed, forget_at).await,
            Store::Redis(redis) => Box::pin(redis.commit(key, expected, sealed, forget_at)).await,
        }
    }

    /// Notes activity. Never moves back, never creates or revives a session.
    pub async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.tables().touch(key, at);
                Ok(())
            }
            Store::Embedded(embedded) => {
                embedded.touch(key, at);
                Ok(())
            }
            Store::Redis(redis) => Box::pin(redis.touch(key, at, forget_at)).await,
        }
    }

    /// Ends the session for good, whether it stands here or not: after a failover it may come back. The
    /// first reason stays.
    pub async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.end(key, reason, at, forget_at);
                Ok(Durability::InMemory)
            }
            Store::Embedded(embedded) => {
                embedded.end(key, reason, at, forget_at).await.map(|()| Durability::OnDisk)
            }
            Store::Redis(redis) => Box::pin(redis.end(key, reason, at, forget_at)).await,
        }
    }

    /// Draws the user's line behind every session begun until now, but `except`. One atomic write.
    ///
    /// The line lies at `now`, at the line before it, or at the greatest `created` ever indexed for the
    /// user, whichever is last: a gateway whose clock is behind still ends the sessions begun by one
    /// whose clock is ahead.
    pub async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<Drawn<NotBefore>, Unavailable> {
        let (line, durability) = match self {
            Store::Memory(memory) => (memory.revoke_user(tag, now, except), Durability::InMemory),
            Store::Embedded(embedded) => {
                (embedded.revoke_user(*tag, now, except).await?, Durability::OnDisk)
            }
            Store::Redis(redis) => redis.revoke_user(tag, now, except).await?,
        };
        Ok(Drawn { line, durability })
    }

    /// The user's line. A login begins its session at least 1 ms behind it.
    pub async fn not_before(&self, tag: &UserTag) -> Result<NotBefore, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().facts(*tag).line),
            Store::Embedded(embedded) => Ok(embedded.tables().facts(*tag).line),
            Store::Redis(redis) => Box::pin(redis.not_before(tag)).await,
        }
    }

    /// What is kept of the user beyond his sessions, as [`Store::swap_memo`] was given it. Whatever
    /// somebody else wrote there comes back too, cut.
    pub async fn memo(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        let sealed = |memo: entry::Memo| memo.sealed;
        match self {
            Store::Memory(memory) => Ok(memory.tables().memo(*tag).map(sealed)),
            Store::Embedded(embedded) => Ok(embedded.tables().memo(*tag).map(sealed)),
            Store::Redis(redis) => Box::pin(redis.memo(tag)).await,
        }
    }

    /// Replaces the user's memo if it still is what [`Store::memo`] said, nothing where nothing stands.
    /// No two memos may be of the same bytes.
    ///
    /// # Errors
    /// Also when `sealed` is empty or longer than 16 KiB.
    pub async fn swap_memo(
        &self,
        tag: &UserTag,
        expected: Option<&[u8]>,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        if sealed.is_empty() || sealed.len() > entry::MEMO_LIMIT {
            return Err(Unavailable(format!("a memo of {} bytes is not kept", sealed.len())));
        }
        let expected = expected.unwrap_or_default();
        match self {
            Store::Memory(memory) => Ok(memory.swap_memo(tag, expected, sealed, forget_at)),
            Store::Embedded(embedded) => {
                embedded.swap_memo(*tag, expected, sealed, forget_at).await
            }
            Store::Redis(redis) => {
                Box::pin(redis.swap_memo(tag, expected, sealed, forget_at)).await
            }
        }
    }

    /// Draws the line of all users behind every session begun until now; it never moves back. As a
    /// user's line it passes the sessions of gateways whose clocks are ahead.
    pub async fn revoke_everyone(&self, now: UnixMillis) -> Result<Drawn<UnixMillis>, Unavailable> {
        let (line, durability) = match self {
            Store::Memory(memory) => (memory.revoke_everyone(now), Durability::InMemory),
            Store::Embedded(embedded) => (embedded.revoke_everyone(now).await?, Durability::OnDisk),
            Store::Redis(redis) => redis.revoke_everyone(now).await?,
        };
        Ok(Drawn { line, durability })
    }

    /// Draws a line of all users that was drawn before and that the store has lost. It ends what it ended
    /// then and nothing since.
    pub async fn restore_everyone(&self, line: UnixMillis) -> Result<(), Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.tables().raise_everyone(line);
                Ok(())
            }
            Store::Embedded(embedded) => embedded.restore_everyone(line).await,
            Store::Redis(redis) => redis.restore_everyone(line).await,
        }
    }

    /// The line of all users, zero when there is none.
    pub async fn everyone_line(&self) -> Result<UnixMillis, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().everyone()),
            Store::Embedded(embedded) => Ok(embedded.tables().everyone()),
            Store::Redis(redis) => Box::pin(redis.everyone_line()).await,
        }
    }

    /// The user's live sessions that his line leaves, the newest first, at most [`LISTED_MOST`]. Whether
    /// one of them is over by time or by the line of all users is for the caller.
    pub async fn sessions_of(&self, tag: &UserTag) -> Result<Vec<Listed>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().sessions_of(*tag)),
            Store::Embedded(embedded) => Ok(embedded.tables().sessions_of(*tag)),
            Store::Redis(redis) => redis.sessions_of(tag).await,
        }
    }

    /// Live sessions of all users as [`Store::sessions_of`] shows them, at most `limit`. Walks the whole
    /// store: for an operator's question, not for requests.
    pub async fn all(&self, limit: usize) -> Result<Vec<Listed>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().all(limit)),
            Store::Embedded(embedded) => Ok(embedded.tables().all(limit)),
            Store::Redis(redis) => redis.all(limit).await,
        }
    }

    /// The session of such an id, live or not, if there is one. Walks the whole store, by names alone.
    pub async fn find(
        &self,
        is_it: impl Fn(&SessionId) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().find(is_it)),
            Store::Embedded(embedded) => Ok(embedded.tables().find(is_it)),
            Store::Redis(redis) => redis.find(is_it).await,
        }
    }

    /// Whether the store would take a write or answer a read now.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Embedded(embedded) => embedded.ping().await,
            Store::Redis(redis) => redis.ping().await,
        }
    }

    /// Drops some of what nobody can still ask for; call it every second or so. Redis does it itself.
    pub fn sweep(&self) {
        match self {
            Store::Memory(memory) => memory.sweep(),
            Store::Embedded(embedded) => embedded.sweep(),
            Store::Redis(_) => {}
        }
    }

    /// Waits until all that was written, touches too, is durable.
    pub async fn flush(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) | Store::Redis(_) => Ok(()),
            Store::Embedded(embedded) => embedded.flush().await,
        }
    }

    /// Flushes and lets go of the file. Reads still answer; writes are unavailable from here on.
    pub async fn close(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) | Store::Redis(_) => Ok(()),
            Store::Embedded(embedded) => embedded.close().await,
        }
    }

    /// Round trips to Redis since the start, by all workers.
    pub fn round_trips(&self) -> u64 {
        match self {
            Store::Memory(_) | Store::Embedded(_) => 0,
            Store::Redis(redis) => redis.round_trips(),
        }
    }
}
