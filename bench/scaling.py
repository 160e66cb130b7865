"""Several replicas of each service on a NATS cluster of three: part `scaling`, ours only.

It shows that it works, not that it gets faster: all of it shares the cores of one machine. Each size is loaded through
all gateways at once. Where there is more than one of each, it is loaded again, and one replica of each service and the
node that leads the provider events are killed with -9 meanwhile; they come back while the load goes on. After each load
the books must balance (scaling_books).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic, time

import aiohttp
import asyncpg

from bench import ours, usage, wrk
from bench.applied import all_applied, next_live, prepared
from bench.bodies import BLOCK, EVENTS, order, templates
from bench.contender import Contender, with_children
from bench.footprint import SERVICES
from bench.ingest import CONNECTIONS, MOST_EVENTS
from bench.scaling_books import CONSUMER, PATIENCE, STREAM, check
from bench.scaling_table import table, write
from bench.setup import BASE, Figures, Setup, log_in
from boostedcalls.devkit.cluster import NatsCluster, nats_cluster
from boostedcalls.devkit.servers import CHECKOUT
from boostedcalls.devkit.stack import Stack
from boostedcalls.devkit.unlimited import UNLIMITED

SIZES = (1, 2, 4)
PAGE = CHECKOUT / "docs" / "scaling.md"
_NODES = 3
_SECONDS = 8
_SENDERS = 32
_STRIKE_AFTER, _AWAY, _AFTERWARDS = 3.0, 4.0, 3.0
# Webhooks at most while something is killed.
_MOST_STRUCK = 60_000
# What tells of a replica that it took part: a counter, and what its line must hold.
_WORK = {
    "gateway": ("boostedcalls_http_request_seconds_count", "webhook"),
    "webhooks": ("boostedcalls_webhooks_stored_total", ""),
    "calls": ("boostedcalls_consumed_total", f'{STREAM}/{CONSUMER}",result="ack"'),
    "contacts": ("boostedcalls_request_seconds_count", ""),
}


@dataclass
class _System:
    """What runs. `sent` is how many different webhooks were answered so far, all of calls from number `first` on."""

    contender: Contender
    stack: Stack
    cluster: NatsCluster
    size: int
    first: int
    sent: int = 0
    struck: bool = False

    def members(self) -> dict[str, str]:
        """Each replica's name, and where its metrics are."""
        return {
            f"{name}-{index + 1}": self.stack.member(name, index).server.url
            for name in SERVICES
            for index in range(self.size)
        }


@asynccontextmanager
async def _started(setup: Setup, size: int) -> AsyncGenerator[_System]:
    setup.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder = setup.home("ours", "scaling", BASE)
    await ours.load(folder, BASE)
    shutil.rmtree(folder / "nats", ignore_errors=True)
    async with nats_cluster(folder / "nats", _NODES) as cluster:
        # Nothing is placed; and should anything be, it must not leave this machine.
        env = {"VAPI_BASE_URL": "http://127.0.0.1:9", "VAPI_API_KEY": "none", "ACCESS_TOKEN_MINUTES": "60"}
        env |= {**UNLIMITED, **cluster.env}
        parts, counts = ("postgres", *SERVICES), {name: size for name in SERVICES}
        async with Stack(folder, parts=parts, replicas=counts, env=env) as stack:

            def processes() -> Mapping[str, list[int]]:
                found = {"postgres": with_children(stack.member("postgres").server.child.pid)}
                replicas = [stack.member(name, index).server for name in SERVICES for index in range(size)]
                return found | {
                    server.child.name: [server.child.pid]
                    for server in (*replicas, *cluster.servers)
                    if server.child.running
                }

            async def add_live(first: int, count: int) -> None:
                connection = await asyncpg.connect(stack.database_url)
                try:
                    await ours.add_live(connection, BASE, first, count)
                finally:
                    await connection.close()

            secret = stack.env["VAPI_WEBHOOK_SECRET"]
            contender = Contender(
                "BoostedCalls", stack.url, secret, processes, stack.database_url, add_live, ours.LIVE_ROWS, stack
            )
            yield _System(contender, stack, cluster, size, await next_live(contender))


