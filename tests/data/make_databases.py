#!/usr/bin/env python3
"""Makes the small databases beside it, over the documentation networks (RFC 5737, RFC 3849).

    pip install mmdb-writer==0.2.7 && python3 make_databases.py

city.mmdb has MaxMind's layout, flat-city.mmdb that of ip-location-db with numbers as text.
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
