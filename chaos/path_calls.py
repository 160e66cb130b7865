"""The dispatch: a whole `POST /api/calls/` and the schedule's looks, against every fault of the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx2 as httpx

from boostedcalls.calls import store
from boostedcalls.calls.state import timeline_entry
from boostedcalls.common.bus.streams import CALL_EVENTS, PROVIDER_EVENTS
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.calls import CREATE_CALL
from boostedcalls.common.messages.contacts import CREATE_CONTACT
from chaos import books
from chaos.books import LOST, STUCK, Finding
from chaos.campaign import Case
from chaos.lab import Lab

# The provider refused, and that is the answer.
_FINAL = {"provider_error"}
_ANSWERED_WITHIN = 120.0
_QUIET_WITHIN = 300.0


@dataclass(slots=True)
class Calls:
    """Cases that each ask for one call of a user of its own, to a number that makes the provider fail in one way.

    stage      "create", "repeat", or what the schedule's look finds: "dispatch", "reconcile", "follow"
    live       the calls service runs beside the cases, as another replica would
    down       the provider is away while the cases run
    """

    name: str
    number: str
    stage: str = "create"
    live: bool = False
    down: bool = False
    env: dict[str, str] = field(default_factory=dict[str, str])
    simulator: Mapping[str, str] = field(default_factory=dict[str, str])
    _since: tuple[int, int, int] = (0, 0, 0)

    @property
    def path(self) -> str:
        return "dispatch" if self.runs == "create" else "sweep"

    @property
    def runs(self) -> str:
        return "create" if self.stage in {"create", "repeat"} else "sweep"

    async def begin(self, lab: Lab) -> None:
        await lab.fresh_simulator(self.simulator)
        if self.live:
            await lab.start_calls()
        self._since = await lab.last(PROVIDER_EVENTS), await lab.last(CALL_EVENTS), len(lab.dials())
        if self.down:
            await lab.stack.stop("simulator")

    async def prepare(self, lab: Lab) -> dict[str, Any]:
        user, phone = new_id(), f"+120255501{self.number}"
        if self.runs == "create":
            contact = await lab.ask(CREATE_CONTACT.subject, {"name": "Ada", "phone": phone}, user)
            again = self.stage == "repeat"
            return {"user": str(user), "contact": contact["id"], "key": str(new_id()), "again": again}
        now = datetime.now(UTC)
        row = {
            "id": new_id(),
            "user_id": user,
            "created_at": now,
            "updated_at": now,
            "contact_id": new_id(),
            "contact_name": "Ada",
            "contact_phone": phone,
            "assistant_id": "assistant",
            "phone_number_id": "number",
        }
        created = timeline_entry(row["id"], "created", "user", now, "pending", None)
        async with transaction(lab.pool) as connection:
            await store.insert(connection, row, created, caller().traceparent)
        return {"user": str(user), "call": str(row["id"]), "stage": self.stage, "wait": 0.7}

    async def recover(self, lab: Lab, cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
        """The restart: the calls service comes back, clients ask again, and everything must come to rest."""
        if self.down:
            await lab.stack.start("simulator")
        if not self.live:
            await lab.start_calls()
        by_user = {UUID(case.args["user"]): case for case in cases}
        found: list[Finding] = []
        if self.runs == "create":
            slots = asyncio.Semaphore(16)
            answers = await asyncio.gather(*(_ask_until_answered(lab, case, slots) for case in cases))
            found += [finding for finding in answers if finding]
        stuck = await lab.quiet(by_user, _QUIET_WITHIN)
        await lab.stop_calls()
        found += [Finding(STUCK, str(row["id"]), f"{row['status']}, due {row['due_at']}") for row in stuck]
        events, told, dials = self._since
        rows = await lab.pool.fetch(
            "SELECT provider_call_id FROM calls.calls WHERE user_id = ANY($1::uuid[])", list(by_user)
        )
        reported = await lab.read(PROVIDER_EVENTS, events, await lab.floor())
        kept = await books.read(
            lab.pool,
            by_user,
            reported,
            await lab.read(CALL_EVENTS, told),
            await _truth(lab, [row["provider_call_id"] for row in rows if row["provider_call_id"]]),
        )
        found += _one_call_each(by_user, kept)
        found += books.check_dials(kept, lab.dials()[dials:])
        found += books.check_events(kept) + books.check_fold(kept) + books.check_results(kept)
        found += await books.check_rollups(lab.pool, by_user)
        found += await books.check_ledger(lab.pool, [message.metadata.sequence.stream for message in reported])
        owners = {str(row["id"]): by_user[row["user_id"]] for row in kept.rows}
        owners |= {str(user): case for user, case in by_user.items()}
        return [(owners.get(finding.about, cases[0]), finding) for finding in found]


def _one_call_each(by_user: Mapping[UUID, Case], kept: books.Books) -> list[Finding]:
    counts = {user: 0 for user in by_user}
    for row in kept.rows:
        counts[row["user_id"]] += 1
    return [Finding(LOST, str(user), f"{count} calls for one request") for user, count in counts.items() if count != 1]


async def _ask_until_answered(lab: Lab, case: Case, slots: asyncio.Semaphore) -> Finding | None:
    """What a client does that got no answer: the same request, with the same key, again."""
    body = {"contact_id": case.args["contact"], "idempotency_key": case.args["key"]}
    reason = ""
    async with slots:
        deadline = asyncio.get_running_loop().time() + _ANSWERED_WITHIN
        while asyncio.get_running_loop().time() < deadline:
            try:
                await lab.ask(CREATE_CALL.subject, body, UUID(case.args["user"]), timeout=10)
                return None
            except ServiceError as error:
                if error.code in _FINAL:
                    return None
                reason = error.code
            await asyncio.sleep(0.3)
    return Finding(STUCK, case.args["user"], f"the request is not answered: {reason}")


async def _truth(lab: Lab, provider_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the provider has of these calls."""
    found: dict[str, dict[str, Any]] = {}
    async with httpx.AsyncClient(base_url=lab.stack.simulator_url, headers={"Authorization": "Bearer any"}) as http:
        for provider_id in provider_ids:
            answer = await http.get(f"/call/{provider_id}")
            if answer.status_code == 200:
                found[provider_id] = answer.json()
    return found


_SLOW_LIST = {"SIMULATOR_LIST_LAG": "2.5"}
_SLOWER_LIST = {"SIMULATOR_LIST_LAG": "8"}

CREATE: list[Calls] = [
    *(Calls(number, number) for number in ("00", "10", "11", "12", "13", "20", "21", "22", "23", "24", "25")),
    Calls("00, repeated", "00", stage="repeat"),
    Calls("12, replica", "12", live=True),
    # Found by the list alone, once it shows the call; and found by its webhooks, after the list was given up on.
    Calls("list lags", "10", live=True, simulator=_SLOW_LIST),
    Calls("list lags long", "22", live=True, simulator=_SLOWER_LIST),
    Calls("provider down", "00", down=True, env={"DISPATCH_DEADLINE": "2"}),
]
SWEEP: list[Calls] = [
    Calls("dispatch 00", "00", stage="dispatch"),
    Calls("dispatch 22", "22", stage="dispatch"),
    Calls("reconcile 00", "00", stage="reconcile"),
    Calls("reconcile 10", "10", stage="reconcile"),
    Calls("follow 10", "10", stage="follow"),
]
