"""People who use the system through REST, whatever happens to it: they ask for calls (again, with the same key, when
they heard nothing), cancel, read, and keep contacts. Everything that they do and hear is in the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from time import time
from typing import Any
from uuid import uuid4

import httpx2

from chaos.history import History

# Scenarios of docs/simulator.md, and how often each is wanted.
WEIGHTS = {
    **{"00": 6, "01": 2, "02": 2, "03": 2, "04": 2, "05": 3},
    **{"10": 3, "11": 3, "12": 3, "13": 3},
    **{"20": 3, "21": 2, "22": 3, "23": 2, "24": 2, "25": 1},
}
TALKS_ON = "05"
TERMINAL = frozenset({"completed", "failed", "cancelled", "no-answer", "busy", "voicemail"})
NO_ANSWER = 0
_PASSWORD = "correct-horse-battery"  # noqa: S105 - of accounts that live as long as the run
# A token lives for an hour.
_LOGIN_EVERY = 1200.0
_USERS = 3
_AGAIN = 0.1
_CANCELLED = 0.03
_AT_ONCE = 40
_TRIES = 60
# An answer may take the dispatch's wait and a few time-outs of what is away.
_PATIENCE = httpx2.Timeout(12, connect=3)


def to_be_repeated(status: int) -> bool:
    """Whether whoever asked for a call asks again with the same key. 502 is an answer: the provider refused."""
    return status in {NO_ANSWER, 409, 429} or (status >= 500 and status != 502)


@dataclass(frozen=True, slots=True)
class Person:
    """An account, with a contact for each number; `doors` are HTTP clients, one for each gateway."""

    id: str
    doors: Sequence[httpx2.AsyncClient]
    contacts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer; status 0 where there was none."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def member(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None


async def ask(door: httpx2.AsyncClient, method: str, path: str, **more: Any) -> Heard:
    """Send one request. Never raises: what went wrong on the way is an answer that was not heard."""
    try:
        answer = await door.request(method, path, **more)
        return Heard(answer.status_code, answer.json() if answer.content else None, dict(answer.headers))
    except (httpx2.HTTPError, OSError, ValueError):
        return Heard(NO_ANSWER)


class Load:
    """The people and what they do. `rate`: calls asked for in a second while few are under way."""

    def __init__(self, urls: Sequence[str], history: History, random: Random, rate: float) -> None:
        self._urls = urls
        self._history = history
        self._random = random
        self._rate = rate
        self._stack = AsyncExitStack()
        self._people: list[Person] = []
        self._logins: list[asyncio.Task[None]] = []
        self._known: list[tuple[Person, str]] = []
        self.requested = 0
        self.answered = 0

    async def __aenter__(self) -> Load:
        try:
            self._people = [await self._person() for _ in range(_USERS)]
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._logins:
            task.cancel()
        await asyncio.gather(*self._logins, return_exceptions=True)
        await self._stack.aclose()

    async def _person(self) -> Person:
        email = f"{uuid4().hex}@example.com"
        doors = [
            await self._stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=_PATIENCE, trust_env=False))
            for url in self._urls
        ]
        account = await _must(doors[0], "/api/auth/signup", email=email, password=_PASSWORD)
        await _log_in(doors, email)
        contacts: dict[str, str] = {}
        for number in WEIGHTS:
            made = await _must(doors[0], "/api/contacts/", name=f"No. {number}", phone=f"+120255501{number}")
            contacts[number] = made["id"]
            self._contact(made["id"], "create", 0, Heard(201))
        self._history.note("user", user=account["id"])
        self._logins.append(asyncio.create_task(_stay_logged_in(doors, email)))
        return Person(account["id"], doors, contacts)

    def _door(self, person: Person) -> httpx2.AsyncClient:
        return self._random.choice(person.doors)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask for calls, read and write until told to stop; returns when the last request is over."""
        under_way: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            for person in self._people:
                group.create_task(self._keep_contacts(person, stop))
                group.create_task(self._read(person, stop))
            while not stop.is_set():
                if len(under_way) < _AT_ONCE:
                    task = group.create_task(self._call(self._random.choice(self._people)))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                await _pause(stop, self._random.expovariate(self._rate))

    async def _call(self, person: Person) -> None:
        """One call that somebody wants: asked for until there is an answer, or patience ends."""
        self.requested += 1
        number = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        n, key = self.requested, str(uuid4())
        self._history.note("request", n=n, user=person.id, number=number, key=key)
        body = {"contact_id": person.contacts[number], "metadata": {"request": n}}
        heard = await self._ask_for_call(person, n, key, body)
        if to_be_repeated(heard.status):
            return
        self.answered += 1
        if self._random.random() < _AGAIN:
            # Somebody whose own memory failed: the answer must be the one that was given before.
            await self._ask_for_call(person, n, key, body, again=True)
        call = heard.member("id")
        if heard.status == 201 and call:
            self._known.append((person, call))
            if number == TALKS_ON or self._random.random() < _CANCELLED:
                await asyncio.sleep(self._random.uniform(0, 5))
                await self.cancel(person, call)

    async def _ask_for_call(self, person: Person, n: int, key: str, body: Any, *, again: bool = False) -> Heard:
        """Until there is an answer, or patience ends."""
        heard = Heard(NO_ANSWER)
        for _ in range(_TRIES):
            heard = await ask(self._door(person), "POST", "/api/calls/", json=body, headers={"Idempotency-Key": key})
            self._history.note(
                "try",
                n=n,
                status=heard.status,
                code=heard.member("code"),
                call=_call_named_by(heard),
                replayed="idempotency-replayed" in heard.headers,
                again=again,
            )
            if not to_be_repeated(heard.status):
                break
            await asyncio.sleep(self._random.uniform(0.2, 1.5))
        return heard

    async def cancel(self, person: Person, call: str) -> None:
        """Cancel a call, again until there is an answer: 200, or 400 for one that is over."""
        for _ in range(_TRIES):
            heard = await ask(self._door(person), "POST", f"/api/calls/{call}/cancel/")
            self._history.note("cancel", call=call, status=heard.status, code=heard.member("code"))
            # 502 and 504 are the provider's: it had no control address for the call yet, say.
            if 0 < heard.status < 500:
                break
            await asyncio.sleep(self._random.uniform(0.2, 1.5))

    async def end_what_talks_on(self) -> None:
        """Cancel the calls that would talk until they are told to end, those too that nobody knows to be there."""
        for person in self._people:
            heard = Heard(NO_ANSWER)
            while heard.status != 200:
                states = ["pending", "queued", "initiated", "ringing", "in-progress"]
                heard = await ask(
                    self._door(person),
                    "GET",
                    "/api/calls/",
                    params={"status": states, "limit": 100, "contact_id": person.contacts[TALKS_ON]},
                )
                await asyncio.sleep(0.2)
            await asyncio.gather(*(self.cancel(person, call["id"]) for call in heard.body["data"]))

    async def _read(self, person: Person, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await _pause(stop, self._random.uniform(0.3, 1.5))
            what = self._random.choice(("list", "get", "get", "get", "stats", "count"))
            if what == "get" and self._known:
                reader, call = self._random.choice(self._known[-200:])
                sent = time()
                heard = await ask(self._door(reader), "GET", f"/api/calls/{call}/")
                state = heard.member("status")
                self._history.note("read", op="get", status=heard.status, call=call, state=state, sent=sent)
            elif what != "get":
                path = {"stats": "/api/calls/stats/", "count": "/api/calls/pending-count/"}.get(what, "/api/calls/")
                heard = await ask(self._door(person), "GET", path)
                self._history.note("read", op=what, status=heard.status)

    async def _keep_contacts(self, person: Person, stop: asyncio.Event) -> None:
        """Contacts made, changed by one hand each, and at times deleted."""
        mine: dict[str, int] = {}
        while not stop.is_set():
            await _pause(stop, self._random.uniform(0.5, 2))
            chosen, dice = self._random.choice([*mine, None]), self._random.random()
            if chosen is None or (len(mine) < 5 and dice < 0.5):
                heard = await ask(
                    self._door(person), "POST", "/api/contacts/", json={"name": "Dana", "phone": "+12025550100"}
                )
                if heard.status == 201:
                    mine[heard.body["id"]] = 0
                self._contact(heard.member("id"), "create", 0, heard)
            elif dice < 0.9:
                mine[chosen] += 1
                change = {"metadata": {"change": mine[chosen]}}
                heard = await ask(self._door(person), "PATCH", f"/api/contacts/{chosen}/", json=change)
                self._contact(chosen, "update", mine[chosen], heard)
            else:
                del mine[chosen]
                heard = await ask(self._door(person), "DELETE", f"/api/contacts/{chosen}/")
                self._contact(chosen, "delete", 0, heard)

    def _contact(self, contact: str | None, op: str, change: int, heard: Heard) -> None:
        self._history.note("contact", contact=contact, op=op, change=change, status=heard.status)


def _call_named_by(heard: Heard) -> str | None:
    """The call's id: of a call that was placed, or of the one that a refusal left behind."""
    if heard.status == 201:
        return heard.member("id")
    instance = heard.member("instance")
    return instance.rstrip("/").rpartition("/")[2] if heard.status == 502 and isinstance(instance, str) else None


async def _stay_logged_in(doors: Sequence[httpx2.AsyncClient], email: str) -> None:
    while True:
        await asyncio.sleep(_LOGIN_EVERY)
        await _log_in(doors, email)


async def _log_in(doors: Sequence[httpx2.AsyncClient], email: str) -> None:
    tokens = await _must(doors[0], "/api/token/", username=email, password=_PASSWORD)
    for door in doors:
        door.headers["Authorization"] = f"Bearer {tokens['access']}"


async def _must(door: httpx2.AsyncClient, path: str, **body: Any) -> Any:
    """POST until it succeeds: before the first kill nothing stands in its way for long."""
    heard = Heard(NO_ANSWER)
    for _ in range(100):
        heard = await ask(door, "POST", path, json=body)
        if heard.status in {200, 201}:
            return heard.body
        await asyncio.sleep(0.3)
    raise RuntimeError(f"the system does not get ready: POST {path} is answered {heard.status} {heard.body}")


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
