"""How a webhook proves itself: the shared secret in a header, or a signature over its raw bytes. Pure.

Two signed ways, both an HMAC over a text that is put together from what came: the provider's HMAC credential (schema
`CreateCustomCredentialDTO`, everything about it configurable) and Standard Webhooks (standardwebhooks.com, fixed).

Nothing here ends early: how long a refusal takes says nothing of what was wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

MAX_AGE = 300
BODY, TIMESTAMP, MESSAGE_ID, METHOD, URL = "{body}", "{timestamp}", "{svix-id}", "{method}", "{url}"
_PLACEHOLDERS = frozenset({BODY, TIMESTAMP, MESSAGE_ID, METHOD, URL})
_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_DIGITS = re.compile(rb"[0-9]{1,16}")
# A number of seconds beyond this would be in the year 5138: it counts milliseconds.
_MILLISECONDS = 10**11
# A header may list signatures under several keys; more than these are not looked at.
_MOST_SIGNATURES = 32
_REPLAY_KEY_BYTES = 16

Headers = Mapping[bytes, bytes]


class Secrets:
    """The values of which one is to be given. Compared by digest, so that the time says nothing of where, or after how
    many bytes, they differ."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._digests = [hashlib.sha256(secret).digest() for secret in secrets if secret]

    def have(self, given: bytes) -> bool:
        """Nothing given, or nothing configured, is never right."""
        digest = hashlib.sha256(given).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return bool(given) and any(found)


def split_format(text: str) -> tuple[str, ...]:
    """A payload format as literal texts and placeholders. Raises ValueError for one that would not prove the body."""
    parts = tuple(part for part in _PLACEHOLDER.split(text) if part)
    found = [part for part in parts if _PLACEHOLDER.fullmatch(part)]
    if unknown := set(found) - _PLACEHOLDERS:
        raise ValueError(f"knows no {', '.join(sorted(unknown))}; there are {', '.join(sorted(_PLACEHOLDERS))}")
    if found.count(BODY) != 1:
        raise ValueError("needs {body}, once")
    if any(left in _PLACEHOLDERS and right in _PLACEHOLDERS for left, right in pairwise(parts)):
        # Otherwise what is signed as the end of one could be sent as the beginning of the other.
        raise ValueError("needs something between two placeholders")
    return parts


@dataclass(frozen=True, slots=True)
class Way:
    """One way to sign. `keys`: the current one first. `parts`: what is signed, with `timestamp` and `message_id` being
    the headers in which these come. `encode`: a digest as it is written. `given`: the signatures in a header's value,
    as they are written."""

    keys: tuple[bytes, ...]
    signature: bytes
    timestamp: bytes | None
    message_id: bytes | None
    parts: tuple[str, ...]
    algorithm: str
    url: bytes
    encode: Callable[[bytes], bytes]
    given: Callable[[bytes], Sequence[bytes]]

    @property
    def headers(self) -> frozenset[bytes]:
        """Those without which nothing is proved."""
        wanted = {TIMESTAMP: self.timestamp, MESSAGE_ID: self.message_id}
        return frozenset({self.signature, *(name for part, name in wanted.items() if name and part in self.parts)})

    def is_fresh(self, headers: Headers, now: float) -> bool:
        """Whether the headers, which must be there, say that it was signed at most 300 s before or after `now`, in
        seconds. That is not proved yet."""
        return not self.timestamp or _is_fresh(headers[self.timestamp], now)

    def prove(self, headers: Headers, body: bytes, now: float) -> bytes:
        """Empty unless the headers, which must be there, prove the body and were signed at most 300 s before or after
        `now`, in seconds; else the key under which a repeat of the very same message is known. It says nothing of which
        of several keys or spellings the repeat comes with."""
        stamp = headers[self.timestamp] if self.timestamp else b""
        values = {
            BODY: body,
            TIMESTAMP: stamp,
            MESSAGE_ID: headers[self.message_id] if self.message_id else b"",
            METHOD: b"POST",
            URL: self.url,
        }
        signed = b"".join(values[part] if part in values else part.encode() for part in self.parts)
        digests = [hmac.digest(key, signed, self.algorithm) for key in self.keys]
        given = self.given(headers[self.signature])
        found = [hmac.compare_digest(self.encode(digest), one) for digest in digests for one in given]
        return digests[0][:_REPLAY_KEY_BYTES] if any(found) and self.is_fresh(headers, now) else b""


def _is_fresh(stamp: bytes, now: float) -> bool:
    """`stamp` counts seconds or milliseconds."""
    if not _DIGITS.fullmatch(stamp):
        return False
    at = int(stamp)
    return abs(now - (at / 1000 if at > _MILLISECONDS else at)) <= MAX_AGE


def credential(
    keys: tuple[bytes, ...],
    *,
    signature: str,
    timestamp: str,
    message_id: str | None,
    payload_format: str,
    algorithm: str,
    encoding: str,
    prefix: str,
    url: str,
) -> Way:
    """The provider's HMAC credential; the names are those of its schema. Without a `prefix`, one such as `sha256=` may
    be there."""
    parts = split_format(payload_format)
    is_hex = encoding == "hex"
    start = prefix.encode()

    def given(value: bytes) -> list[bytes]:
        if start:
            found = value.removeprefix(start) if value.startswith(start) else b""
        else:
            found = value.removeprefix(f"{algorithm}=".encode())
        return [found.lower() if is_hex else found]

    return Way(
        keys,
        signature.lower().encode(),
        timestamp.lower().encode() if TIMESTAMP in parts else None,
        message_id.lower().encode() if message_id and MESSAGE_ID in parts else None,
        parts,
        algorithm,
        url.encode(),
        (lambda digest: digest.hex().encode()) if is_hex else base64.b64encode,
        given,
    )


def standard_webhooks(keys: tuple[bytes, ...]) -> Way:
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, symmetric."""
    return Way(
        keys,
        b"webhook-signature",
        b"webhook-timestamp",
        b"webhook-id",
        split_format(f"{MESSAGE_ID}.{TIMESTAMP}.{BODY}"),
        "sha256",
        b"",
        base64.b64encode,
        lambda value: [one[3:] for one in value.split(b" ")[:_MOST_SIGNATURES] if one.startswith(b"v1,")],
    )
