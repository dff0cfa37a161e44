//! The risk assessment of a location change: everything that `doorward signals simulate` needs to repeat it
//! with other settings.
//!
//! No field name is a prefix of another, because an index that reads dots as nesting would reject both.

use serde::Serialize;

use crate::risk::{Country, GeoInfo, UserAgent};
use crate::session::ClientContext;

use super::{EventContext, RiskContext};

/// A risk assessment. `signals` and `weights` have the same order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RiskFields {
    #[serde(rename = "doorward.score")]
    score: u32,
    #[serde(rename = "doorward.signals")]
    signals: Vec<&'static str>,
    #[serde(rename = "doorward.weights")]
    weights: Vec<u32>,
    #[serde(rename = "doorward.action")]
    action: &'static str,
    /// Whether the action was taken.
    #[serde(rename = "doorward.enforced")]
    enforced: bool,
    #[serde(flatten)]
    here: ClientFields,
    #[serde(flatten)]
    other: OtherClientFields,
}

/// Location and software of the client, with the field names of ECS.
#[derive(Clone, Debug, Serialize)]
struct ClientFields {
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

/// Location and software of the other client, for which ECS has no field names.
#[derive(Clone, Debug, Serialize)]
struct OtherClientFields {
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

impl RiskFields {
    pub(super) fn new(moved: RiskContext<'_>, about: &EventContext<'_>) -> RiskFields {
        let RiskContext { report, enforced, location: here, other_location: other } = moved;
        RiskFields {
            score: report.score,
            signals: report.signals.iter().map(|signal| signal.name()).collect(),
            weights: report.signals.iter().map(|signal| signal.weight()).collect(),
            action: report.action.as_str(),
            enforced,
            here: ClientFields::new(&here, about),
            other: OtherClientFields::new(&other, about.other_client),
        }
    }
}

impl ClientFields {
    fn new(place: &GeoInfo, about: &EventContext<'_>) -> ClientFields {
        let (country, operator, hosting) = network_fields(place);
        let (browser, system) = software_fields(about.agent);
        let language = about.language.to_owned();
        ClientFields { country, operator, hosting, browser, system, language }
    }
}

impl OtherClientFields {
    fn new(place: &GeoInfo, other: Option<&ClientContext>) -> OtherClientFields {
        let (country, operator, hosting) = network_fields(place);
        let (browser, system) = software_fields(other.map_or("", |other| &other.user_agent));
        let language = other.map(|other| other.language.clone()).unwrap_or_default();
        OtherClientFields { country, operator, hosting, browser, system, language }
    }
}

/// Returns country, operator and hosting. Hosting is unknown without an operator.
fn network_fields(place: &GeoInfo) -> (Option<String>, Option<u32>, Option<bool>) {
    let country = place.country.as_ref().map(Country::to_string);
    (country, place.asn, place.asn.map(|_| place.hosting))
}

fn software_fields(agent: &str) -> (String, Option<&'static str>) {
    let UserAgent { browser: family, os: system, .. } = UserAgent::parse(agent);
    (family.unwrap_or_default().to_owned(), system.map(|system| system.name()))
}
