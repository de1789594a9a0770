"""Where a request comes from, believed only on the word of our own front.

HAProxy stands between the clients and the gateways, so the connection's peer is HAProxy. It
writes the client's address into a header together with a token that only it and the gateways
know; whoever sends that header without the token, or any other header, changes nothing.
"""

from __future__ import annotations

import hmac
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from serve_app.asgi import Scope

HEADER: Final = b"x-coster-client"  # token, a space, the address
UNKNOWN: Final = "unknown"
IPV6_PERSON_BITS: Final = 56  # one subscriber's network: its 2**72 addresses are one caller
IPV4_PLACE_BITS: Final = 24


def client_address(scope: Scope, front: str) -> str:
    """The client's address as text; `front` is the front's token, "" when there is no front."""
    peer = scope.get("client")
    told: bytes | None = None
    for name, value in scope["headers"]:
        if name == HEADER:
            told = value
    if front and told is not None:
        token, _, address = told.partition(b" ")
        if hmac.compare_digest(token, front.encode()):
            return address.decode("latin-1")
    return str(peer[0]) if peer else UNKNOWN


def caller_of(address: str) -> str:
    """Who is limited as one: an IPv4 address, or the network of an IPv6 subscriber."""
    found = _parsed(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((found, IPV6_PERSON_BITS), strict=False))
    return address if found is None else str(found)


def place_of(address: str) -> str:
    """Where sign-ups are thought to be one person's: an IPv4 /24, an IPv6 /56."""
    found = _parsed(address)
    if isinstance(found, IPv4Address):
        return str(ip_network((found, IPV4_PLACE_BITS), strict=False))
    return caller_of(address)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
