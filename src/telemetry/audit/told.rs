//! What a line says of a session's new place: all that it takes to judge it again with other settings.
//!
//! Flat names, none of which is the beginning of another: indexes that read a dot as a level refuse those.

use serde::Serialize;

use crate::signals::{Country, Locality, Software};

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
            here: Here::new(&here, about.agent),
            other: Other::new(&other, about.other.map_or("", |other| &other.agent)),
        }
    }
}

impl Here {
    fn new(place: &Locality, agent: &str) -> Here {
        let (country, operator, hosting) = named(place);
        let (browser, system) = software(agent);
        Here { country, operator, hosting, browser, system }
    }
}

impl Other {
    fn new(place: &Locality, agent: &str) -> Other {
        let (country, operator, hosting) = named(place);
        let (browser, system) = software(agent);
        Other { country, operator, hosting, browser, system }
    }
}

/// Of an address without an operator nobody knows whether machines are rented out there.
fn named(place: &Locality) -> (Option<String>, Option<u32>, Option<bool>) {
    let country = place.country.as_ref().map(Country::to_string);
    (country, place.operator, place.operator.map(|_| place.hosting))
}

fn software(agent: &str) -> (String, Option<&'static str>) {
    let Software { family, system } = Software::read(agent);
    (family.unwrap_or_default().to_owned(), system.map(|system| system.name()))
}
