"""Compact JSON Web Signatures (RFC 7515) of two kinds: HS256, and EdDSA with Ed25519 (RFC 8037).

In place of PyJWT, which loads all of `cryptography` as soon as that is installed: 10 MB in every gateway, for the one
that signs with EdDSA. And stricter: a token must begin with the very bytes that we write as the header of one of our
keys. So no header of a stranger's is ever parsed, and what it asks for (another algorithm, a key of its own, a critical
extension) is never looked at. One text is one token: another spelling of the same bytes is refused.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any, Protocol

TYPE = "at+jwt"


class BadToken(ValueError):
    """No token of ours; says why, for tests and logs."""


class Key(Protocol):
    """A key with its name and its one algorithm."""

    kid: str
    algorithm: str

    def sign(self, data: bytes) -> bytes: ...

    def verifies(self, data: bytes, signature: bytes) -> bool: ...


class HmacKey:
    algorithm = "HS256"

    def __init__(self, kid: str, secret: bytes) -> None:
        self.kid = kid
        self._secret = secret

    def sign(self, data: bytes) -> bytes:
        return hmac.digest(self._secret, data, "sha256")

    def verifies(self, data: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(data), signature)


class Ed25519Key:
    algorithm = "EdDSA"

    def __init__(self, kid: str, private: bytes) -> None:
        """Raises ValueError for a private key that has not 32 bytes."""
        # Nine megabytes, for those who use it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.kid = kid
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self._public = self._private.public_key()
        self.public = self._public.public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)

    def verifies(self, data: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Raises ValueError for all but the one spelling that `encode` gives."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(data) != text:
        raise ValueError("not base64url as we write it")
    return data


def header_of(key: Key) -> str:
    """The first part of every token that is signed with the key."""
    return _segment({"alg": key.algorithm, "kid": key.kid, "typ": TYPE})


def signed(key: Key, claims: dict[str, Any]) -> str:
    text = f"{header_of(key)}.{_segment(claims)}"
    return f"{text}.{encode(key.sign(text.encode()))}"


def verified(keys_by_header: dict[str, Key], token: str) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed. Raises BadToken."""
    header, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if (key := keys_by_header.get(header)) is None:
        raise BadToken("not a header of ours")
    try:
        if not key.verifies(f"{header}.{payload}".encode(), decode(signature)):
            raise BadToken("not signed by us")
        claims: object = json.loads(decode(payload), object_pairs_hook=_once, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise BadToken(str(error)) from None
    if not isinstance(claims, dict):
        raise BadToken("no object")
    return claims  # pyright: ignore[reportUnknownVariableType] - JSON knows only strings as names


def _segment(members: dict[str, Any]) -> str:
    return encode(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
