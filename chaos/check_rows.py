"""Every call's row equals the fold of its facts, in any order, and is what the provider's own books say.

The facts of a call are in three places: those of its reports in the stream of provider events; our own (the answer to
the create request, a cancel, a verdict) in its timeline, which carries all that they say; and the call object by which
a call was found at the provider after its placing was unclear. That one is joined at once and kept nowhere with all its
values: the timeline tells its time, and the provider's journal what it showed then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from boostedcalls.calls.reasons import status_of
from boostedcalls.calls.reports import snapshot
from boostedcalls.calls.state import JOINED, CallState, Fact, Source, entry, fold
from boostedcalls.common.messages.calls import CallStatus
from boostedcalls.common.redact import redact
from boostedcalls.simulator.calls import Call
from boostedcalls.simulator.render import call_json
from boostedcalls.simulator.scenarios import scenario_for
from boostedcalls.simulator.talk import analysis, bill, transcript
from chaos.evidence import Evidence, Row

if TYPE_CHECKING:
    from chaos.check import Verdict

_OURS = {"create-answer": Source.CREATE_ANSWER, "cancel": Source.CANCEL, "verdict": Source.OURS}
_NO_FACTS = {"created", "dispatch"}
_OUTCOMES = {"busy": "busy", "no-answer": "no_answer", "voicemail": "voicemail"}


def rows(found: Evidence, verdict: Verdict, shuffles: int) -> None:
    dead = {letter.sequence for letter in found.letters}
    reported: defaultdict[str, list[Fact]] = defaultdict(list)
    for event in found.events:
        if event.provider_call_id and event.sequence not in dead:
            reported[event.provider_call_id].extend(event.facts)
    random = Random(0)
    for row in found.rows:
        states = found.provider_calls.get(row["provider_call_id"] or "", [])
        facts, unknown = facts_of_row(row, reported, found.timeline.get(row["id"], []), states)
        for line in unknown:
            verdict.wrong("row differs", f"call {row['id']}", f"a fact that nobody can tell: {line}")
        differing = differences(row, fold(CallState(), facts))
        if differing:
            verdict.wrong("row differs", f"call {row['id']}", "; ".join(differing))
        _any_order(verdict, row["id"], facts, random, shuffles)
        _timeline(verdict, row["id"], facts, found.timeline.get(row["id"], []))
        if states:
            result(verdict, row, states[-1])
    differing = {v.about for v in verdict.violations if v.promise == "row differs"}
    verdict.figures |= {"rows": len(found.rows), "rows differing": len(differing)}


def facts_of_row(
    row: Row, reported: Mapping[str, Sequence[Fact]], lines: Iterable[Row], states: Sequence[Call]
) -> tuple[list[Fact], list[Row]]:
    """All facts of a call; and the lines of its timeline for which none can be found."""
    facts = list(reported.get(row["provider_call_id"] or "", ()))
    known = {entry(row["id"], fact).id for fact in facts}
    unknown: list[Row] = []
    for line in lines:
        if line["type"] in _OURS:
            facts.append(_own(line))
        elif line["id"] not in known and line["type"] not in _NO_FACTS:
            shown = [fact for fact in map(_shown, states) if entry(row["id"], fact).id == line["id"]]
            facts.extend(shown)
            if not shown:
                unknown.append(line)
    return facts, unknown


def _own(line: Row) -> Fact:
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


def _shown(state: Call) -> Fact:
    """What the provider's list said of the call while it was in this state."""
    return snapshot(redact(call_json(state)), state.updated_at)


def differences(row: Row, state: CallState) -> list[str]:
    """In which of the joined columns, keys and all, the row is not this state."""
    return [
        f"{name} is {row[name]!r:.80}, its facts say {getattr(state, name)!r:.80}"
        for name in JOINED
        if row[name] != getattr(state, name)
    ]


def _any_order(verdict: Verdict, call_id: UUID, facts: Sequence[Fact], random: Random, shuffles: int) -> None:
    wanted = fold(CallState(), facts)
    for _ in range(shuffles):
        order = random.sample(facts, len(facts))
        middle = random.randrange(len(facts) + 1)
        # In two batches, with a part that comes twice.
        if fold(fold(CallState(), order[:middle]), order[middle // 2 :]) != wanted:
            verdict.wrong("order matters", f"call {call_id}", f"{[(fact.source, fact.status) for fact in order]}")
            return


def _timeline(verdict: Verdict, call_id: UUID, facts: Sequence[Fact], lines: Iterable[Row]) -> None:
    noted = {line["id"] for line in lines}
    for fact in facts:
        if entry(call_id, fact).id not in noted:
            verdict.wrong("timeline", f"call {call_id}", f"lacks {fact.source} {fact.status} of {fact.at}")


def result(verdict: Verdict, row: Row, call: Call) -> None:
    """The call ended as its scenario has it, with what the provider has of it; a cancel of ours goes before."""
    about = f"call {row['id']}"
    if not call.analysed or call.ended_reason is None:
        verdict.wrong("not over", about, f"at the provider it is {call.status}")
        return
    wanted: dict[str, Any] = {
        "status": status_of(call.ended_reason),
        "ended_reason": call.ended_reason,
        "transcript": transcript(call.spoken) or None,
        "summary": analysis(call).get("summary"),
        "cost": Decimal(str(bill(call)["cost"])),
        "started_at": call.started_at,
        "ended_at": call.ended_at,
        "final": True,
        "outcome": _outcome(call),
    }
    if row["hang_up_wanted"]:
        wanted["status"] = CallStatus.CANCELLED
    for name, value in wanted.items():
        if row[name] != value:
            verdict.wrong("wrong result", about, f"{name} is {row[name]!r:.80}, the provider has {value!r:.80}")
    scenario = scenario_for(call.number)
    told = row["hang_up_wanted"] and call.ended_reason == "manually-canceled"
    if not (told or call.ended_reason == scenario.ended_reason or scenario.until_told):
        verdict.wrong("wrong result", about, f"{call.number} ended with {call.ended_reason}")


def _outcome(call: Call) -> str | None:
    if by_reason := _OUTCOMES.get(status_of(call.ended_reason or "")):
        return by_reason
    return {"true": "success", "false": "failed"}.get(analysis(call).get("successEvaluation", ""))
