//! What a line says of a session's new place: all that it takes to judge it again with other settings.
//!
//! Flat names, none of which is the beginning of another: indexes that read a dot as a level refuse those.

use serde::Serialize;

use crate::risk::{Country, Locality, Software};
use crate::session::ClientContext;

use super::super::events::{About, Moved};

/// What speaks against a session's new place. Names and weights stand in the same order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    #[serde(rename = "doorward.score")]
    score: u32,
    #[serde(rename = "doorward.signals")]
    signals: Vec<&'static str>,
    #[serde(rename = "doorward.weights")]
    weights: Vec<u32>,
    #[serde(rename = "doorward.answer")]
    answer: &'static str,
    /// Whether the answer was given; else it would have been.
    #[serde(rename = "doorward.enforced")]
    enforced: bool,
    #[serde(flatten)]
    here: Here,
    #[serde(flatten)]
    other: Other,
}

/// The client's place and software, in the names of ECS.
#[derive(Clone, Debug, Serialize)]
struct Here {
    #[serde(rename = "source.geo.country_iso_code", skip_serializing_if = "Option::is_none")]
    country: Option<String>,
    #[serde(rename = "source.as.number", skip_serializing_if = "Option::is_none")]
    operator: Option<u32>,
    #[serde(rename = "doorward.hosting", skip_serializing_if = "Option::is_none")]
    hosting: Option<bool>,
    #[serde(rename = "user_agent.name", skip_serializing_if = "String::is_empty")]
    browser: String,
    #[serde(rename = "user_agent.os.name", skip_serializing_if = "Option::is_none")]
    system: Option<&'static str>,
    #[serde(rename = "doorward.language", skip_serializing_if = "String::is_empty")]
    language: String,
}

/// The same of the other party, whom ECS has no names for.
#[derive(Clone, Debug, Serialize)]
struct Other {
    #[serde(rename = "doorward.other.country", skip_serializing_if = "Option::is_none")]
    country: Option<String>,
    #[serde(rename = "doorward.other.operator", skip_serializing_if = "Option::is_none")]
    operator: Option<u32>,
    #[serde(rename = "doorward.other.hosting", skip_serializing_if = "Option::is_none")]
    hosting: Option<bool>,
    #[serde(rename = "doorward.other.browser", skip_serializing_if = "String::is_empty")]
    browser: String,
    #[serde(rename = "doorward.other.system", skip_serializing_if = "Option::is_none")]
    system: Option<&'static str>,
    #[serde(rename = "doorward.other.language", skip_serializing_if = "String::is_empty")]
    language: String,
}

impl Told {
    pub(super) fn new(moved: Moved<'_>, about: &About<'_>) -> Told {
        let Moved { report, enforced, here, other } = moved;
        Told {
            score: report.score,
            signals: report.signals.iter().map(|signal| signal.name()).collect(),
            weights: report.signals.iter().map(|signal| signal.weight()).collect(),
            answer: report.answer.word(),
            enforced,
            here: Here::new(&here, about),
            other: Other::new(&other, about.other),
        }
    }
}

impl Here {
    fn new(place: &Locality, about: &About<'_>) -> Here {
        let (country, operator, hosting) = named(place);
        let (browser, system) = software(about.agent);
        let language = about.language.to_owned();
        Here { country, operator, hosting, browser, system, language }
    }
}

impl Other {
    fn new(place: &Locality, other: Option<&ClientContext>) -> Other {
        let (country, operator, hosting) = named(place);
        let (browser, system) = software(other.map_or("", |other| &other.agent));
        let language = other.map(|other| other.language.clone()).unwrap_or_default();
        Other { country, operator, hosting, browser, system, language }
    }
}

/// Of an address without an operator nobody knows whether machines are rented out there.
fn named(place: &Locality) -> (Option<String>, Option<u32>, Option<bool>) {
    let country = place.country.as_ref().map(Country::to_string);
    (country, place.operator, place.operator.map(|_| place.hosting))
}

fn software(agent: &str) -> (String, Option<&'static str>) {
    let Software { family, system, .. } = Software::read(agent);
    (family.unwrap_or_default().to_owned(), system.map(|system| system.name()))
}
