"""What reading costs at each size: part `reads`.

Each workload is asked by one connection (the latency of an answer that nobody competes with: on that flatness is
judged) and by sixteen (how many a second).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from bench import usage, wrk
from bench.contender import Contender
from bench.data import PASSWORD, DataSet, call_id, contact_id, email
from bench.latency import visible
from bench.setup import Figures, Setup, log_in

AT_ONCE = 16
FAR = 500
LIMIT = 20
APPLY = "webhook apply"
SAME = ("contacts", "login")
"""What no number of calls changes: measured at a contender's first size."""
# Too few for a median: asked again for longer.
_FEW = 5
_LONGER = 5
_USERS = 20
_OBJECTS = 500
_WARM_UP = 5
_APPLY_RATE = 100


@dataclass(frozen=True)
class Case:
    """A contender, and how much its database holds."""

    name: str
    data: DataSet


ONE_USER = [DataSet(calls=10_000), DataSet(calls=100_000), DataSet(calls=1_000_000)]
MANY_USERS = DataSet(calls=1_000_000, users=1_000)


def _plan(setup: Setup) -> list[Case]:
    small, middle, large = ONE_USER
    if setup.quick:
        return [Case("ours", small), Case("ours", middle), Case("django-persistent", small)]
    cases = [Case("ours", data) for data in (*ONE_USER, MANY_USERS)]
    # `django-indexed` has an index that nothing in its documentation asks for, but that anybody would add.
    cases += [Case(name, data) for name in ("django-persistent", "sqlalchemy") for data in (small, middle)]
    cases += [Case("django-indexed", middle)]
    # Takes minutes, and no target asks for it: only when it is named.
    cases += [Case(name, large) for name in ("django-persistent", "django-indexed", "sqlalchemy") if name in setup.only]
    return cases


async def workloads(contender: Contender, data: DataSet) -> dict[str, list[wrk.Request]]:
    """By name. Where there are many users, twenty of them ask by turns."""
    numbers = range(min(data.users, _USERS))
    tokens = [await log_in(contender, number) for number in numbers]

    def each(path: str) -> list[wrk.Request]:
        return [wrk.Request(path, token) for token in tokens]

    def objects(count: int) -> list[tuple[int, str]]:
        """(number, token) of things spread over all, each asked for by the user it belongs to."""
        rows, step = count // data.users, max(1, count // data.users * len(numbers) // _OBJECTS)
        return [
            (row * data.users + user, tokens[user])
            for row in range(0, rows, step)
            for user in numbers
            if row * data.users + user < count
        ]

    found = {
        "first page": each(f"/api/calls/?page=1&limit={LIMIT}"),
        "status=failed": each(f"/api/calls/?status=failed&limit={LIMIT}"),
        "one call": [wrk.Request(f"/api/calls/{call_id(number)}/", token) for number, token in objects(data.calls)],
        "pending-count": each("/api/calls/pending-count/"),
        "stats": each("/api/calls/stats/"),
        "contacts": each("/api/contacts/"),
    }
    if contender.stack is not None:
        # The API that the peers answer has no such filter.
        found["one contact's calls"] = [
            wrk.Request(f"/api/calls/?contact_id={contact_id(number)}&limit={LIMIT}", token)
            for number, token in objects(data.contact_count)
        ]
    if data.calls // data.users >= FAR * LIMIT:
        found[f"page {FAR}"] = each(f"/api/calls/?page={FAR}&limit={LIMIT}")
        if cursor := await _cursor(contender, tokens[0]):
            found[f"page {FAR} by cursor"] = each(f"/api/calls/?cursor={cursor}&limit={LIMIT}")
    # Last: a user keeps a hundred sessions, and so many logins end those of the tokens above.
    found["login"] = [
        wrk.Request("/api/token/", "", orjson.dumps({"username": email(n), "password": PASSWORD}).decode(), "POST")
        for n in numbers
    ]
    return found


