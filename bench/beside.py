"""One commit beside another: what a request costs, in rates and in CPU time of the services and of Postgres.

    git worktree add ../before COMMIT && .venv/bin/python bench/beside.py ../before

Both systems run all the while; they are asked by turns, by one connection, so that what else happens on the machine
happens to both. Printed: the median of the rounds, and this checkout's share of the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic
from typing import IO, Any, cast
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parents[1]
_SECONDS = 2.5
_LABELS = ("calls", "contacts", "postgres")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        asyncio.run(_work())
        return 0
    with _Worker(given.before.resolve()) as before, _Worker(HERE) as after:
        print(f"{'':<14} {'':<9} {'before':>9} {'after':>9} {'after/before':>13}")
        for name in before.names:
            rows: list[tuple[dict[str, float], dict[str, float]]] = []
            for number in range(given.rounds):
                both = (before, after) if number % 2 else (after, before)
                found = {each: each.ask(name) for each in both}
                rows.append((found[before], found[after]))
            for label in rows[0][0]:
                one, other = (median(row[side][label] for row in rows) for side in (0, 1))
                if one > 1:
                    ratio = median(row[1][label] / row[0][label] for row in rows if row[0][label])
                    print(f"{name:<14} {label:<9} {one:>9.0f} {other:>9.0f} {ratio:>13.2f}", flush=True)
    return 0


class _Worker:
    """A system of one checkout, in a process of its own."""

    def __init__(self, checkout: Path) -> None:
        members = [*(checkout / "libs").iterdir(), *(checkout / "services").iterdir()]
        path = os.pathsep.join([*(str(each / "src") for each in members), str(checkout)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(checkout), "--worker"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._input, self._output = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.names: list[str] = self._answer()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()
        self._process.wait()

    def _answer(self) -> Any:
        return json.loads(self._output.readline())

    def ask(self, name: str) -> dict[str, float]:
        self._input.write(f"{name}\n")
        self._input.flush()
        return self._answer()


async def _work() -> None:
    from bench import usage
    from bench.contender import start_ours
    from bench.data import DataSet, call_id, contact_id
    from bench.setup import log_in

    data = DataSet(calls=100_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 - Postgres is another user where we are root
        async with start_ours(folder / "home", data, nats_sync="always") as ours:
            token = await log_in(ours, 0)
            contact = json.dumps({"name": "Ada", "phone": "+12025550100"})
            requests = {
                "first page": ("GET", "/api/calls/?page=1&limit=20", None),
                "one call": ("GET", f"/api/calls/{call_id(7)}/", None),
                "one contact": ("GET", f"/api/contacts/{contact_id(7)}/", None),
                "pending-count": ("GET", "/api/calls/pending-count/", None),
                "stats": ("GET", "/api/calls/stats/", None),
                "new contact": ("POST", "/api/contacts/", contact),
            }
            print(json.dumps(list(requests)), flush=True)
            loop = asyncio.get_running_loop()
            connection = http.client.HTTPConnection(urlsplit(ours.url).netloc)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

            def ask(method: str, path: str, body: str | None, seconds: float) -> int:
                count, end = 0, monotonic() + seconds
                while monotonic() < end:
                    connection.request(method, path, body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status not in {200, 201}:
                        raise RuntimeError(f"{method} {path}: {answer.status}")
                    count += 1
                return count

            while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
                request = requests[name]
                await loop.run_in_executor(None, ask, *request, 0.3)
                processes = ours.processes()
                before = usage.cpu(processes)
                count = await loop.run_in_executor(None, ask, *request, _SECONDS)
                after = usage.cpu(processes)
                micros = {label: (after[label] - before[label]) * 1e6 / count for label in _LABELS}
                print(json.dumps({"a second": count / _SECONDS, **micros}), flush=True)


if __name__ == "__main__":
    sys.exit(_main())
