"""Open loop: webhooks at a constant rate, whether answers come or not, each timed from when it was due to leave.

Runs as a process of its own (`python -m bench.open_loop`, an order as JSON on its input), so that nothing else delays
it: raw asyncio on kept connections, uvloop, no garbage collection. `drive` starts it.
"""

from __future__ import annotations

import array
import asyncio
import gc
import math
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.bodies import EVENTS, order, templates
from bench.data import DataSet, contact_id, live_call_id

_CONNECTIONS = 64
_MOST_CONNECTIONS = 512
_TAIL = 10.0
_PROBE_PAUSE = 0.005
_PROBE_PATIENCE = 10.0


@dataclass(frozen=True)
class Order:
    """What to send: `rate` webhooks a second for `seconds`.

    first     number of the first live call
    own       each webhook goes to a call of its own (one of the four kinds, by turns); else in the order of `bodies`
    probes    so many of the calls a second are looked for over REST, with `token`, from their acknowledgement on
    data      the arguments of the DataSet, for the contacts of its calls
    out       file for the times of the acknowledgements (doubles, seconds since the epoch; NaN for none)
    """

    url: str
    secret: str
    rate: float
    seconds: float
    first: int
    own: bool = False
    probes: float = 0.0
    token: str = ""
    data: dict[str, int] = field(default_factory=dict[str, int])
    out: str = ""


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 and max of seconds, in milliseconds."""
    found = sorted(values)
    if not found:
        return {}
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    told = {name: found[min(len(found) - 1, int(len(found) * part))] for name, part in places.items()}
    return {name: round(value * 1000, 3) for name, value in {**told, "max": found[-1]}.items()}


class _Connection(asyncio.Protocol):
    """One request at a time. Calls `told(status, body)` for its answer, status 0 when the connection was lost."""

    def __init__(self, freed: Callable[[_Connection], None]) -> None:
        self._freed = freed
        self._told: Callable[[int, bytes], None] | None = None
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._answer(0, b"", keep=False)

    def send(self, request: bytes, told: Callable[[int, bytes], None]) -> None:
        assert self._transport is not None  # noqa: S101 - connected before it is used
        self._told = told
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end].lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._answer(int(head[9:12]), buffer[end + 4 :], keep=b"connection: close" not in head)

    def _answer(self, status: int, body: bytes, *, keep: bool) -> None:
        told, self._told = self._told, None
        if not keep and self._transport is not None and not self.lost:
            self.lost = True
            self._transport.close()
        if told is not None:
            told(status, body)
            self._freed(self)


class _Client:
    """Connections that are kept; what finds none waits in line."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[bytes, Callable[[int, bytes], None]]] = deque()
        self._count = 0
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        await asyncio.gather(*(self._open() for _ in range(count)))

    async def _open(self) -> None:
        self._count += 1
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(lambda: _Connection(self._free), self._host, self._port)
        except OSError:
            self._count -= 1
            if self._waiting:
                self._waiting.popleft()[1](0, b"")
            return
        self._free(made)

    def _free(self, connection: _Connection) -> None:
        if connection.lost:
            self._count -= 1
            if self._waiting:
                self._more()
        elif self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _more(self) -> None:
        task = asyncio.ensure_future(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def send(self, request: bytes, told: Callable[[int, bytes], None]) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.lost:
                return connection.send(request, told)
            self._count -= 1
        self._waiting.append((request, told))
        if self._count < _MOST_CONNECTIONS:
            self._more()


class _Load:
    def __init__(self, given: Order) -> None:
        self._order = given
        parts = urlsplit(given.url)
        self._host = f"{parts.hostname}:{parts.port}"
        self._client = _Client(str(parts.hostname), parts.port or 80)
        self._probes_client = _Client(str(parts.hostname), parts.port or 80)
        self._head = (
            f"POST /api/calls/webhook/ HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"x-vapi-secret: {given.secret}\r\nContent-Length: "
        ).encode()
        self._count = int(given.rate * given.seconds)
        self._acks = array.array("d", [math.nan]) * self._count
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._errors: Counter[str] = Counter()
        self._visible: list[float] = []
        self._unseen = 0
        self._answered = 0
        self._probing: set[asyncio.Task[None]] = set()
        self._probe_every = int(given.rate / given.probes) if given.probes else 0
        self._data = DataSet(**given.data)

    def _body(self, number: int) -> bytes:
        if self._order.own:
            return templates().of(number % EVENTS, self._order.first + number)
        return templates().body(order(self._order.first * EVENTS + number))

    def _send(self, number: int, due: float) -> None:
        body = self._body(number)

        def told(status: int, _: bytes) -> None:
            self._answered += 1
            if status != 200:
                self._errors["lost" if status == 0 else str(status)] += 1
                return
            self._latencies.append(monotonic() - due)
            self._acks[number] = time()
            if self._probe_every and number % self._probe_every == 0:
                task = asyncio.ensure_future(self._probe(self._order.first + number))
                self._probing.add(task)
                task.add_done_callback(self._probing.discard)

        self._client.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), told)

    async def _probe(self, call: int) -> None:
        """Ask for the call until it shows that its webhook was applied."""
        began = monotonic()
        contact = contact_id(call % self._data.contacts_each * self._data.users)
        path = f"/api/calls/?contact_id={contact}&limit=20"
        request = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._order.token}\r\n\r\n"
        wanted = str(live_call_id(call))
        while monotonic() - began < _PROBE_PATIENCE:
            answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
            self._probes_client.send(request.encode(), lambda status, body, to=answer: to.set_result((status, body)))
            status, body = await answer
            if status == 200:
                shown = [item for item in orjson.loads(body)["data"] if item["id"] == wanted]
                if shown and shown[0]["status"] != "pending":
                    self._visible.append(monotonic() - began)
                    return
            await asyncio.sleep(_PROBE_PAUSE)
        self._unseen += 1

    async def run(self) -> dict[str, Any]:
        await self._client.open(_CONNECTIONS)
        began = monotonic() + 0.1
        began_at = time() + 0.1
        sent = 0
        while sent < self._count:
            now = monotonic()
            while sent < self._count and (due := began + sent / self._order.rate) <= now:
                self._send(sent, due)
                self._late.append(now - due)
                sent += 1
            await asyncio.sleep(0.001)
        until = monotonic() + _TAIL
        while (self._answered < sent or self._probing) and monotonic() < until:  # noqa: ASYNC110 - two counts
            await asyncio.sleep(0.005)
        if missing := sent - self._answered:
            self._errors["unanswered"] += missing
        if self._order.out:
            with Path(self._order.out).open("wb") as file:  # noqa: ASYNC230 - nothing is under way any more
                self._acks.tofile(file)
        return {
            "began": began_at,
            "sent": sent,
            "answered": len(self._latencies),
            "errors": dict(self._errors),
            "ack_ms": percentiles(self._latencies),
            "sent_late_ms": percentiles(self._late),
            "visible_ms": percentiles(self._visible),
            "probes": len(self._visible) + self._unseen,
            "unseen": self._unseen + len(self._probing),
        }


async def drive(given: Order) -> tuple[dict[str, Any], list[float]]:
    """Run the order in a process of its own: what it counted, and the times of the acknowledgements."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "acks"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.open_loop",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        try:
            told, _ = await process.communicate(orjson.dumps({**asdict(given), "out": str(out)}))
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise RuntimeError(f"the open loop ended with exit code {process.returncode}")
        acks = array.array("d")
        acks.frombytes(out.read_bytes())
        return orjson.loads(told), list(acks)


def _main() -> None:
    given = Order(**orjson.loads(sys.stdin.buffer.read()))
    load = _Load(given)
    templates()
    gc.disable()
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(load.run())))


if __name__ == "__main__":
    _main()
