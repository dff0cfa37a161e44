//! `[audit]`: the tamper-evident audit log.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::Value;
use super::reader::Reader;

#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// None disables the audit log.
    pub file: Option<PathBuf>,
}

pub(super) fn audit(mut section: Reader<'_>) -> Option<Audit> {
    let base = section.diagnostics.base;
    let file = section.text("file", Value(r#""""#), |text| {
        Ok::<_, String>(Some(text).filter(|text| !text.is_empty()).map(|text| base.join(text)))
    });
    Some(Audit { file: file?.value })
}
