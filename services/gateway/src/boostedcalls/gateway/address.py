"""Whose address a request counts for. Header names of proxies are anybody's to send: they count only from a peer that
`TRUSTED_PROXIES` names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.requests import Request

from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.deps import deps_of

log = get_logger(__name__)

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network

# Longer chains of proxies are nobody's: what is left of them is not looked at.
_MAX_HOPS = 32
# As some proxies write it.
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*:[^\[\]]*)\]|([0-9.]+))(?::[0-9]{1,5})?")
# A household, or a machine that was rented, has as many IPv6 addresses as it likes below one such prefix.
_IPV6_PREFIX = 64
_NOBODY = "none"


@cache
def _say_it_is_ignored() -> None:
    """Once in a process."""
    log.warning("forwarded_for_ignored", text="behind a proxy, name it in TRUSTED_PROXIES: all are one address now")


def _parsed(text: str) -> Address | None:
    match = _WITH_PORT.fullmatch(text)
    try:
        found = ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped or IPv6Address(int(found))
    return found


def counted_as(found: Address) -> str:
    """How an address is counted: IPv4 by itself, IPv6 by its /64."""
    if isinstance(found, IPv4Address):
        return str(found)
    return str(IPv6Network((int(found), _IPV6_PREFIX), strict=False))


def client_of(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client's address as it is counted, of the peer's address and the values of X-Forwarded-For.

    Each proxy adds on the right whom it heard. So the list is read from the right, for as long as the one who wrote an
    entry is trusted; what is no address ends it, and the last trusted one counts.
    """
    found = _parsed(peer) if peer else None
    if found is None:
        return _NOBODY
    entries = [entry for value in forwarded for entry in value.split(",")][-_MAX_HOPS:]
    while entries and any(found in network for network in trusted):
        before = _parsed(entries.pop().strip())
        if before is None:
            break
        found = before
    return counted_as(found)


def client_address(request: Request) -> str:
    """The address of the request's client, as it is counted."""
    trusted = deps_of(request).settings.trusted_proxies
    forwarded = request.headers.getlist("x-forwarded-for")
    if forwarded and not trusted:
        _say_it_is_ignored()
    return client_of(request.client.host if request.client else None, forwarded, trusted)
