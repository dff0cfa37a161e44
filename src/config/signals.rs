//! `[signals]`: what a moved session is told by, and what follows.

use std::path::PathBuf;

use ipnet::IpNet;

use super::findings::Usual::Is;
use super::reader::{Reader, Setting};
use super::{duration, server};
use crate::risk::{Settings, Thresholds};

/// Settings and the files that they need.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    pub settings: Settings,
    /// Countries and places.
    pub country_db: Option<PathBuf>,
    /// Operators of networks.
    pub asn_db: Option<PathBuf>,
}

pub(super) fn signals(mut section: Reader<'_>) -> Option<Signals> {
    let country_db = section.optional_file("country_db", r#""geo/GeoLite2-City.mmdb""#);
    let asn_db = section.optional_file("asn_db", r#""geo/GeoLite2-ASN.mmdb""#);
    let known_for = section.measure("known_for", Is(r#""30d""#), duration::parse_positive);
    let allow = section.list("allow", Is("[]"), server::network);
    let thresholds = thresholds(&mut section);
    let settings = Settings {
        thresholds: thresholds?,
        known_for: known_for?.value,
        allow: allow?.value.into_iter().map(|item| item.value).collect::<Vec<IpNet>>(),
    };
    let path = |file: Option<Setting<PathBuf>>| file.map(|file| file.value);
    Some(Signals { settings, country_db: path(country_db?), asn_db: path(asn_db?) })
}

fn thresholds(section: &mut Reader<'_>) -> Option<Thresholds> {
    let mut score = |key, usual| section.number(key, Is(usual), 0..=10_000);
    let log = score("log_at", "20");
    let renew = score("renew_at", "35");
    let login = score("login_at", "60");
    let end = score("end_at", "0");
    let (log, renew, login, end) = (log?, renew?, login?, end?);
    let order = [("log_at", &log), ("renew_at", &renew), ("login_at", &login), ("end_at", &end)];
    let mut used = order.into_iter().filter(|(_, score)| score.value > 0);
    let mut before = used.next();
    for next in used {
        if let Some((milder, least)) = before.filter(|(_, least)| least.value > next.1.value) {
            section.findings.problem(
                if next.1.written { &next.1.place } else { &least.place },
                format!("`{}` is below `{milder}`, whose answer is milder", next.0),
                "write the scores in the order log_at, renew_at, login_at, end_at; 0 is never",
            );
            return None;
        }
        before = Some(next);
    }
    let some = |score: Setting<usize>| u32::try_from(score.value).ok().filter(|score| *score > 0);
    Some(Thresholds { log: some(log), renew: some(renew), login: some(login), end: some(end) })
}
