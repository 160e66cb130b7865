"""Making the provider's payloads fit to be stored: without secrets, and without what Postgres or JSON cannot carry.

The provider's payloads repeat phone number and assistant objects, which may hold credentials, and capability URLs that
let anybody listen to a call or end it. Pure; who stores or sends the result is the caller's business.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, cast

REDACTED = "[REDACTED]"
TOO_DEEP = "[TOO DEEP]"
MAX_DEPTH = 100

# By the end of the name: `token`, `accessToken` and `twilioAuthToken`, but not `promptTokens`, which are counted.
_SECRET = re.compile(
    r"(token|secret|apikey|accesskey|privatekey|secretkey|password|passphrase|authorization|cookie"
    r"|controlurl|listenurl)$|^credential|^headers$"
)
# What is longer is no member of anybody's schema, and must not fill the cache.
_LONGEST_NAME = 64
_SEPARATORS = re.compile(r"[-_\s.]+")


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a member of this name holds a secret, however it is spelled: `apiKey`, `api_key`, `API-KEY`."""
    return _SECRET.search(_SEPARATORS.sub("", name).lower()) is not None


def redact(value: Any) -> Any:
    """A copy of decoded JSON (plain dicts and lists) in which secret members say `[REDACTED]`, NUL characters are gone,
    what JSON does not know (NaN, infinities) is null, and what is nested deeper than 100 levels says `[TOO DEEP]`."""
    return _redact(value, 0)


def _redact(value: Any, depth: int) -> Any:
    # By exact type, which is measured to be faster than isinstance with Mapping: every webhook passes here.
    kind = cast("type[Any]", type(value))
    if kind is str:
        return value.replace("\x00", "") if "\x00" in value else value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is not dict and kind is not list:
        return value
    if depth >= MAX_DEPTH:
        return TOO_DEEP
    depth += 1
    if kind is list:
        return [_redact(item, depth) for item in cast("list[Any]", value)]
    found: dict[str, Any] = {}
    for name, item in cast("dict[str, Any]", value).items():
        clean = name.replace("\x00", "") if "\x00" in name else name
        secret = item is not None and len(clean) <= _LONGEST_NAME and is_secret(clean)
        found[clean] = REDACTED if secret else _redact(item, depth)
    return found
