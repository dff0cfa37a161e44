//! Paths to claims. They are lists of names, because the names themselves may contain dots.

use std::fmt;

use serde_json::{Map, Value};

/// A path to a claim, such as `["realm_access", "roles"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Returns `None` for an empty path and for empty names.
    pub fn new(names: Vec<String>) -> Option<ClaimPath> {
        let is_valid = !names.is_empty() && names.iter().all(|name| !name.is_empty());
        is_valid.then_some(ClaimPath(names))
    }

    pub(super) fn of(names: &[&str]) -> ClaimPath {
        ClaimPath(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Returns the value at the path. `null` counts as missing.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        let mut value = claims.get(first)?;
        for name in rest {
            value = value.get(name)?;
        }
        (!value.is_null()).then_some(value)
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}
