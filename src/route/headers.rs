//! Header rules of one route.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::message::{HeaderRules, ReservedHeaders};

/// Headers that a route removes, passes and sets.
#[derive(Clone, Debug, Default)]
pub struct RouteHeaders {
    /// Client headers that are removed in addition to the reserved ones.
    pub strip: Vec<HeaderName>,
    /// Client headers that pass although they belong to a reserved family.
    pub pass: Vec<HeaderName>,
    /// Headers of every request to the upstream, with the same value for all users.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// As `set`, with a file that contains the value. Read when the gateway starts.
    pub set_files: Vec<(HeaderName, PathBuf)>,
    reserved: Arc<ReservedHeaders>,
}

impl RouteHeaders {
    /// The reserved headers follow when all routes are known.
    pub fn new(
        strip: Vec<HeaderName>,
        pass: Vec<HeaderName>,
        set: Vec<(HeaderName, HeaderValue)>,
        set_files: Vec<(HeaderName, PathBuf)>,
    ) -> RouteHeaders {
        RouteHeaders { strip, pass, set, set_files, reserved: Arc::default() }
    }

    /// Returns the client headers that do not reach the upstream.
    pub fn reserved(&self) -> &ReservedHeaders {
        &self.reserved
    }

    /// Moves the contents of `set_files` to `set`.
    pub(super) fn read_files<E>(
        &mut self,
        read: &impl Fn(&Path) -> Result<HeaderValue, E>,
    ) -> Result<(), E> {
        for (name, file) in std::mem::take(&mut self.set_files) {
            self.set.push((name, read(&file)?));
        }
        Ok(())
    }

    /// Reserves client headers by these rules, in addition to the families.
    pub(super) fn reserve(&mut self, rules: &HeaderRules) {
        self.reserved = Arc::new(ReservedHeaders::new(rules));
    }

    /// Returns the names of `set` and `set_files`.
    pub(super) fn names_set(&self) -> impl Iterator<Item = &HeaderName> {
        let (fixed, files) = (self.set.iter(), self.set_files.iter());
        fixed.map(|(name, _)| name).chain(files.map(|(name, _)| name))
    }
}
