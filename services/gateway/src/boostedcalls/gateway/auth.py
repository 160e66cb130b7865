"""Access tokens: signed statements of who asks, checked without the database on every request (RFC 8725).

A token that was found good is remembered with the ring of keys it was found good by (keyring.py), and from then on only
looked at for whether it has expired and whether its session has ended (revocations.py). Refresh tokens are the business
of sessions.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import time
from uuid import UUID

from starlette.requests import Request

from boostedcalls.common.context import Caller
from boostedcalls.common.errors import problem
from boostedcalls.gateway.claims import LEEWAY_SECONDS, Access
from boostedcalls.gateway.deps import caller_of, deps_of
from boostedcalls.gateway.jws import BadToken
from boostedcalls.gateway.keyring import Ring

_MAX_LENGTH = 2048


def issue_access(ring: Ring, user_id: UUID, session_id: UUID, lifetime: timedelta) -> str:
    return ring.issue(user_id, session_id, int(time()), int(lifetime.total_seconds()))


def read_access(ring: Ring, token: str) -> Access:
    """Raises ServiceError token_invalid for what is no access token of ours, and for one that has expired."""
    if len(token) > _MAX_LENGTH:
        raise problem("token_invalid")
    try:
        access = ring.read(token)
    except BadToken:
        raise problem("token_invalid") from None
    if access.expires_at <= time() - LEEWAY_SECONDS:
        raise problem("token_invalid", "The token has expired")
    return access


def authenticate(request: Request) -> Caller:
    """The caller with its user, from the header `Authorization: Bearer <token>`. Raises ServiceError token_invalid."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise problem("token_invalid", "The header Authorization: Bearer <access token> is missing")
    deps = deps_of(request)
    access = read_access(deps.keys.ring, token.strip(" "))
    if access.session in deps.revocations:
        raise problem("token_invalid", "The session has ended")
    return replace(caller_of(request), user_id=access.user_id)
