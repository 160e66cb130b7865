"""Password hashes of users who were moved here from a Django database: `pbkdf2_sha256$<iterations>$<salt>$<base64>`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from argon2 import Type, extract_parameters
from argon2.exceptions import InvalidHashError

MAX_ITERATIONS = 5_000_000
"""Some seconds of one processor for each try; Django's own default stands at a fifth of it."""
_SALT = b"twenty-two-characters-"  # Django's are as long
_PREFIX = "pbkdf2_sha256$"
_FORM = re.compile(r"pbkdf2_sha256\$([1-9][0-9]{0,6})\$([^$\s]{1,128})\$([A-Za-z0-9+/]{43}=)")
# What a login may cost with a hash that was made elsewhere.
_MAX_MEMORY_KIB, _MAX_TIME, _MAX_LANES = 256 * 1024, 20, 16


def is_pbkdf2(password_hash: str) -> bool:
    return password_hash.startswith(_PREFIX)


def _parts(password_hash: str) -> tuple[int, bytes, bytes] | None:
    """Iterations, salt and digest; None for what is malformed or would take too long."""
    match = _FORM.fullmatch(password_hash)
    if match is None or int(match[1]) > MAX_ITERATIONS:
        return None
    digest = base64.b64decode(match[3])
    return int(match[1]), match[2].encode(), digest


def matches(password: str, password_hash: str) -> bool:
    """Whether the password is the one of a pbkdf2_sha256 hash; a malformed one is nobody's. Takes long: in a thread."""
    if (parts := _parts(password_hash)) is None:
        return False
    iterations, salt, digest = parts
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations), digest)


def spend(password: str, password_hash: str | None, iterations: int) -> None:
    """The work of `iterations`, less what the check of this hash was already. Takes long: in a thread."""
    parts = _parts(password_hash) if password_hash and is_pbkdf2(password_hash) else None
    if (rest := iterations - (parts[0] if parts else 0)) > 0:
        hashlib.pbkdf2_hmac("sha256", password.encode(), _SALT, rest)


def importable(password_hash: str) -> str:
    """The hash as it is stored here: argon2id, as a PHC string or with Django's `argon2` before it, or pbkdf2_sha256.
    Raises ValueError, which says why and not what."""
    if is_pbkdf2(password_hash):
        if _parts(password_hash) is None:
            raise ValueError(f"malformed, or more than {MAX_ITERATIONS:,} iterations")
        return password_hash
    phc = password_hash.removeprefix("argon2")
    try:
        found = extract_parameters(phc)
    except (InvalidHashError, ValueError):
        raise ValueError("neither argon2id nor pbkdf2_sha256") from None
    if found.type is not Type.ID:
        raise ValueError("neither argon2id nor pbkdf2_sha256")
    if found.memory_cost > _MAX_MEMORY_KIB or found.time_cost > _MAX_TIME or found.parallelism > _MAX_LANES:
        raise ValueError("its parameters would cost too much at each login")
    return phc
