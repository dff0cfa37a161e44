//! GeoIP databases: loaded at start and reloaded when a file changes. A missing or broken file is logged
//! once. The previously loaded database stays in use, and no request is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{info, warn};

use crate::config::Signals;
use crate::risk::{Database, DatabaseError, GeoIp};

/// Larger than any published database, and small enough to fit into memory.
const MAX_DATABASE_BYTES: u64 = 1 << 30;

/// Reads the databases once. Returns an error text for each file that cannot be used.
pub fn read_geoip_databases(signals: &Signals) -> (GeoIp, Vec<String>) {
    let mut errors = Vec::new();
    let mut database = |path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        let report = |error: GeoIpFileError| errors.push(format!("{}: {error}", path.display()));
        read(path).map_err(report).ok()
    };
    let (countries, asns) = (database(&signals.country_db), database(&signals.asn_db));
    (GeoIp::new(countries, asns), errors)
}

/// The country and ASN files with the databases loaded from them.
pub(super) struct GeoIpFiles {
    countries: Option<GeoIpFile>,
    asns: Option<GeoIpFile>,
}

struct GeoIpFile {
    path: PathBuf,
    /// None before the first attempt.
    stamp: Option<FileStamp>,
    database: Option<Database>,
}

/// Modification time and size: differs after a change of the file.
type FileStamp = (SystemTime, u64);

#[derive(Debug, thiserror::Error)]
enum GeoIpFileError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("the file is larger than 1 GiB")]
    Large,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl GeoIpFiles {
    pub(super) fn new(signals: &Signals) -> GeoIpFiles {
        let file = |path: &Option<PathBuf>| {
            let path = path.clone()?;
            Some(GeoIpFile { path, stamp: None, database: None })
        };
        GeoIpFiles { countries: file(&signals.country_db), asns: file(&signals.asn_db) }
    }

    /// Returns the databases if at least one was reloaded.
    pub(super) fn reload_if_changed(&mut self) -> Option<GeoIp> {
        let files = [&mut self.countries, &mut self.asns].into_iter().flatten();
        let reloaded = files.map(GeoIpFile::reload_if_changed).filter(|reloaded| *reloaded).count();
        (reloaded > 0).then(|| {
            let database =
                |file: &Option<GeoIpFile>| file.as_ref().and_then(|file| file.database.clone());
            GeoIp::new(database(&self.countries), database(&self.asns))
        })
    }
}

impl GeoIpFile {
    /// Returns whether the file was reloaded.
    fn reload_if_changed(&mut self) -> bool {
        // A missing file has its own stamp, so that its absence is logged once.
        let stamp = stamp(&self.path).unwrap_or((SystemTime::UNIX_EPOCH, 0));
        if self.stamp == Some(stamp) {
            return false;
        }
        self.stamp = Some(stamp);
        let path = self.path.display();
        match read(&self.path) {
            Ok(database) => {
                info!(event = "geoip.loaded", %path, "GeoIP database loaded");
                self.database = Some(database);
                true
            }
            Err(error) => {
                warn!(event = "geoip.load-failed", %path, %error, "GeoIP database cannot be loaded; the previous one, if any, stays in use");
                false
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<FileStamp> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

fn read(path: &Path) -> Result<Database, GeoIpFileError> {
    if std::fs::metadata(path)?.len() > MAX_DATABASE_BYTES {
        return Err(GeoIpFileError::Large);
    }
    Ok(Database::from_bytes(std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_reloaded_and_a_broken_one_keeps_the_old() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("city.mmdb");
        let signals = Signals { country_db: Some(path.clone()), ..Signals::default() };
        let mut files = GeoIpFiles::new(&signals);
        assert!(files.reload_if_changed().is_none(), "a missing file is no error");
        std::fs::copy("tests/data/city.mmdb", &path).expect("copied");
        let country = |geoip: &GeoIp| geoip.lookup([192, 0, 2, 1].into()).country;
        let geoip = files.reload_if_changed().expect("read");
        assert!(country(&geoip).is_some());
        assert!(files.reload_if_changed().is_none(), "nothing changed");
        std::fs::write(&path, "broken").expect("written");
        assert!(files.reload_if_changed().is_none());
        std::fs::remove_file(&path).expect("removed");
        assert!(files.reload_if_changed().is_none());
        std::fs::copy("tests/data/flat-city.mmdb", &path).expect("copied");
        assert!(country(&files.reload_if_changed().expect("read again")).is_some());
    }
}
