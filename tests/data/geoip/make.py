#!/usr/bin/env python3
"""Writes the databases of the tests of *geoip* in the MaxMind DB format 2.0, next to this file.

The format is described at https://maxmind.github.io/MaxMind-DB/. Addresses and names are made up.
"""

import ipaddress
import pathlib
import struct


def control(kind, size):
    """Returns the control byte of a value, and its longer sizes and types."""
    extended = bytes([kind - 7]) if kind > 7 else b""
    first = 0 if kind > 7 else kind << 5
    if size < 29:
        return bytes([first | size]) + extended
    return bytes([first | 29]) + extended + bytes([size - 29])


def encode(value):
    """Returns a value in the form of the data section."""
    if isinstance(value, bool):
        return control(14, int(value))
    if isinstance(value, str):
        return control(2, len(value.encode())) + value.encode()
    if isinstance(value, float):
        return control(3, 8) + struct.pack(">d", value)
    if isinstance(value, int):
        value = (6, value)
    if isinstance(value, tuple):
        # The kind of a number, and the number: 5 has 16 bits, 6 has 32, 9 has 64.
        data = value[1].to_bytes(8, "big").lstrip(b"\0")
        return control(value[0], len(data)) + data
    if isinstance(value, list):
        return control(11, len(value)) + b"".join(map(encode, value))
    return control(7, len(value)) + b"".join(encode(key) + encode(item) for key, item in value.items())


def write(path, database_type, version, networks):
    """Writes a database of networks with their records."""
    nodes, data = [[None, None]], b""
    for network, record in networks.items():
        network = ipaddress.ip_network(network)
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
        if version == 6 and network.version == 4:
            bits = "0" * 96 + bits
        offset, at = len(data), 0
        data += encode(record)
        for bit in bits[:-1]:
            if nodes[at][int(bit)] is None:
                nodes[at][int(bit)] = len(nodes)
                nodes.append([None, None])
            at = nodes[at][int(bit)]
        nodes[at][int(bits[-1])] = ("data", offset)
    count = len(nodes)

    def pointer(record):
        if record is None:
            return count
        return record if isinstance(record, int) else count + 16 + record[1]

    tree = b"".join(pointer(record).to_bytes(3, "big") for node in nodes for record in node)
    metadata = {
        "node_count": count,
        "record_size": (5, 24),
        "ip_version": (5, version),
        "database_type": database_type,
        "languages": ["en"],
        "binary_format_major_version": (5, 2),
        "binary_format_minor_version": (5, 0),
        "build_epoch": (9, 1700000000),
        "description": {"en": "made for tests"},
    }
    path.write_bytes(tree + b"\0" * 16 + data + b"\xab\xcd\xefMaxMind.com" + encode(metadata))


def names(english):
    return {"names": {"de": f"nicht {english}", "en": english}}


CITY = {
    "city": {"geoname_id": 1, **names("Exampleton")},
    "continent": {"code": "EU", **names("Europe")},
    "country": {"iso_code": "EX", "is_in_european_union": True, **names("Exampleland")},
    "location": {"latitude": 51.7521, "longitude": -0.5, "time_zone": "Europe/Example", "accuracy_radius": 20},
    "postal": {"code": "EX1"},
    "subdivisions": [{"iso_code": "ONE", **names("One")}, {"iso_code": "TWO", **names("Two")}],
}
FAR = {"continent": {"code": "OC"}, "country": {"iso_code": "FA"}, "location": {"latitude": 0.0, "longitude": 100.0}}

here = pathlib.Path(__file__).parent
cities = {"192.0.2.0/24": CITY, "198.51.100.128/25": FAR, "2001:db8:1::/48": CITY, "127.0.0.0/28": CITY,
          "127.0.0.32/28": {}}
systems = {
    "192.0.2.0/24": {"autonomous_system_number": 64500, "autonomous_system_organization": "Example Network"},
    "198.51.100.0/24": {"autonomous_system_number": 4200000000},
    "127.0.0.0/28": {"autonomous_system_number": (5, 64501), "autonomous_system_organization": "Loop, Inc."},
}
write(here / "city.mmdb", "GeoLite2-City", 6, cities)
write(here / "asn.mmdb", "GeoLite2-ASN", 4, systems)
write(here / "isp.mmdb", "GeoIP2-ISP", 6, systems)
write(here / "other.mmdb", "Other-Database", 6, cities)
# A record is a text where a map is expected.
write(here / "wrong-record.mmdb", "GeoLite2-City", 6, {"192.0.2.0/24": "text"})
