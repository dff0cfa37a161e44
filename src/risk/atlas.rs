//! Country, place and operator of an address, from databases in MaxMind's format (`.mmdb`).
//!
//! Two layouts are read: MaxMind's own (GeoLite2, GeoIP2, DB-IP), where a country is
//! `country.iso_code`, and the flat one of ip-location-db, where it is `country_code`. A field of an
//! unknown shape is not known, and nothing else.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

use super::distance::Coordinates;

/// The databases in use. Without any, nothing is known of any address.
#[derive(Default)]
pub struct Atlas {
    countries: Option<Database>,
    operators: Option<Database>,
    /// Said by hand, for places that nobody is in.
    said: Vec<(IpAddr, Country)>,
}

/// One database, in memory.
#[derive(Clone)]
pub struct Database(Arc<Reader<Vec<u8>>>);

/// Bytes that are no database.
#[derive(Debug, thiserror::Error)]
#[error("is no database in MaxMind's format: {0}")]
pub struct DatabaseError(#[from] MaxMindDbError);

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Locality {
    pub country: Option<Country>,
    pub coordinates: Option<Coordinates>,
    /// The number of the autonomous system.
    pub operator: Option<u32>,
    /// Whether its operator rents out machines.
    pub hosting: bool,
}

/// Two letters (ISO 3166-1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Country([u8; 2]);

impl Database {
    /// Takes over the bytes of a file.
    ///
    /// # Errors
    /// When they are no database. Their content is looked at only when an address is looked up.
    pub fn read(bytes: Vec<u8>) -> Result<Database, DatabaseError> {
        Ok(Database(Arc::new(Reader::from_source(bytes)?)))
    }
}

impl Atlas {
    /// Both may be missing.
    pub fn new(countries: Option<Database>, operators: Option<Database>) -> Atlas {
        Atlas { countries, operators, said: Vec::new() }
    }

    /// The same, but that this address lies in that country: for a request that nobody made. Where it lies
    /// there, and whose it is, nobody knows then.
    #[must_use]
    pub fn saying(mut self, address: IpAddr, country: Country) -> Atlas {
        self.said.push((address, country));
        self
    }

    /// What is known of an address. A broken database knows nothing.
    pub fn look(&self, address: IpAddr) -> Locality {
        let said = self.said.iter().rev().find(|(known, _)| *known == address);
        if let Some((_, country)) = said {
            return Locality { country: Some(*country), ..Locality::default() };
        }
        let place: Place = found(self.countries.as_ref(), address).unwrap_or_default();
        let operator: Operator = found(self.operators.as_ref(), address).unwrap_or_default();
        Locality {
            country: place.country(),
            coordinates: place.coordinates(),
            operator: operator.autonomous_system_number.and_then(|number| number.whole()),
            hosting: operator.autonomous_system_organization.is_some_and(rents_out),
        }
    }
}

fn found<'a, T: Deserialize<'a>>(database: Option<&'a Database>, address: IpAddr) -> Option<T> {
    database?.0.lookup(address).ok()?.decode().ok().flatten()
}

#[derive(Deserialize, Default)]
struct Place<'a> {
    #[serde(borrow)]
    country: Option<Nested<'a>>,
    registered_country: Option<Nested<'a>>,
    country_code: Option<&'a str>,
    location: Option<Location<'a>>,
    latitude: Option<Number<'a>>,
    longitude: Option<Number<'a>>,
}

#[derive(Deserialize)]
struct Nested<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Location<'a> {
    #[serde(borrow)]
    latitude: Option<Number<'a>>,
    longitude: Option<Number<'a>>,
}

/// Databases differ in the types of numbers, and those made of CSV files hold text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Whole(i64),
    Broken(f64),
    Text(&'a str),
}

#[derive(Deserialize, Default)]
struct Operator<'a> {
    #[serde(borrow)]
    autonomous_system_number: Option<Number<'a>>,
    autonomous_system_organization: Option<&'a str>,
}

impl Place<'_> {
    fn country(&self) -> Option<Country> {
        let nested = self.country.as_ref().or(self.registered_country.as_ref());
        let code = nested.and_then(|nested| nested.iso_code).or(self.country_code)?;
        Country::read(code)
    }

    fn coordinates(&self) -> Option<Coordinates> {
        let nested = self.location.as_ref();
        let nested = nested.and_then(|at| pair(at.latitude.as_ref(), at.longitude.as_ref()));
        let flat = || pair(self.latitude.as_ref(), self.longitude.as_ref());
        let (north, east) = nested.or_else(flat)?;
        ((-90.0..=90.0).contains(&north) && (-180.0..=180.0).contains(&east))
            .then_some((north, east))
    }
}

fn pair(north: Option<&Number<'_>>, east: Option<&Number<'_>>) -> Option<Coordinates> {
    Some((north?.broken()?, east?.broken()?))
}

impl Number<'_> {
    fn broken(&self) -> Option<f64> {
        match self {
            Number::Whole(number) => i32::try_from(*number).ok().map(f64::from),
            Number::Broken(number) => Some(*number),
            Number::Text(text) => text.parse().ok(),
        }
    }

    fn whole(&self) -> Option<u32> {
        match self {
            Number::Whole(number) => u32::try_from(*number).ok(),
            Number::Broken(_) => None,
            Number::Text(text) => text.trim_start_matches("AS").parse().ok(),
        }
    }
}

impl Country {
    /// Reads two letters; anything else is no country.
    pub fn read(code: &str) -> Option<Country> {
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

/// Words in the names of operators that rent out machines. A guess, and weighed as one.
const RENTERS: [&str; 16] = [
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

fn rents_out(organization: &str) -> bool {
    let name = organization.to_ascii_lowercase();
    RENTERS.iter().any(|word| name.contains(word))
}
