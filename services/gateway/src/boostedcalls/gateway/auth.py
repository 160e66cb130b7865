"""Access tokens: signed statements of who asks, checked without the database on every request.

One algorithm, fixed here and never taken from the token (RFC 8725); every claim is required and checked. A token that
was found good is remembered, and from then on only looked at for whether it has expired. Refresh tokens are the
business of users.py.
"""

# pyright: reportUnknownMemberType=false
# (PyJWT's key types come from cryptography, which HS256 does without)
from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import time
from uuid import UUID

import jwt
from starlette.requests import Request

from boostedcalls.common.context import Caller, new_id
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.gateway.deps import caller_of, deps_of

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "boostedcalls"
KIND = "access"
_CLAIMS = ["exp", "iat", "sub", "jti", "iss", "aud", "typ"]
# Between the clocks of two replicas.
_LEEWAY_SECONDS = 5
_MAX_LENGTH = 4096
_REMEMBERED = 4096


def issue_access(secret: str, user_id: UUID, lifetime: timedelta) -> str:
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "typ": KIND,
        "sub": str(user_id),
        "jti": str(new_id()),
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def read_access(secret: str, token: str) -> UUID:
    """The user of an access token. Raises ServiceError token_invalid for any other text."""
    if len(token) > _MAX_LENGTH:
        raise problem("token_invalid")
    try:
        user_id, expires_at = _verified(secret, token)
    except jwt.ExpiredSignatureError:
        raise _expired() from None
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
        # The text is a stranger's: its header is parsed before its signature can be checked.
        raise problem("token_invalid") from None
    if expires_at <= time() - _LEEWAY_SECONDS:
        raise _expired()
    return user_id


# What is remembered is only what was signed by us: a text that raises is judged anew each time it comes.
@lru_cache(maxsize=_REMEMBERED)
def _verified(secret: str, token: str) -> tuple[UUID, int]:
    """The user and the expiry (seconds since 1970) of an access token that is good now. Raises what PyJWT raises."""
    claims = jwt.decode(
        token,
        secret,
        algorithms=[ALGORITHM],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=_LEEWAY_SECONDS,
        options={"require": _CLAIMS, "strict_aud": True},
    )
    if claims["typ"] != KIND:
        raise ValueError("another kind of token")
    return UUID(claims["sub"]), int(claims["exp"])


def _expired() -> ServiceError:
    return problem("token_invalid", "The token has expired")


def authenticate(request: Request) -> Caller:
    """The caller with its user, from the header `Authorization: Bearer <token>`. Raises ServiceError token_invalid."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise problem("token_invalid", "The header Authorization: Bearer <access token> is missing")
    secret = deps_of(request).settings.jwt_secret.get_secret_value()
    return replace(caller_of(request), user_id=read_access(secret, token.strip()))
