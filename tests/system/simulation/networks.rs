//! Network operators, their networks and the GeoIP databases that list them.
//!
//! `tests/data/make_databases.py` has the same table. Operator N uses the private networks 10.N.0.0/16 and
//! fd00:N::/32.

use std::net::IpAddr;

use doorward::risk::{Database, GeoIp};

/// Number of an operator.
pub type Operator = u8;

pub const KABEL: Operator = 10;
pub const DSL: Operator = 11;
pub const MOBIL_EINS: Operator = 12;
/// Networks of the same operator that the databases place in another city.
pub const MOBIL_EINS_OTHER_CITY: Operator = 13;
pub const MOBIL_ZWEI: Operator = 14;
pub const FIRM: Operator = 15;
pub const HOTEL: Operator = 16;
pub const CAFE: Operator = 17;
pub const DATA_CENTRE: Operator = 18;
/// A cloud web filter with egress in two countries.
pub const FILTER: Operator = 19;
pub const FILTER_ABROAD: Operator = 20;
pub const VPN_FR: Operator = 21;
pub const VPN_NL: Operator = 22;
/// A travel SIM that routes all traffic through one country.
pub const TRAVEL_SIM: Operator = 23;
pub const MOBILE_FR: Operator = 24;
pub const HOTEL_FR: Operator = 25;
pub const HOTEL_US: Operator = 30;
pub const MOBILE_US: Operator = 31;
/// In-flight Wi-Fi.
pub const IN_FLIGHT: Operator = 32;
pub const CLOUD_US: Operator = 33;
pub const HOTEL_JP: Operator = 40;
pub const MOBILE_JP: Operator = 41;
pub const CABLE_AU: Operator = 50;

/// First third octet reserved for attackers; no honest user has one from here on.
pub const FIRST_ATTACKER_NETWORK: u8 = 200;

/// The network location of a device as the gateway observes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    pub operator: Operator,
    /// The third octet of IPv4 and the third group of IPv6.
    pub network: u8,
    /// The last octet of IPv4 and the last group of IPv6.
    pub host: u8,
    /// Whether the device has IPv6 and prefers it.
    pub dual_stack: bool,
    /// Whether the connection is mobile: slower, with lost responses.
    pub mobile: bool,
    /// Whether a proxy inspects TLS; its handshake then replaces the browser's.
    pub inspected: bool,
}

impl Egress {
    pub fn wired(operator: Operator, network: u8, host: u8) -> Egress {
        Egress { operator, network, host, dual_stack: false, mobile: false, inspected: false }
    }

    pub fn v4(&self) -> IpAddr {
        IpAddr::from([10, self.operator, self.network, self.host])
    }

    pub fn v6(&self) -> IpAddr {
        let (operator, network) = (u16::from(self.operator), u16::from(self.network));
        IpAddr::from([0xfd00, operator, network, 0, 0, 0, 0, u16::from(self.host)])
    }
}

/// Loads the GeoIP databases of the simulation.
pub fn geoip() -> GeoIp {
    let read = |name: &str| {
        let bytes = std::fs::read(format!("tests/data/{name}")).expect("a file");
        Some(Database::from_bytes(bytes).expect("a database"))
    };
    GeoIp::new(read("earth-city.mmdb"), read("earth-asn.mmdb"))
}