async def _cursor(contender: Contender, token: str) -> str | None:
    """To the page; None for a contender that has none."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=contender.url, headers=headers, timeout=60, trust_env=False) as http:
        answer = await http.get("/api/calls/", params={"page": FAR - 1, "limit": LIMIT})
        answer.raise_for_status()
        return answer.json().get("next_cursor")


async def _warm_up(contender: Contender, requests: Sequence[wrk.Request]) -> int:
    """A few requests before they are counted; returns how large an answer is."""
    size = 0
    async with httpx2.AsyncClient(base_url=contender.url, timeout=60, trust_env=False) as http:
        for one in requests[:_WARM_UP]:
            headers = {"Content-Type": "application/json"} | (
                {"Authorization": f"Bearer {one.token}"} if one.token else {}
            )
            answer = await http.request(one.method, one.path, headers=headers, content=one.body or None)
            if answer.status_code != 200:
                raise RuntimeError(f"{contender.name}: {one.path}: {answer.status_code} {answer.text[:200]}")
            size = len(answer.content)
    return size


async def _asked(url: str, requests: Sequence[wrk.Request], seconds: float, connections: int) -> wrk.Counted:
    counted = await wrk.ask(url, requests, seconds, connections)
    if counted.answered < _FEW:
        counted = await wrk.ask(url, requests, _LONGER, connections)
    return counted


async def measure(contender: Contender, requests: Sequence[wrk.Request], seconds: float) -> Figures:
    """One connection, then many."""
    alone = await _asked(contender.url, requests, seconds, 1)
    async with usage.measured(contender.processes) as used:
        many = await _asked(contender.url, requests, seconds, AT_ONCE)
    return {
        **wrk.figures(alone, many),
        "cpu_us": used.cpu_micros(many.answered),
        "peak_mb": used.peak_mb,
    }


async def part(setup: Setup) -> Figures:
    """{contender: {size: {workload: [run, ...]}}}"""
    figures: Figures = {}
    for case in _plan(setup):
        if not setup.chosen([case.name]):
            continue
        setup.say(f"reads: {case.name}, {case.data.calls} calls, {case.data.users} users: loading")
        async with setup.start(case.name, "reads", case.data) as contender:
            known = figures.setdefault(case.name, {})
            kept = known[case.data.name] = await _case(setup, contender, case, first=not known)
        setup.drop(case.name, "reads", case.data)
        for name, runs in kept.items():
            told: list[Any] = [(run["p50_ms"], run.get("per_s")) for run in runs]
            setup.say(f"  {name}: p50 ms, per s: {told}")
    return figures


async def _case(setup: Setup, contender: Contender, case: Case, *, first: bool) -> Figures:
    kept: Figures = {}
    for _ in range(setup.rounds):
        # With new tokens each time: see "login".
        wanted = await workloads(contender, case.data)
        if not first:
            wanted = {name: requests for name, requests in wanted.items() if name not in SAME}
        sizes = {name: await _warm_up(contender, requests) for name, requests in wanted.items()}
        for name, requests in wanted.items():
            run = await measure(contender, requests, 1)
            kept.setdefault(name, []).append({**run, "bytes": sizes[name]})
    # Last: its calls are newer than all others, and would be the first page.
    if case.name == "ours":
        kept[APPLY] = [await _apply(contender, case.data) for _ in range(setup.rounds)]
    return kept


async def _apply(contender: Contender, data: DataSet) -> Figures:
    """From when a webhook was due to leave until its row is written, at a rate that strains nothing."""
    found = await visible(contender, data, _APPLY_RATE, 3, probes=0)
    way = found["sent_to_applied_ms"]
    errors = {**found["errors"], **({"lost": found["lost"]} if found["lost"] else {})}
    return {"p50_ms": way["p50"], "p99_ms": way["p99"], "errors": errors, "cpu_us": found["cpu_us"]}
