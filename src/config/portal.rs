//! `[portal]`: branding of the portal pages.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::Value;
use super::reader::{Reader, non_empty};
use crate::message::Target;

#[derive(Clone, Debug)]
pub struct PortalOptions {
    /// Shown on every page.
    pub name: String,
    /// Additional CSS file.
    pub style: Option<PathBuf>,
    /// Text or link for users who need help.
    pub help: Option<String>,
    /// Path that the start page of a host redirects to; `None` lists the apps.
    pub start: Option<String>,
}

pub(super) fn portal(mut section: Reader<'_>) -> Option<PortalOptions> {
    let name =
        section.text("name", Value(r#""doorward""#), |text| non_empty(text).map(str::to_owned));
    let style = section.optional_file("style", r#""config/portal.css""#);
    let help = section.optional("help", r#""https://help.example.com/login""#, |text| {
        non_empty(text).map(str::to_owned)
    });
    let start = section.optional("start", r#""/wiki/""#, start);
    Some(PortalOptions {
        name: name?.value,
        style: style?.map(|file| file.value),
        help: help?.map(|help| help.value),
        start: start?.map(|start| start.value),
    })
}

fn start(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && !text.starts_with("//") && text != "/";
    let target = text.parse().ok().filter(|_| is_path).and_then(|raw| Target::new(raw).ok());
    match target {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{text}` is not the path of an app on this host; write \"/wiki/\"")),
    }
}
