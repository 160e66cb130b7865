"""What an access token says, and how that is read: strictly, by type and by value."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import Any
from uuid import UUID

from boostedcalls.common.context import new_id
from boostedcalls.gateway.jws import BadToken

ISSUER = AUDIENCE = "boostedcalls"
KIND = "access"
LEEWAY_SECONDS = 5
"""Between the clocks of two replicas."""
MAX_SECONDS = 3600
"""No access token lives longer: so long a session that has ended must be remembered (revocations.py)."""


@dataclass(frozen=True, slots=True)
class Access:
    """Whose request, of which session, until when (seconds since 1970)."""

    user_id: UUID
    session: str
    expires_at: int

    def claims(self, issued_at: int) -> dict[str, Any]:
        return {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "typ": KIND,
            "sub": str(self.user_id),
            "sid": self.session,
            "jti": str(new_id()),
            "iat": issued_at,
            "exp": self.expires_at,
        }


def read_claims(claims: dict[str, Any]) -> Access:
    """Raises BadToken for what is missing, of another type or value, or not valid yet. Whether it has expired is for
    the caller to see, each time: what is read once is remembered."""
    if (claims.get("iss"), claims.get("aud"), claims.get("typ")) != (ISSUER, AUDIENCE, KIND):
        raise BadToken("iss, aud or typ is wrong")
    user_id, session = _id(claims, "sub"), _id(claims, "sid")
    _id(claims, "jti")
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    latest = time() + LEEWAY_SECONDS
    if issued_at > latest or ("nbf" in claims and _time(claims, "nbf") > latest):
        raise BadToken("not valid yet")
    if not 0 < expires_at - issued_at <= MAX_SECONDS:
        raise BadToken("exp and iat are too far apart")
    return Access(user_id, str(session), expires_at)


def _id(claims: dict[str, Any], name: str) -> UUID:
    value = claims.get(name)
    if isinstance(value, str):
        try:
            found = UUID(value)
        except ValueError:
            pass
        else:
            if str(found) == value:
                return found
    raise BadToken(f"{name} is no id")


def _time(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    # True is an int, too.
    if type(value) is not int:
        raise BadToken(f"{name} is no whole number")
    return value
