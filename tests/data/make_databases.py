#!/usr/bin/env python3
"""Makes the small databases beside it, over the documentation networks (RFC 5737, RFC 3849).

    pip install mmdb-writer==0.2.7 && python3 make_databases.py

city.mmdb has MaxMind's layout, flat-city.mmdb that of ip-location-db with numbers as text. earth-city.mmdb
and earth-asn.mmdb are the small Earth of the simulation of people, in networks that nobody has (10.N.0.0/16,
fd00:N::/32); tests/system/people/networks.rs has the same table.
"""

from netaddr import IPSet
from mmdb_writer import MMDBWriter

BERLIN, PARIS, SYDNEY = (52.52, 13.405), (48.857, 2.352), (-33.87, 151.21)
PLACES = [
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
    # N, country, place, number, operator
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


def nested(country, place):
    return {"country": {"iso_code": country}, "location": {"latitude": place[0], "longitude": place[1]}}


def flat(country, place):
    return {"country_code": country, "latitude": str(place[0]), "longitude": str(place[1])}


write("city.mmdb", "GeoLite2-City", [(net, nested(c, p)) for net, c, p in PLACES])
write("flat-city.mmdb", "flat-city", [(net, flat(c, p)) for net, c, p in PLACES])
write("asn.mmdb", "GeoLite2-ASN", [
    (net, {"autonomous_system_number": number, "autonomous_system_organization": name})
    for net, number, name in OPERATORS
])


def earth(value):
    """Both networks of each operator of the small Earth."""
    return [(net, value(*row)) for n, *row in EARTH for net in (f"10.{n}.0.0/16", f"fd00:{n:x}::/32")]


write("earth-city.mmdb", "GeoLite2-City", earth(lambda country, place, number, name: nested(country, place)))
write("earth-asn.mmdb", "GeoLite2-ASN", earth(lambda country, place, number, name: {
    "autonomous_system_number": number, "autonomous_system_organization": name}))
