#!/usr/bin/env python3
"""Writes the GeoIP databases of the tests into the current directory.

    pip install mmdb-writer==0.2.7 && python3 make_databases.py

They cover the documentation networks (RFC 5737, RFC 3849). city.mmdb has the layout of MaxMind, flat-city.mmdb that of
ip-location-db with numbers as text. earth-city.mmdb and earth-asn.mmdb belong to the user simulation. They cover
private networks (10.N.0.0/16, fd00:N::/32), as tests/system/simulation/networks.rs does.
"""

from netaddr import IPSet
from mmdb_writer import MMDBWriter

BERLIN, PARIS, SYDNEY = (52.52, 13.405), (48.857, 2.352), (-33.87, 151.21)
LOCATIONS = [
    ("192.0.2.0/24", "DE", BERLIN),
    ("2001:db8:1::/48", "DE", BERLIN),
    ("198.51.100.0/24", "FR", PARIS),
    ("203.0.113.0/25", "AU", SYDNEY),
    ("203.0.113.128/25", "DE", BERLIN),
    ("100.64.0.0/16", "DE", BERLIN),
]
OPERATORS = [
    ("192.0.2.0/24", 64496, "Home Cable"),
    ("2001:db8:1::/48", 64496, "Home Cable"),
    ("198.51.100.0/24", 64497, "Example Hosting SAS"),
    ("203.0.113.0/25", 64498, "Outback Telecom"),
    ("203.0.113.128/25", 64499, "Mobile GmbH"),
    ("100.64.0.0/16", 64499, "Mobile GmbH"),
]

MUNICH, AMSTERDAM, NEW_YORK, TOKYO = (48.14, 11.58), (52.37, 4.9), (40.71, -74.01), (35.68, 139.69)
EARTH = [
    # N, country, location, AS number, operator
    (10, "DE", BERLIN, 65010, "Kabel Nord"),
    (11, "DE", BERLIN, 65011, "DSL Ost"),
    (12, "DE", BERLIN, 65012, "Mobil Eins"),
    (13, "DE", MUNICH, 65012, "Mobil Eins"),
    (14, "DE", BERLIN, 65014, "Mobil Zwei"),
    (15, "DE", BERLIN, 65015, "Firma GmbH"),
    (16, "DE", MUNICH, 65016, "Hotel Netz"),
    (17, "DE", BERLIN, 65017, "Cafe Netz"),
    (18, "DE", BERLIN, 65018, "Rechenzentrum Hosting"),
    (19, "DE", BERLIN, 65019, "Inspecting Cloud"),
    (20, "FR", PARIS, 65019, "Inspecting Cloud"),
    (21, "FR", PARIS, 65021, "Tunnel VPN"),
    (22, "NL", AMSTERDAM, 65021, "Tunnel VPN"),
    (23, "NL", AMSTERDAM, 65023, "Travel SIM"),
    (24, "FR", PARIS, 65024, "Mobile Ouest"),
    (25, "FR", PARIS, 65025, "Hotel Seine"),
    (30, "US", NEW_YORK, 65030, "Hotel Hudson"),
    (31, "US", NEW_YORK, 65031, "Wireless East"),
    (32, "US", NEW_YORK, 65032, "Sky Satellite"),
    (33, "US", NEW_YORK, 65033, "Elastic Cloud"),
    (34, "US", NEW_YORK, 65034, "Cable East"),
    (40, "JP", TOKYO, 65040, "Hotel Sumida"),
    (41, "JP", TOKYO, 65041, "Keitai"),
    (50, "AU", SYDNEY, 65050, "Outback Cable"),
]


def write(name, kind, rows):
    database = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
    for network, value in rows:
        database.insert_network(IPSet([network]), value)
    database.to_db_file(name)


def nested(country, location):
    return {"country": {"iso_code": country}, "location": {"latitude": location[0], "longitude": location[1]}}


def flat(country, location):
    return {"country_code": country, "latitude": str(location[0]), "longitude": str(location[1])}


write("city.mmdb", "GeoLite2-City", [(net, nested(c, p)) for net, c, p in LOCATIONS])
write("flat-city.mmdb", "flat-city", [(net, flat(c, p)) for net, c, p in LOCATIONS])
write("asn.mmdb", "GeoLite2-ASN", [
    (net, {"autonomous_system_number": number, "autonomous_system_organization": name})
    for net, number, name in OPERATORS
])


def earth(value):
    """Returns rows for the IPv4 and the IPv6 network of each operator in EARTH."""
    return [(net, value(*row)) for n, *row in EARTH for net in (f"10.{n}.0.0/16", f"fd00:{n:x}::/32")]


write("earth-city.mmdb", "GeoLite2-City", earth(lambda country, location, number, name: nested(country, location)))
write("earth-asn.mmdb", "GeoLite2-ASN", earth(lambda country, location, number, name: {
    "autonomous_system_number": number, "autonomous_system_organization": name}))
