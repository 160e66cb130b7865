"""The consumer's batch: fetched, applied in a transaction, acknowledged. Each case has a consumer of its own on the
stream, which sees only the events of its own calls; what a killed one leaves is delivered again after a second."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from nats.js.api import AckPolicy, ConsumerConfig

from boostedcalls.calls import store
from boostedcalls.calls.reports import facts_of
from boostedcalls.calls.signing import metadata
from boostedcalls.calls.state import CallState, entry, fold, timeline_entry
from boostedcalls.common import subjects
from boostedcalls.common.bus import event_message
from boostedcalls.common.bus.streams import DLQ, PROVIDER_EVENTS
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.events import PROVIDER_MESSAGE, CallEvent, ProviderEvent
from chaos import books
from chaos.books import LOST, STUCK, Finding
from chaos.campaign import HARNESS, Case
from chaos.lab import Lab

_ACK_WAIT = 1.0
_T0 = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
_TALK = {
    "artifact": {"transcript": "AI: hi\nUser: hello", "messages": [{"role": "bot", "message": "hi"}]},
    "analysis": {"summary": "They talked.", "successEvaluation": "true"},
    "startedAt": "2026-11-22T10:30:09.020Z",
    "endedAt": "2026-11-22T10:30:33.820Z",
    "endedReason": "customer-ended-call",
}
_RINGING = ("status-update", {"status": "ringing", "timestamp": 1795343402000})
_TALKING = ("status-update", {"status": "in-progress", "timestamp": 1795343409000})
_ENDED = ("status-update", {"status": "ended", "endedReason": "customer-ended-call", "timestamp": 1795343438410})
_REPORT = ("end-of-call-report", {**_TALK, "cost": 0.04, "timestamp": 1795343441230})
_SNAPSHOT = ("call-snapshot", {"call": {"status": "ended", "cost": 0.03, "updatedAt": "2026-11-22T10:30:40Z", **_TALK}})

# Call -> its reports, some of them twice. "known" has its provider id, "claims" carries ours, signed, "later" is known
# only after the batch, "foreign" never.
_REPORTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "known": [_RINGING, _TALKING, _ENDED, _REPORT, _REPORT],
    "claims": [_TALKING, _SNAPSHOT, _SNAPSHOT, _REPORT],
    "later": [_RINGING, _REPORT, _REPORT],
    "foreign": [_RINGING],
}
_POISON = (b"no JSON at all", b'{"source": "webhook"}')
_numbers = itertools.count(1)


@dataclass(slots=True)
class Batch:
    """Events of four calls in any order. `poison`: two messages among them that can never be handled."""

    name: str
    poison: bool
    path: str = "batch"
    runs: str = "batch"
    env: dict[str, str] = field(default_factory=dict[str, str])
    _letters: int = 0

    async def begin(self, lab: Lab) -> None:
        self._letters = await lab.last(DLQ)

    async def prepare(self, lab: Lab) -> dict[str, Any]:
        label, user = f"batch{next(_numbers)}", new_id()
        provider_ids = {name: f"{label}-{name}" for name in _REPORTS}
        calls = {name: await _insert(lab, user, name, provider_ids[name]) for name in ("known", "claims", "later")}
        secret = lab.stack.env["CALL_SIGNING_SECRET"].encode()
        bodies: list[tuple[str, bytes]] = []
        for name, reports in _REPORTS.items():
            for kind, message in reports:
                call: dict[str, Any] = {**message.get("call", {}), "id": provider_ids[name]}
                if name == "claims":
                    call["assistantOverrides"] = {"metadata": metadata(secret, calls[name], user)}
                bodies.append(_event(kind, provider_ids[name], {**message, "call": call}))
        bodies.append((f"bc.evt.provider.{label}.none", _event("assistant-request", None, {})[1]))
        if self.poison:
            bodies += [(f"bc.evt.provider.{label}.none", data) for data in _POISON]
        # The same order for all, so that a point is the same point.
        random.Random(self.name).shuffle(bodies)
        sequences = [await _publish(lab, subject, data) for subject, data in bodies]
        wanted = [f"bc.evt.provider.{label}.none", *(f"bc.evt.provider.*.{name}" for name in provider_ids.values())]
        await lab.bus.jetstream.add_consumer(
            PROVIDER_EVENTS,
            ConsumerConfig(
                durable_name=label,
                filter_subjects=wanted,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT,
                max_deliver=-1,
                max_ack_pending=512,
            ),
        )
        poison = [seq for seq, (_, data) in zip(sequences, bodies, strict=True) if data in _POISON]
        return {
            "durable": label,
            "user": str(user),
            "provider_ids": provider_ids,
            "calls": {name: str(call_id) for name, call_id in calls.items()},
            "sequences": sequences,
            "poison": poison,
        }

    async def recover(self, lab: Lab, cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
        """A fresh process takes up what the others left, and the "later" calls learn their provider id."""
        drain = {
            "durables": [case.args["durable"] for case in cases],
            "adoptions": [(case.args["calls"]["later"], case.args["provider_ids"]["later"]) for case in cases],
        }
        spec = {"id": 0, "path": "drain-batches", "args": drain, "mutation": cases[0].mutation}
        ending = await lab.zygotes.run(spec)
        found: list[tuple[Case, Finding]] = []
        if ending.end != "completed":
            found.append((cases[0], Finding(HARNESS, "", f"the fresh process: {ending.end} {ending.outcome}")))
        letters = Counter(
            int((message.headers or {}).get("Bc-Origin-Sequence", "0"))
            for message in await lab.read(DLQ, self._letters)
        )
        for case in cases:
            found += [(case, finding) for finding in await self._check(lab, case, letters)]
            await lab.bus.jetstream.delete_consumer(PROVIDER_EVENTS, case.args["durable"])
        return found

    async def _check(self, lab: Lab, case: Case, letters: Counter[int]) -> list[Finding]:
        args, user = case.args, UUID(case.args["user"])
        found: list[Finding] = []
        info = await lab.bus.jetstream.consumer_info(PROVIDER_EVENTS, args["durable"])
        if info.num_pending or info.num_ack_pending:
            found.append(Finding(STUCK, args["durable"], f"{info.num_pending}, {info.num_ack_pending} left"))
        wrong = {
            sequence: letters[sequence]
            for sequence in args["sequences"]
            if letters[sequence] != (sequence in args["poison"])
        }
        if wrong:
            found.append(Finding(LOST, args["durable"], f"poison {args['poison']}, dead letters {wrong}"))
        found += await books.check_ledger(lab.pool, args["sequences"], args["poison"])
        parked = await lab.pool.fetchval(
            "SELECT count(*) FROM calls.unmatched WHERE provider_call_id = ANY($1::text[])",
            list(args["provider_ids"].values()),
        )
        if parked != len(_REPORTS["foreign"]):
            found.append(Finding(LOST, args["durable"], f"{parked} events are parked"))
        rows = [dict(row) for row in await lab.pool.fetch("SELECT * FROM calls.calls WHERE user_id = $1", user)]
        expected = {UUID(call_id): _facts(name, args["provider_ids"][name]) for name, call_id in args["calls"].items()}
        found += books.check_exact(rows, {call_id: fold(CallState(), facts) for call_id, facts in expected.items()})
        for row in rows:
            noted = await lab.pool.fetch(
                "SELECT id FROM calls.timeline WHERE call_id = $1 AND type <> 'created'", row["id"]
            )
            if {line["id"] for line in noted} != {entry(row["id"], fact).id for fact in expected[row["id"]]}:
                found.append(Finding(LOST, str(row["id"]), "the timeline is not that of its facts"))
            written = await lab.pool.fetch(
                "SELECT data FROM calls.outbox WHERE subject LIKE '%.' || $1", str(row["id"])
            )
            versions = sorted(CallEvent.model_validate_json(event["data"]).version for event in written)
            if versions != list(range(1, row["version"] + 1)):
                found.append(Finding(LOST, str(row["id"]), f"version {row['version']}, told of {versions}"))
        return found + await books.check_rollups(lab.pool, [user])


def _facts(name: str, provider_id: str) -> list[Any]:
    events = (
        ProviderEvent.model_validate_json(
            _event(kind, provider_id, {**message, "call": {**message.get("call", {}), "id": provider_id}})[1]
        )
        for kind, message in _REPORTS[name]
    )
    return [fact for event in events for fact in facts_of(event)]


def _event(kind: str, provider_id: str | None, message: dict[str, Any]) -> tuple[str, bytes]:
    """Subject and body of a provider event."""
    event = ProviderEvent(source="webhook", kind=kind, provider_call_id=provider_id, received_at=_T0, message=message)
    return subjects.provider_event(kind, provider_id), event.model_dump_json().encode()


async def _publish(lab: Lab, subject: str, data: bytes) -> int:
    return await lab.bus.send(
        PROVIDER_MESSAGE.stream,
        event_message(
            PROVIDER_MESSAGE,
            subject,
            data,
            event_id=str(new_id()),
            source="/chaos",
            at=_T0,
            traceparent=caller().traceparent,
        ),
    )


async def _insert(lab: Lab, user: UUID, name: str, provider_id: str) -> UUID:
    """A call that was claimed and posted; one that is known has its provider id already."""
    now = datetime.now(UTC)
    row = {
        "id": new_id(),
        "user_id": user,
        "created_at": now,
        "updated_at": now,
        "contact_id": new_id(),
        "contact_name": "Ada",
        "contact_phone": "+12025550100",
        "assistant_id": "assistant",
        "phone_number_id": "number",
        "dispatch_started_at": now,
        "provider_call_id": provider_id if name == "known" else None,
    }
    created = timeline_entry(row["id"], "created", "user", now, "pending", None)
    async with transaction(lab.pool) as connection:
        inserted = await store.insert(connection, row, created, caller().traceparent)
    return inserted["id"]


BATCH = [Batch("plain", poison=False), Batch("with poison", poison=True)]
