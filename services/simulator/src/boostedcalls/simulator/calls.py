"""The calls the simulator knows, and the two files behind them.

`dials.jsonl` is the judge of "never dialled twice": one line for each accepted dial, on disk before it is answered.
`calls.jsonl` is what lets a restarted simulator still answer for the calls it dialled; it is shortened at every start.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from boostedcalls.common.messages.base import rfc3339
from boostedcalls.simulator.files import AppendLog, read_records, replace_records
from boostedcalls.simulator.requests import Behaviour, ListFilters, behaviour_of

Status = Literal["queued", "ringing", "in-progress", "ended"]


_CONSTANT = {"request", "control_url", "created_at"}


class Utterance(BaseModel):
    role: Literal["bot", "user"]
    text: str
    at: datetime


class Call(BaseModel):
    """What happened so far. What a client sees of it is made by `render`."""

    id: str
    request: dict[str, Any]
    control_url: str
    created_at: datetime
    updated_at: datetime
    status: Status = "queued"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_reason: str | None = None
    spoken: list[Utterance] = []
    analysed: bool = False
    """Post-processing is done: analysis and cost are there, and the end-of-call-report may go out."""

    @property
    def number(self) -> str:
        return self.request["customer"]["number"]

    @property
    def behaviour(self) -> Behaviour:
        return behaviour_of(self.request)


def now() -> datetime:
    """In UTC, cut to the milliseconds that the API shows, so that a filter by a time shown finds its call."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def iso(moment: datetime) -> str:
    """`2026-11-22T10:29:52.114Z`."""
    return rfc3339(moment, "milliseconds")


class Calls:
    """Every call, oldest first; beyond `keep` of them the oldest ended ones are forgotten."""

    def __init__(self, folder: Path, keep: int, list_lag: float) -> None:
        """Reads what an earlier run left behind. Raises OSError when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._list_lag = timedelta(seconds=list_lag)
        self._calls: dict[str, Call] = {}
        journal = folder / "calls.jsonl"
        for fields in _replay(read_records(journal)):
            with suppress(ValidationError):
                call = Call.model_validate(fields)
                self._calls[call.id] = call
        self._forget()
        replace_records(journal, [{"call": call.model_dump(mode="json")} for call in self._calls.values()])
        self._journal = AppendLog(journal, sync=False)
        self._dials = AppendLog(folder / "dials.jsonl", sync=True)

    async def dial(self, request: dict[str, Any], control_base: str) -> Call:
        """Make a call, and log the dial: it is on disk when this returns."""
        moment, call_id = now(), str(uuid7())
        control_url = f"{control_base}/{call_id}/control"
        call = Call(id=call_id, request=request, control_url=control_url, created_at=moment, updated_at=moment)
        # The journal first: a call that was dialled is known after a crash, whatever the moment of it.
        await self._journal.append({"call": call.model_dump(mode="json")})
        await self._dials.append({"at": iso(moment), "id": call.id, "name": request.get("name"), "number": call.number})
        self._calls[call.id] = call
        self._forget()
        return call

    async def save(self, call: Call) -> None:
        """Note the call's state for a later start. A deleted call stays deleted."""
        if call.id in self._calls:
            await self._journal.append({"call": call.model_dump(mode="json", exclude=_CONSTANT)})

    async def delete(self, call: Call) -> None:
        del self._calls[call.id]
        await self._journal.append({"deleted": call.id})

    def get(self, call_id: str) -> Call | None:
        return self._calls.get(call_id)

    def unfinished(self) -> list[Call]:
        """Calls that an earlier run left before their report was made."""
        return [call for call in self._calls.values() if not call.analysed]

    def list(self, filters: ListFilters) -> list[Call]:
        """Newest first. A call younger than the list's lag is not in it yet."""
        visible = now() - self._list_lag
        found: list[Call] = []
        for call in reversed(self._calls.values()):
            if len(found) == filters.limit:
                break
            if call.created_at <= visible and _matches(call, filters):
                found.append(call)
        return found

    def close(self) -> None:
        self._journal.close()
        self._dials.close()

    def _forget(self) -> None:
        surplus = len(self._calls) - self._keep
        if surplus > 0:
            ended = (call_id for call_id, call in self._calls.items() if call.analysed)
            for call_id in [call_id for call_id, _ in zip(ended, range(surplus), strict=False)]:
                del self._calls[call_id]


def _replay(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last state of each call in the journal: its first record is whole, later ones hold what may change."""
    states: dict[str, dict[str, Any]] = {}
    for record in records:
        if "deleted" in record:
            states.pop(record["deleted"], None)
        else:
            states.setdefault(record["call"]["id"], {}).update(record["call"])
    return list(states.values())


def _matches(call: Call, filters: ListFilters) -> bool:
    wanted = (
        (filters.id, call.id),
        (filters.assistant_id, call.request.get("assistantId")),
        (filters.phone_number_id, call.request.get("phoneNumberId")),
    )
    return (
        all(value is None or value == actual for value, actual in wanted)
        and _within(call.created_at, filters, "created_at")
        and _within(call.updated_at, filters, "updated_at")
    )


def _within(moment: datetime, filters: ListFilters, name: Literal["created_at", "updated_at"]) -> bool:
    above, below, since, until = (
        (filters.created_at_gt, filters.created_at_lt, filters.created_at_ge, filters.created_at_le)
        if name == "created_at"
        else (filters.updated_at_gt, filters.updated_at_lt, filters.updated_at_ge, filters.updated_at_le)
    )
    return not (
        (above is not None and moment <= above)
        or (below is not None and moment >= below)
        or (since is not None and moment < since)
        or (until is not None and moment > until)
    )
