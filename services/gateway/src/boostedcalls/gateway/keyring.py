"""The keys of access tokens: which of them signs, and which are good.

`JWT_SECRET` alone is a ring of one. `JWT_KEYS_FILE` names a JSON Web Key Set (RFC 7517) with the private keys, and in
the member `sign` the id of the one that signs. Every replica looks at the file each second: keys come and go without a
restart. It is edited by `python -m boostedcalls.gateway keys` (keyfile.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from boostedcalls.common.logs import get_logger
from boostedcalls.common.settings import DEMO, weakness
from boostedcalls.common.trouble import Trouble
from boostedcalls.gateway.claims import Access, read_claims
from boostedcalls.gateway.jws import Ed25519Key, HmacKey, Key, decode, encode, header_of, signed, verified

log = get_logger(__name__)

EVERY = 1.0
"""Seconds between two looks at the file."""
MAX_BYTES = 65_536
_KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REMEMBERED = 4096


class KeysError(ValueError):
    """The key file cannot be used; says why in one line, without a secret."""


class Ring:
    """Keys that do not change; another ring takes the place of one whose file did."""

    def __init__(self, signing: Key, others: Iterable[Key] = ()) -> None:
        self.signing = signing
        self.keys = (signing, *(key for key in others if key is not signing))
        self._by_header = {header_of(key): key for key in self.keys}
        # What is remembered is only what was signed by us, and it is forgotten with the ring: a key that was retired
        # is not good for a token that was seen before. A text that raises is judged anew each time it comes.
        self.read = lru_cache(maxsize=_REMEMBERED)(self._read)

    def issue(self, user_id: UUID, session_id: UUID, issued_at: int, seconds: int) -> str:
        return signed(self.signing, Access(user_id, str(session_id), issued_at + seconds).claims(issued_at))

    def _read(self, token: str) -> Access:
        """What an access token says that is good now. Raises BadToken."""
        return read_claims(verified(self._by_header, token))


def secret_key(secret: str) -> HmacKey:
    """The key that a JWT_SECRET is. Its id says nothing of it to whoever cannot guess it."""
    digest = hashlib.sha256(b"boostedcalls key id " + secret.encode()).hexdigest()
    return HmacKey(f"secret-{digest[:16]}", secret.encode())


def read_keys(path: Path) -> dict[str, Any]:
    """The key set in a file, as its JSON. Raises KeysError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror or error}") from None
    if len(text) > MAX_BYTES:
        raise KeysError(f"{path}: is larger than {MAX_BYTES} bytes")
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise KeysError(f"{path}: is not JSON") from None
    keys = cast(dict[str, Any], found).get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in cast(list[Any], keys)):
        raise KeysError(f'{path}: is no key set: {{"keys": […], "sign": "<kid>"}}')
    return cast(dict[str, Any], found)


def ring_of(path: Path, secret: str | None = None) -> Ring:
    """The ring of a key file; JWT_SECRET, where it is given too, is good for verifying. Raises KeysError."""
    found = read_keys(path)
    keys: dict[str, Key] = {}
    for number, member in enumerate(found["keys"], 1):
        try:
            key = parse_key(member)
        except (ValueError, TypeError) as error:
            raise KeysError(f"{path}: key {number}: {error}") from None
        if key.kid in keys:
            raise KeysError(f"{path}: key {number}: there are two with the kid {key.kid}")
        keys[key.kid] = key
    signing = found.get("sign")
    if not isinstance(signing, str) or signing not in keys:
        raise KeysError(f'{path}: "sign" is not the kid of one of its keys')
    others = list(keys.values())
    # The secret of docker-compose.yml, which everybody knows, stands there also beside a key file.
    if secret is not None and not secret.startswith(DEMO):
        others.append(secret_key(secret))
    return Ring(keys[signing], others)


def parse_key(member: dict[str, Any]) -> Key:
    """A private JWK. Raises ValueError, without a secret in its text."""
    kid = member.get("kid")
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise ValueError("its kid must be 1 to 64 of A-Z a-z 0-9 . _ -")
    match member.get("kty"), member.get("alg"), member.get("crv"):
        case "oct", "HS256", None:
            secret = _bytes(member, "k")
            if fault := weakness(secret):
                raise ValueError(f"k {fault}")
            return HmacKey(kid, secret)
        case "OKP", "EdDSA", "Ed25519":
            private = _bytes(member, "d")
            if len(private) != 32:
                raise ValueError("d must have 32 bytes")
            if fault := weakness(private):
                raise ValueError(f"d {fault}")
            key = Ed25519Key(kid, private)
            if member.get("x") != encode(key.public):
                raise ValueError("x is not the public key of d")
            return key
        case _:
            raise ValueError("only oct with HS256, and OKP (Ed25519) with EdDSA are known")


def _bytes(member: dict[str, Any], name: str) -> bytes:
    text = member.get(name)
    try:
        if isinstance(text, str):
            return decode(text)
    except ValueError:
        pass
    raise ValueError(f"{name} must be base64url")


class Keyring:
    """The ring of now. Raises KeysError when there is none to begin with."""

    def __init__(self, secret: str | None, path: Path | None) -> None:
        self._secret, self._path = secret, path
        self._trouble = Trouble("key_file_unusable", "key_file_usable_again", text="going on with the keys of before")
        self._seen: tuple[int, ...] | None = None
        if path is not None:
            self._seen = self._stamp()
            self.ring = ring_of(path, secret)
        elif secret is not None:
            self.ring = Ring(secret_key(secret))
        else:
            raise KeysError("there is neither JWT_SECRET nor JWT_KEYS_FILE")

    def _stamp(self) -> tuple[int, ...] | None:
        """Changes with the file; None while there is none."""
        try:
            found = cast(Path, self._path).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    def look(self) -> None:
        """Take the file's keys if it has changed. One that is broken or gone leaves the ring as it was."""
        if self._path is None:
            return
        stamp = self._stamp()
        if stamp is not None and stamp == self._seen:
            self._trouble.over()
            return
        try:
            ring = ring_of(self._path, self._secret)
        except KeysError as error:
            self._trouble.seen(error)
            return
        self._seen = stamp
        self._trouble.over()
        if _identity(ring) != _identity(self.ring):
            self.ring = ring
            log.info("keys_changed", sign=ring.signing.kid, keys=[key.kid for key in ring.keys])

    async def follow(self) -> None:
        """Look at the file again and again."""
        while self._path is not None:
            await asyncio.sleep(EVERY)
            await asyncio.to_thread(self.look)


def _identity(ring: Ring) -> tuple[Any, ...]:
    """What makes two rings the same: every key's signature of one text, the signing one's first."""
    return tuple((key.kid, key.sign(b"")) for key in ring.keys)
