"""Edits the file of the keys that sign access tokens (keyring.py), as a whole or not at all, one editor at a time.

A change of keys has three steps: publish the new one (`add`), sign with it (`sign`) once every gateway has read it, and
retire the old one once the last token that it signed has expired.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

from boostedcalls.gateway.claims import LEEWAY_SECONDS
from boostedcalls.gateway.jws import encode
from boostedcalls.gateway.keyring import EVERY, KeysError, parse_key, read_keys, ring_of

ALGORITHMS = ("HS256", "EdDSA")
PUBLISH_SECONDS = int(EVERY) + 4
"""After this every gateway has read the file, if it lies where they see it at once."""


def list_keys(path: Path) -> str:
    """A line for each key; no secret."""
    ring_of(path)
    found = read_keys(path)
    lines = [
        f"{key['kid']}  {key['alg']}  {'signs' if key['kid'] == found['sign'] else 'is good for verifying'}"
        for key in found["keys"]
    ]
    return "\n".join(lines)


def add_key(path: Path, algorithm: str) -> str:
    """A new key, which makes the file if it is not there. What was done and comes next."""
    with _edited(path, create=True) as keys:
        key = _new_key(algorithm)
        keys["keys"].append(key)
        if "sign" not in keys:
            keys["sign"] = key["kid"]
            return f"added {key['kid']}, which signs; give the file to every gateway as JWT_KEYS_FILE"
        return f"added {key['kid']}; once every gateway has read it ({PUBLISH_SECONDS} s): keys sign {key['kid']}"


def sign_with(path: Path, kid: str, access_minutes: int, *, now: bool = False) -> str:
    """Let this key sign from now on."""
    with _edited(path) as keys:
        key, before = _known(keys, kid), keys["sign"]
        if kid == before:
            return f"{kid} signs already"
        if not now and (left := key.get("iat", 0) + PUBLISH_SECONDS - int(time())) > 0:
            raise KeysError(f"{kid} is too new: some gateways may not know it yet; in {left} s, or with --now")
        _known(keys, before)["signed_until"] = int(time())
        key.pop("signed_until", None)
        keys["sign"] = kid
    wait = _wait(access_minutes)
    return f"{kid} signs; the last token of {before} expires in {wait} s, then: keys retire {before}"


def retire_key(path: Path, kid: str, access_minutes: int, *, now: bool = False) -> str:
    """Remove a key that does not sign any more: its tokens are refused from now on."""
    with _edited(path) as keys:
        key = _known(keys, kid)
        if kid == keys["sign"]:
            raise KeysError(f"{kid} signs; let another sign first (keys sign KID), then wait {_wait(access_minutes)} s")
        left = key.get("signed_until", 0) + _wait(access_minutes) - int(time())
        if not now and left > 0:
            raise KeysError(f"tokens of {kid} may still be good; in {left} s, or with --now, which ends them")
        keys["keys"].remove(key)
    return f"retired {kid}; within {PUBLISH_SECONDS} s no gateway takes its tokens"


def _wait(access_minutes: int) -> int:
    """Seconds after which a token of a key that signs no more has expired on every gateway."""
    return access_minutes * 60 + LEEWAY_SECONDS + PUBLISH_SECONDS


def _known(keys: dict[str, Any], kid: str) -> dict[str, Any]:
    for key in keys["keys"]:
        if key.get("kid") == kid:
            return key
    raise KeysError(f"there is no key {kid}")


def _new_key(algorithm: str) -> dict[str, Any]:
    head = {"kid": secrets.token_hex(8), "use": "sig", "iat": int(time())}
    if algorithm == "HS256":
        return {"kty": "oct", "alg": "HS256", **head, "k": encode(secrets.token_bytes(32))}
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = encode(private.public_key().public_bytes_raw())
    d = encode(private.private_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", **head, "x": public, "d": d}


@contextmanager
def _edited(path: Path, *, create: bool = False) -> Generator[dict[str, Any]]:
    """The key set of the file, which is written back at the end. Raises KeysError, and leaves the file as it was."""
    path = path.resolve()
    try:
        # The folder, as the file itself is replaced.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeysError(f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if create and not path.exists():
            keys: dict[str, Any] = {"keys": []}
        else:
            ring_of(path)
            keys = read_keys(path)
        before = json.dumps(keys)
        yield keys
        if json.dumps(keys) != before:
            _write(path, keys)
            os.fsync(folder)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    finally:
        os.close(folder)


def _write(path: Path, keys: dict[str, Any]) -> None:
    for key in keys["keys"]:
        parse_key(key)
    # With the mode 0600.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            if path.exists():
                # Edited by root, it is still the gateway's to read.
                with contextlib.suppress(PermissionError):
                    found = path.stat()
                    os.fchown(descriptor, found.st_uid, found.st_gid)
            file.write(json.dumps(keys, indent=2) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
