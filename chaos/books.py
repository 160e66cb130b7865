"""The books that must balance after every group of cases: pure comparisons of what was recorded in different places.

Each function returns findings, one sentence each, told of a case by its key. An empty list is the promise kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from boostedcalls.calls.reports import facts_of, snapshot
from boostedcalls.calls.state import JOINED, CallState, Fact, Source, entry, fold
from boostedcalls.calls.store import state_of
from boostedcalls.common.db import Pool
from boostedcalls.common.events import CallEvent, ProviderEvent
from boostedcalls.common.messages.calls import CallStatus
from boostedcalls.common.redact import redact

DOUBLE = "double dial"
LOST = "lost"
STUCK = "stuck"
DIFFERS = "differs"
KINDS = (DOUBLE, LOST, STUCK, DIFFERS)

_RESULT = ("status", "outcome", "ended_reason", "transcript", "summary", "cost", "duration_seconds", "recording_url")
_OURS = {"create-answer": Source.CREATE_ANSWER, "verdict": Source.OURS, "cancel": Source.CANCEL}


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise: of which kind, for which call (or user, or schema), and what was seen."""

    kind: str
    about: str
    text: str


@dataclass(slots=True)
class Books:
    """What was recorded of the calls of a group."""

    rows: list[dict[str, Any]]
    timeline: dict[UUID, list[dict[str, Any]]]
    reports: dict[str, list[ProviderEvent]]
    """Of the stream of provider events, by the provider's call id."""
    told: dict[UUID, list[CallEvent]]
    """Of the stream of call events, each message once."""
    truth: dict[str, dict[str, Any]]
    """The provider's own call objects, by its id."""


