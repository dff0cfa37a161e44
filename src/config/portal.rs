//! `[portal]`: how doorward's own pages look.

use std::path::PathBuf;

use super::findings::Usual::Is;
use super::reader::{Reader, not_empty};

#[derive(Clone, Debug)]
pub struct Portal {
    /// Shown on every page.
    pub name: String,
    /// The operator's CSS.
    pub style: Option<PathBuf>,
}

pub(super) fn portal(mut section: Reader<'_>) -> Option<Portal> {
    let name = section.text("name", Is(r#""doorward""#), |text| not_empty(text).map(str::to_owned));
    let style = section.optional_file("style", r#""config/portal.css""#);
    Some(Portal { name: name?.value, style: style?.map(|file| file.value) })
}
