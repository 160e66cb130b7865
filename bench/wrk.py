"""Closed loop: `wrk` (Debian's package) with our own scripts, and what it counted.

Latencies are in milliseconds. In a closed loop a slow answer delays the next request, so they flatter; `open_loop` does
not have that fault.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from bench.bodies import templates

_SCRIPTS = Path(__file__).parent / "wrk"
# After the last webhook is sent, for the answers to come in.
_TAIL = 2


class WrkMissing(Exception):
    """wrk is not installed."""


@dataclass(frozen=True)
class Counted:
    """What came back. `errors` by kind: connect, read, write, timeout, and status (not 2xx or 3xx)."""

    answered: int
    seconds: float
    errors: dict[str, int]
    p50: float
    p90: float
    p99: float
    max: float

    @property
    def fine(self) -> bool:
        return self.answered > 0 and not self.errors

    @property
    def rate(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


def figures(alone: Counted, many: Counted) -> dict[str, Any]:
    """Of one connection, and of many: for the results."""
    return {
        "p50_ms": alone.p50,
        "p99_ms": alone.p99,
        "per_s": round(many.rate, 1),
        "many_p50_ms": many.p50,
        "many_p99_ms": many.p99,
        "errors": {**alone.errors, **many.errors},
    }


@dataclass(frozen=True)
class Ingested(Counted):
    """Also which webhooks were sent (from `first` of the order, `sent` of them), and when: seconds since the epoch."""

    first: int
    sent: int
    began: float


def installed() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise WrkMissing("wrk is not installed; run: scripts/bench-tools")
    return path


async def _run(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        installed(), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("JSON "):
            return orjson.loads(line[5:])
    raise RuntimeError(f"wrk counted nothing: {' | '.join(output.decode(errors='replace').split(chr(10))[-4:])}")


def _errors(counted: dict[str, Any]) -> dict[str, int]:
    kinds = ("connect", "read", "write", "timeout", "status")
    return {kind: counted[kind] for kind in kinds if counted[kind]}


@dataclass(frozen=True)
class Request:
    """One of those that are sent in turn; `body` is JSON on one line."""

    path: str
    token: str = ""
    body: str = ""
    method: str = "GET"


async def ask(url: str, requests: Sequence[Request], seconds: float, connections: int) -> Counted:
    """Send the requests in turn for a while. Raises WrkMissing."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requests"
        listed.write_text("".join(f"{one.method}\t{one.path}\t{one.token}\t{one.body}\n" for one in requests))
        # fmt: off
        counted = await _run(
            "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s",
            "-s", str(_SCRIPTS / "requests.lua"), url, "--", str(listed),
        )
        # fmt: on
    return Counted(**{name: counted[name] for name in _NAMES - {"errors"}}, errors=_errors(counted))


async def ingest(url: str, secret: str, first: int, seconds: float, connections: int) -> Ingested:
    """Send webhooks, beginning at a place in the order, as fast as they are answered. Raises WrkMissing."""
    with tempfile.TemporaryDirectory() as folder:
        templates().write(Path(folder))
        # fmt: off
        counted = await _run(
            "-t1", f"-c{connections}", f"-d{round(seconds + _TAIL)}s", "--timeout", "30s",
            "-s", str(_SCRIPTS / "ingest.lua"), url, "--", folder, str(first), str(seconds), secret,
        )
        # fmt: on
    if counted["answered"] < counted["sent"]:
        # Sent, and nobody knows what became of them.
        counted["timeout"] += counted["sent"] - counted["answered"]
    counted |= {"seconds": seconds, "first": first, "errors": _errors(counted)}
    return Ingested(**{field.name: counted[field.name] for field in fields(Ingested)})


_NAMES = {field.name for field in fields(Counted)}
