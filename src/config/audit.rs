//! `[audit]`: the tamper-evident audit log.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::Value;
use super::reader::Reader;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// None disables the audit log.
    pub file: Option<PathBuf>,
}

pub(super) fn audit(mut section: Reader<'_>) -> Option<Audit> {
    let file = section.path_or_empty("file", Value(r#""""#));
    Some(Audit { file: file?.value })
}
