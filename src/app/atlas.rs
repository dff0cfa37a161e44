//! The databases of countries and operators: read at the start and again when a file changes. One that
//! is missing or broken is told of once; what was read before stays in force, and nobody is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{info, warn};

use crate::config::Signals;
use crate::risk::{Atlas, Database, DatabaseError};

/// Larger than any database that is sold, and no more than a machine can bear.
const LARGEST: u64 = 1 << 30;

/// The databases as they lie there now, for who asks once, and what is wrong with those that cannot be used.
pub fn read_atlas(signals: &Signals) -> (Atlas, Vec<String>) {
    let mut wrong = Vec::new();
    let mut database = |path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        let said = |error: Unread| wrong.push(format!("{}: {error}", path.display()));
        read(path).map_err(said).ok()
    };
    let (countries, operators) = (database(&signals.country_db), database(&signals.asn_db));
    (Atlas::new(countries, operators), wrong)
}

/// Both files, as they were read last.
pub(super) struct AtlasFiles {
    countries: Option<Watched>,
    operators: Option<Watched>,
}

struct Watched {
    path: PathBuf,
    stamp: Option<Stamp>,
    database: Option<Database>,
}

/// Changes when a file does.
type Stamp = (SystemTime, u64);

#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is larger than a gibibyte")]
    Large,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl AtlasFiles {
    pub(super) fn new(signals: &Signals) -> AtlasFiles {
        let watched = |path: &Option<PathBuf>| {
            let path = path.clone()?;
            Some(Watched { path, stamp: None, database: None })
        };
        AtlasFiles { countries: watched(&signals.country_db), operators: watched(&signals.asn_db) }
    }

    /// The databases, when one of them was read anew.
    pub(super) fn changed(&mut self) -> Option<Atlas> {
        let both = [&mut self.countries, &mut self.operators].into_iter().flatten();
        let read = both.map(Watched::look).filter(|read| *read).count();
        (read > 0).then(|| {
            let database =
                |watched: &Option<Watched>| watched.as_ref().and_then(|at| at.database.clone());
            Atlas::new(database(&self.countries), database(&self.operators))
        })
    }
}

impl Watched {
    /// Whether it was read anew.
    fn look(&mut self) -> bool {
        // A file that is gone has a stamp of its own, so that its absence is told of once.
        let stamp = stamp(&self.path).unwrap_or((SystemTime::UNIX_EPOCH, 0));
        if self.stamp == Some(stamp) {
            return false;
        }
        self.stamp = Some(stamp);
        let path = self.path.display();
        match read(&self.path) {
            Ok(database) => {
                info!(event = "signals-database", %path, "read");
                self.database = Some(database);
                true
            }
            Err(error) => {
                warn!(event = "signals-database", %path, %error, "cannot be used; what was read of it before stays in force, and where nothing was, its signals are missing");
                false
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let about = std::fs::metadata(path)?;
    Ok((about.modified()?, about.len()))
}

fn read(path: &Path) -> Result<Database, Unread> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(Unread::Large);
    }
    Ok(Database::read(std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_read_and_a_broken_one_leaves_the_old_in_force() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("city.mmdb");
        let signals = Signals { country_db: Some(path.clone()), ..Signals::default() };
        let mut files = AtlasFiles::new(&signals);
        assert!(files.changed().is_none(), "a missing file is no error");
        std::fs::copy("tests/data/city.mmdb", &path).expect("copied");
        let country = |atlas: &Atlas| atlas.look([192, 0, 2, 1].into()).country;
        let atlas = files.changed().expect("read");
        assert!(country(&atlas).is_some());
        assert!(files.changed().is_none(), "nothing changed");
        std::fs::write(&path, "broken").expect("written");
        assert!(files.changed().is_none());
        std::fs::remove_file(&path).expect("removed");
        assert!(files.changed().is_none());
        std::fs::copy("tests/data/flat-city.mmdb", &path).expect("copied");
        assert!(country(&files.changed().expect("read again")).is_some());
    }
}
