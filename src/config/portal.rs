//! `[portal]`: branding of the portal pages.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::Value;
use super::reader::{Reader, non_empty};

#[derive(Clone, Debug)]
pub struct Portal {
    /// Shown on every page.
    pub name: String,
    /// Additional CSS file.
    pub style: Option<PathBuf>,
}

pub(super) fn portal(mut section: Reader<'_>) -> Option<Portal> {
    let name =
        section.text("name", Value(r#""doorward""#), |text| non_empty(text).map(str::to_owned));
    let style = section.optional_file("style", r#""config/portal.css""#);
    Some(Portal { name: name?.value, style: style?.map(|file| file.value) })
}
