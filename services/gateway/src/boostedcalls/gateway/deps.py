"""What the routes work with: made once by the composition root, found on the request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from boostedcalls.common.bus import Bus
from boostedcalls.common.context import Caller
from boostedcalls.common.db import Pool
from boostedcalls.gateway.drain import Breaker
from boostedcalls.gateway.flights import Flights
from boostedcalls.gateway.keyring import Keyring
from boostedcalls.gateway.passwords import Passwords
from boostedcalls.gateway.quota import Quota
from boostedcalls.gateway.revocations import Revocations
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.spool import Spool
from boostedcalls.gateway.throttle import Throttle

CALLER = "boostedcalls.caller"
# Headers that the answer to a request gets, whatever it is.
HEADERS = "boostedcalls.headers"


@dataclass(frozen=True, slots=True)
class Deps:
    settings: GatewaySettings
    bus: Bus
    pool: Pool
    passwords: Passwords
    breaker: Breaker
    spool: Spool | None
    flights: Flights
    keys: Keyring
    revocations: Revocations
    throttle: Throttle
    quota: Quota | None


def deps_of(request: Request) -> Deps:
    return request.app.state.deps


def caller_of(request: Request) -> Caller:
    """Who asks: without a user until the request is authenticated."""
    return request.scope[CALLER]
