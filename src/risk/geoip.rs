//! GeoIP: country, coordinates and ASN of an address, from databases in MaxMind format (`.mmdb`).
//!
//! Supports two layouts: MaxMind's own (GeoLite2, GeoIP2, DB-IP), with `country.iso_code`, and the flat
//! one of ip-location-db, with `country_code`. A field of an unexpected type counts as missing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

use super::distance::Coordinates;

/// The loaded databases. Without any, every lookup returns an empty [`GeoInfo`].
#[derive(Default)]
pub struct GeoIp {
    city: Option<Database>,
    asn: Option<Database>,
    /// Countries set by hand, for hypothetical requests.
    overrides: Vec<(IpAddr, Country)>,
}

/// One database, in memory.
#[derive(Clone)]
pub struct Database(Arc<Reader<Vec<u8>>>);

/// The bytes are not a database.
#[derive(Debug, thiserror::Error)]
#[error("is not a database in MaxMind format: {0}")]
pub struct DatabaseError(#[from] MaxMindDbError);

/// The GeoIP data of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GeoInfo {
    pub country: Option<Country>,
    pub coordinates: Option<Coordinates>,
    /// Autonomous system number.
    pub asn: Option<u32>,
    /// Whether the name of the AS looks like a hosting provider's.
    pub hosting: bool,
}

/// A country code of two letters (ISO 3166-1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Country([u8; 2]);

impl Database {
    /// Opens a database from the bytes of its file.
    ///
    /// # Errors
    /// If the metadata is invalid. The records are not checked before a lookup.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Database, DatabaseError> {
        Ok(Database(Arc::new(Reader::from_source(bytes)?)))
    }
}

impl GeoIp {
    /// Combines two databases. Both are optional.
    pub fn new(city: Option<Database>, asn: Option<Database>) -> GeoIp {
        GeoIp { city, asn, overrides: Vec::new() }
    }

    /// Sets the country of one address, for a hypothetical request. Coordinates and ASN of the address
    /// are unknown then.
    #[must_use]
    pub fn with_override(mut self, address: IpAddr, country: Country) -> GeoIp {
        self.overrides.push((address, country));
        self
    }

    /// Returns the GeoIP data of an address. A damaged database returns none.
    pub fn lookup(&self, address: IpAddr) -> GeoInfo {
        let by_hand = self.overrides.iter().rev().find(|(known, _)| *known == address);
        if let Some((_, country)) = by_hand {
            return GeoInfo { country: Some(*country), ..GeoInfo::default() };
        }
        let city: CityRecord = decode(self.city.as_ref(), address).unwrap_or_default();
        let asn: AsnRecord = decode(self.asn.as_ref(), address).unwrap_or_default();
        GeoInfo {
            country: city.country(),
            coordinates: city.coordinates(),
            asn: asn.autonomous_system_number.and_then(|number| number.as_u32()),
            hosting: asn.autonomous_system_organization.is_some_and(is_hosting_provider),
        }
    }
}

fn decode<'a, T: Deserialize<'a>>(database: Option<&'a Database>, address: IpAddr) -> Option<T> {
    database?.0.lookup(address).ok()?.decode().ok().flatten()
}

#[derive(Deserialize, Default)]
struct CityRecord<'a> {
    #[serde(borrow)]
    country: Option<CountryRecord<'a>>,
    registered_country: Option<CountryRecord<'a>>,
    country_code: Option<&'a str>,
    location: Option<LocationRecord<'a>>,
    latitude: Option<Number<'a>>,
    longitude: Option<Number<'a>>,
}

#[derive(Deserialize)]
struct CountryRecord<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct LocationRecord<'a> {
    #[serde(borrow)]
    latitude: Option<Number<'a>>,
    longitude: Option<Number<'a>>,
}

/// A number. Its type differs between databases; those generated from CSV files use text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Integer(i64),
    Float(f64),
    Text(&'a str),
}

#[derive(Deserialize, Default)]
struct AsnRecord<'a> {
    #[serde(borrow)]
    autonomous_system_number: Option<Number<'a>>,
    autonomous_system_organization: Option<&'a str>,
}

impl CityRecord<'_> {
    fn country(&self) -> Option<Country> {
        let nested = self.country.as_ref().or(self.registered_country.as_ref());
        let code = nested.and_then(|nested| nested.iso_code).or(self.country_code)?;
        Country::parse(code)
    }

    fn coordinates(&self) -> Option<Coordinates> {
        let nested = self.location.as_ref();
        let nested =
            nested.and_then(|at| coordinates_from(at.latitude.as_ref(), at.longitude.as_ref()));
        let flat = || coordinates_from(self.latitude.as_ref(), self.longitude.as_ref());
        let (north, east) = nested.or_else(flat)?;
        ((-90.0..=90.0).contains(&north) && (-180.0..=180.0).contains(&east))
            .then_some((north, east))
    }
}

fn coordinates_from(north: Option<&Number<'_>>, east: Option<&Number<'_>>) -> Option<Coordinates> {
    Some((north?.as_f64()?, east?.as_f64()?))
}

impl Number<'_> {
    fn as_f64(&self) -> Option<f64> {
        match self {
            Number::Integer(number) => i32::try_from(*number).ok().map(f64::from),
            Number::Float(number) => Some(*number),
            Number::Text(text) => text.parse().ok(),
        }
    }

    fn as_u32(&self) -> Option<u32> {
        match self {
            Number::Integer(number) => u32::try_from(*number).ok(),
            Number::Float(_) => None,
            Number::Text(text) => text.trim_start_matches("AS").parse().ok(),
        }
    }
}

impl Country {
    /// Parses two letters in either case. Returns `None` for anything else.
    pub fn parse(code: &str) -> Option<Country> {
        let letters: [u8; 2] = code.as_bytes().try_into().ok()?;
        letters
            .iter()
            .all(u8::is_ascii_alphabetic)
            .then_some(Country(letters.map(|byte| byte.to_ascii_uppercase())))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Words in the names of hosting providers. A heuristic, so the signal has a low weight.
const HOSTING_NAMES: [&str; 16] = [
    "hosting",
    "cloud",
    "datacenter",
    "data center",
    "server",
    "vps",
    "vpn",
    "amazon",
    "google",
    "microsoft",
    "hetzner",
    "ovh",
    "digitalocean",
    "linode",
    "m247",
    "datacamp",
];

fn is_hosting_provider(organization: &str) -> bool {
    let name = organization.to_ascii_lowercase();
    HOSTING_NAMES.iter().any(|word| name.contains(word))
}