async def read(
    pool: Pool,
    users: Iterable[UUID],
    provider_events: Sequence[Any],
    call_events: Sequence[Any],
    truth: dict[str, dict[str, Any]],
) -> Books:
    """Read the books of these users' calls; the messages are those of the two streams since the group began."""
    rows = await pool.fetch("SELECT * FROM calls.calls WHERE user_id = ANY($1::uuid[]) ORDER BY id", list(users))
    lines = await pool.fetch(
        "SELECT * FROM calls.timeline WHERE call_id = ANY($1::uuid[])", [row["id"] for row in rows]
    )
    timeline: defaultdict[UUID, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        timeline[line["call_id"]].append(dict(line))
    reports: defaultdict[str, list[ProviderEvent]] = defaultdict(list)
    for message in provider_events:
        try:
            event = ProviderEvent.model_validate(orjson.loads(message.data))
        except ValueError:
            continue
        if event.provider_call_id:
            reports[event.provider_call_id].append(event)
    told: defaultdict[UUID, list[CallEvent]] = defaultdict(list)
    for message in call_events:
        if message.subject.startswith("bc.evt.call."):
            event = CallEvent.model_validate_json(message.data)
            told[event.call_id].append(event)
    return Books([dict(row) for row in rows], timeline, reports, told, truth)


def check_dials(books: Books, dials: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """No call was dialled twice, no dial is without its call, and each call knows the dial that was made for it."""
    counts = Counter(dial["name"] for dial in dials)
    known = {str(row["id"]): row for row in books.rows}
    found = [Finding(DOUBLE, name, f"dialled {count} times") for name, count in counts.items() if count > 1]
    found += [Finding(LOST, name, "dialled, and no call is known") for name in counts if name not in known]
    for name, row in known.items():
        if bool(counts[name]) != (row["provider_call_id"] is not None):
            found.append(Finding(LOST, name, f"{counts[name]} dials, provider id {row['provider_call_id']}"))
    return found


def check_events(books: Books) -> list[Finding]:
    """Every version of every call left as one event, and the newest says what the row says."""
    found: list[Finding] = []
    for row in books.rows:
        events = books.told.get(row["id"], [])
        counts = Counter(event.version for event in events)
        missing = [version for version in range(1, row["version"] + 1) if counts[version] != 1]
        if missing or set(counts) - set(range(1, row["version"] + 1)):
            text = f"version {row['version']}, told of {dict(sorted(counts.items()))}"
            found.append(Finding(LOST, str(row["id"]), text))
            continue
        newest = max(events, key=lambda event: event.version)
        if (newest.status, newest.outcome, newest.cost) != (row["status"], row["outcome"], _float(row["cost"])):
            found.append(Finding(DIFFERS, str(row["id"]), f"the newest event says {newest.status}, {newest.outcome}"))
    return found


def check_fold(books: Books) -> list[Finding]:
    """Every report of a call is in its timeline, and the row is the join of all that was learned."""
    found: list[Finding] = []
    for row in books.rows:
        lines = books.timeline.get(row["id"], [])
        reported = [fact for event in books.reports.get(row["provider_call_id"] or "", []) for fact in facts_of(event)]
        noted = {line["id"] for line in lines}
        lost = [fact for fact in reported if entry(row["id"], fact).id not in noted]
        if lost:
            found.append(Finding(LOST, str(row["id"]), f"{len(lost)} reports were not applied"))
        facts = [*reported, *(_own_fact(line) for line in lines if line["type"] in _OURS)]
        known = {entry(row["id"], fact).id for fact in facts}
        if any(line["type"] == "call-snapshot" and line["id"] not in known for line in lines):
            # The call object by which a lost call was found is joined at once and not kept: the provider has it still.
            facts.append(_provider_fact(books, row))
        state = fold(CallState(), facts)
        wrong = [name for name in JOINED if name != "keys" and getattr(state, name) != row[name]]
        if wrong:
            text = ", ".join(f"{name} is {row[name]!r:.60}, not {getattr(state, name)!r:.60}" for name in wrong)
            found.append(Finding(DIFFERS, str(row["id"]), text))
    return found


def check_results(books: Books) -> list[Finding]:
    """A call that was placed ended as the provider says, with its result; any other one ended as never placed."""
    found: list[Finding] = []
    for row in books.rows:
        if row["provider_call_id"] is None:
            if (row["status"], row["error_code"]) not in {("failed", "not_placed"), ("failed", "rejected")}:
                found.append(Finding(STUCK, str(row["id"]), f"never placed, {row['status']} {row['error_code']}"))
            continue
        wanted = fold(CallState(), [_provider_fact(books, row)])
        wrong = [name for name in _RESULT if row[name] != getattr(wanted, name)]
        if wrong or not wanted.final:
            text = ", ".join(f"{name} is {row[name]!r:.60}, not {getattr(wanted, name)!r:.60}" for name in wrong)
            found.append(Finding(LOST, str(row["id"]), text or "the provider has no result"))
    return found


def _provider_fact(books: Books, row: Mapping[str, Any]) -> Fact:
    return snapshot(redact(dict(books.truth[row["provider_call_id"]])), row["updated_at"])


def _own_fact(line: Mapping[str, Any]) -> Fact:
    """A fact of our own making, read back from the timeline: those carry nothing else."""
    detail = line["detail"] or {}
    status = None if line["status"] is None else CallStatus(line["status"])
    return Fact(
        _OURS[line["type"]],
        line["at"],
        status,
        detail.get("ended_reason"),
        detail.get("error_code"),
        detail.get("error_message"),
    )


def check_exact(rows: Iterable[Mapping[str, Any]], expected: Mapping[UUID, CallState]) -> list[Finding]:
    """Each row is exactly the expected state, keys and all."""
    found: list[Finding] = []
    for row in rows:
        state, wanted = state_of(dict(row)), expected[row["id"]]
        wrong = [name for name in JOINED if getattr(state, name) != getattr(wanted, name)]
        if wrong:
            text = ", ".join(f"{name} is {getattr(state, name)!r:.60}" for name in wrong)
            found.append(Finding(DIFFERS, str(row["id"]), text))
    return found


async def check_rollups(pool: Pool, users: Iterable[UUID]) -> list[Finding]:
    """Totals and days equal a recount of the calls."""
    wanted = list(users)
    found: list[Finding] = []
    for kept, counted in (
        (
            "SELECT user_id, status AS key, calls, spent FROM calls.totals"
            " WHERE user_id = ANY($1::uuid[]) AND (calls, spent) <> (0, 0)",
            "SELECT user_id, status AS key, count(*) AS calls, coalesce(sum(cost), 0) AS spent FROM calls.calls"
            " WHERE user_id = ANY($1::uuid[]) GROUP BY user_id, status",
        ),
        (
            "SELECT user_id, day AS key, completed AS calls, 0::numeric AS spent FROM calls.daily"
            " WHERE user_id = ANY($1::uuid[]) AND completed <> 0",
            "SELECT user_id, (created_at AT TIME ZONE 'UTC')::date AS key, count(*) AS calls, 0::numeric AS spent"
            " FROM calls.calls WHERE user_id = ANY($1::uuid[]) AND status = 'completed' GROUP BY user_id, key",
        ),
    ):
        left = {tuple(row) for row in await pool.fetch(kept, wanted)}
        right = {tuple(row) for row in await pool.fetch(counted, wanted)}
        found += [Finding(DIFFERS, str(row[0]), f"rollup {row[1:]} on one side only") for row in left ^ right]
    return found


async def check_ledger(pool: Pool, sequences: Iterable[int], letters: Collection[int] = ()) -> list[Finding]:
    """Every provider event in these places of the stream was applied, or is a dead letter."""
    open_places = await pool.fetch(
        "SELECT place FROM unnest($1::bigint[]) AS place"
        " WHERE NOT EXISTS (SELECT 1 FROM calls.settled WHERE sequences @> place)",
        [sequence for sequence in sequences if sequence not in letters],
    )
    return [Finding(LOST, f"provider event {row['place']}", "neither applied nor a dead letter") for row in open_places]


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