async def _steady(system: _System) -> Figures:
    """wrk through each gateway, each with calls of its own."""
    contender, urls = system.contender, system.stack.urls
    each = -(-MOST_EVENTS * _SECONDS // (EVENTS * BLOCK * len(urls))) * BLOCK
    first = await prepared(contender, each * len(urls))
    async with usage.measured(contender.processes) as used:
        loads = (
            wrk.ingest(url, contender.secret, (first + each * place) * EVENTS, _SECONDS, CONNECTIONS // len(urls))
            for place, url in enumerate(urls)
        )
        runs = await asyncio.gather(*loads)
        connections = await _connections(system)
        applied = [await all_applied(contender, first + each * place, run.sent) for place, run in enumerate(runs)]
    answered = sum(run.answered for run in runs)
    system.sent += answered
    last, began = max(at for at, _ in applied), min(run.began for run in runs)
    micros: defaultdict[str, float] = defaultdict(float)
    peaks: dict[str, list[float]] = {}
    for label, value in used.cpu_micros(answered).items():
        micros[label.partition("-")[0]] += value
    for label, value in sorted(used.peak_mb.items()):
        peaks.setdefault(label.partition("-")[0], []).append(value)
    faults = [f"{sum(run.errors.values())} webhooks not answered" for run in runs if run.errors]
    faults += [f"not applied: {missing}" for _, missing in applied if missing]
    return {
        "events": answered,
        "answered_per_s": round(answered / _SECONDS, 1),
        "applied_per_s": round(answered / max(last - began, _SECONDS), 1),
        "p99_ms": max(run.p99 for run in runs),
        "cpu_us": {kind: round(value, 1) for kind, value in micros.items()},
        "peak_mb": peaks,
        "connections": connections,
        "faults": faults + await _wrong(system),
        "work": await _work(system),
    }


@dataclass
class _Provider:
    """Sends webhooks of calls from `first` on; each again, through the next gateway, until it is answered 200."""

    urls: Sequence[str]
    secret: str
    first: int
    until: float = math.inf
    sent: int = 0
    again: int = 0
    spooled: int = 0
    longest: float = 0.0
    given_up: int = 0
    places: itertools.count[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, headers={"x-vapi-secret": self.secret}) as http:
            await asyncio.gather(*(self._send_on(http, number) for number in range(_SENDERS)))

    async def _send_on(self, http: aiohttp.ClientSession, number: int) -> None:
        while monotonic() < self.until and self.sent < _MOST_STRUCK:
            body, began = templates().body(order(self.first * EVENTS + next(self.places))), monotonic()
            self.sent += 1
            for attempt in itertools.count(number):
                if await self._taken(http, self.urls[attempt % len(self.urls)], body):
                    break
                if monotonic() - began > PATIENCE:
                    self.given_up += 1
                    return
                self.again += 1
                await asyncio.sleep(0.05)
            self.longest = max(self.longest, monotonic() - began)

    async def _taken(self, http: aiohttp.ClientSession, url: str, body: bytes) -> bool:
        try:
            async with http.post(f"{url}/api/calls/webhook/", data=body) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return False
        self.spooled += "X-Stored" in answer.headers
        return answer.status == 200


async def _struck(system: _System) -> Figures:
    """The first of each is killed under load; the stack starts them again, and the node comes back a little later."""
    contender, before = system.contender, await _work(system)
    first = await prepared(contender, _MOST_STRUCK // EVENTS)
    provider, began = _Provider(system.stack.urls, contender.secret, first), monotonic()
    sending = asyncio.create_task(provider.run())
    try:
        await asyncio.sleep(_STRIKE_AFTER)
        leader = await system.cluster.leader(STREAM)
        if leader is None:
            raise RuntimeError(f"nobody leads {STREAM}")
        await asyncio.gather(leader.kill(), *(system.stack.kill(name) for name in SERVICES))
        killed = monotonic()
        await asyncio.sleep(_AWAY)
        await asyncio.gather(leader.start(), *(system.stack.wait_until_restarted(name) for name in SERVICES))
        back = monotonic()
        provider.until = back + _AFTERWARDS
        await sending
        ended, took = time(), monotonic() - began
    finally:
        sending.cancel()
    await _read_contacts(system)
    last, missing = await all_applied(contender, first, provider.sent)
    system.sent += provider.sent
    system.struck = True
    faults = [f"not applied: {missing}"] if missing else []
    if provider.given_up:
        faults.append(f"{provider.given_up} webhooks not answered")
    faults += await _wrong(system)
    # The counters of those that were killed began anew.
    before = {name: count for name, count in before.items() if not name.endswith("-1")}
    work = {name: count - before.get(name, 0) for name, count in (await _work(system)).items()}
    return {
        "events": provider.sent,
        "answered_per_s": round(provider.sent / took, 1),
        "sent_again": provider.again,
        "spooled": provider.spooled,
        "longest_s": round(provider.longest, 2),
        "back_after_s": round(back - killed, 2),
        "applied_after_s": round(max(last - ended, 0.0), 2),
        "faults": faults,
        "work": work,
    }


async def _connections(system: _System) -> dict[str, int]:
    """To Postgres by service, and to each node of the cluster."""
    database = await asyncpg.connect(system.stack.database_url)
    rows = await database.fetch(
        "SELECT application_name, count(*) AS count FROM pg_stat_activity WHERE application_name LIKE 'boostedcalls-%'"
        " GROUP BY 1 ORDER BY 1"
    )
    await database.close()
    found = {f"postgres {row['application_name'].partition('-')[2]}": row["count"] for row in rows}
    async with aiohttp.ClientSession() as http:
        for node, monitor in enumerate(system.cluster.monitors, 1):
            async with http.get(f"http://127.0.0.1:{monitor}/connz") as answer:
                found[f"nats-{node}"] = (await answer.json())["num_connections"]
    return found


async def _wrong(system: _System) -> list[str]:
    """What is wrong with the books, and what ended that nobody killed."""
    ended = [
        f"{name}-{index + 1} ended by itself"
        for name in SERVICES
        for index in range(system.size)
        if system.stack.member(name, index).generation > (2 if system.struck and index == 0 else 1)
    ]
    return await check(system.stack, system.first, system.sent) + ended


async def _work(system: _System) -> dict[str, int]:
    """What each replica has done since its start."""
    found: dict[str, int] = {}
    async with aiohttp.ClientSession() as http:
        for label, url in system.members().items():
            name, holding = _WORK[label.partition("-")[0]]
            async with http.get(f"{url}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            counts = (line.rpartition(" ")[2] for line in lines if line.startswith(name) and holding in line)
            found[label] = int(sum(map(float, counts)))
    return found


async def _read_contacts(system: _System) -> None:
    """So that the contacts service has work, too: webhooks give it none."""
    headers = {"Authorization": f"Bearer {await log_in(system.contender)}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for url in system.stack.urls * 16:
            async with http.get(f"{url}/api/contacts/?limit=1") as answer:
                answer.raise_for_status()


async def part(setup: Setup) -> Figures:
    """{size: {"steady": run, "struck": run}}, once: the books are either right or not. Also into docs/scaling.md."""
    figures: Figures = {}
    if setup.quick or not setup.chosen(["ours"]):
        return figures
    for size in SIZES:
        async with _started(setup, size) as system:
            await _read_contacts(system)
            found = figures[str(size)] = {"steady": await _steady(system)}
            if size > 1:
                found["struck"] = await _struck(system)
        for name, run in found.items():
            setup.say(f"scaling: {size} of each, {name}: {run['answered_per_s']}/s, {run['faults'] or 'no faults'}")
    setup.drop("ours", "scaling", BASE)
    setup.say(table(figures))
    write(PAGE, figures)
    return figures
