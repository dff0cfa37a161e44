//! `[signals]`: risk signals, their thresholds and GeoIP databases.

use std::path::PathBuf;

use ipnet::IpNet;

use super::diagnostics::KeyDefault::Value;
use super::reader::{Field, Reader};
use super::{duration, server};
use crate::risk::{RiskSettings, Thresholds};

/// Risk settings and GeoIP files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    pub settings: RiskSettings,
    /// City or country database.
    pub country_db: Option<PathBuf>,
    /// ASN database.
    pub asn_db: Option<PathBuf>,
}

pub(super) fn signals(mut section: Reader<'_>) -> Option<Signals> {
    let country_db = section.optional_file("country_db", r#""geo/GeoLite2-City.mmdb""#);
    let asn_db = section.optional_file("asn_db", r#""geo/GeoLite2-ASN.mmdb""#);
    let known_for = section.quantity("known_for", Value(r#""30d""#), duration::parse_positive);
    let allow = section.list("allow", Value("[]"), server::network);
    let thresholds = thresholds(&mut section);
    let settings = RiskSettings {
        thresholds: thresholds?,
        known_for: known_for?.value,
        allow: allow?.value.into_iter().map(|item| item.value).collect::<Vec<IpNet>>(),
    };
    let path = |file: Option<Field<PathBuf>>| file.map(|file| file.value);
    Some(Signals { settings, country_db: path(country_db?), asn_db: path(asn_db?) })
}

fn thresholds(section: &mut Reader<'_>) -> Option<Thresholds> {
    let mut score = |key, default| section.number(key, Value(default), 0..=10_000);
    let log = score("log_at", "20");
    let rotate = score("rotate_at", "35");
    let login = score("login_at", "60");
    let end = score("end_at", "0");
    let (log, rotate, login, end) = (log?, rotate?, login?, end?);
    let order = [("log_at", &log), ("rotate_at", &rotate), ("login_at", &login), ("end_at", &end)];
    let mut used = order.into_iter().filter(|(_, score)| score.value > 0);
    let mut previous = used.next();
    for next in used {
        if let Some((milder, lower)) = previous.filter(|(_, lower)| lower.value > next.1.value) {
            section.diagnostics.error(
                if next.1.is_set { &next.1.span } else { &lower.span },
                format!("`{}` is below `{milder}`, whose action is milder", next.0),
                "write the scores in the order log_at, rotate_at, login_at, end_at; 0 means never",
            );
            return None;
        }
        previous = Some(next);
    }
    let some = |score: Field<usize>| u32::try_from(score.value).ok().filter(|score| *score > 0);
    Some(Thresholds {
        log: some(log),
        rotate: some(rotate),
        reauthenticate: some(login),
        end: some(end),
    })
}
