//! `[audit]`: the log in which a changed line is found.

use std::path::PathBuf;

use super::findings::Usual::Is;
use super::reader::Reader;

/// Where the audit log is.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Absent: none is written.
    pub file: Option<PathBuf>,
}

pub(super) fn audit(mut section: Reader<'_>) -> Option<Audit> {
    let base = section.findings.base;
    let file = section.text("file", Is(r#""""#), |text| {
        Ok::<_, String>(Some(text).filter(|text| !text.is_empty()).map(|text| base.join(text)))
    });
    Some(Audit { file: file?.value })
}
