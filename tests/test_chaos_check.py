"""The campaign's checker can fail: every promise, broken by hand in the books of a run in which all went well."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from boostedcalls.calls import reports
from boostedcalls.calls.state import JOINED, CallState, Fact, Source, entry, fold, timeline_entry
from boostedcalls.calls.store import _event  # pyright: ignore[reportPrivateUsage]
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.messages.calls import CallStatus
from boostedcalls.common.redact import redact
from boostedcalls.simulator import render
from boostedcalls.simulator.calls import Call, Utterance
from chaos.check import Verdict, check
from chaos.evidence import Evidence, Letter, Stored

USER, CONTACT = uuid4(), uuid4()
START = datetime(2026, 11, 22, 10, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def spoken(*lines: str) -> list[Utterance]:
    return [Utterance(role=("bot", "user")[n % 2], text=text, at=after(2 + n)) for n, text in enumerate(lines)]


class Run:
    """The books of a run, written call by call as the system would have written them."""

    def __init__(self) -> None:
        self.found = Evidence(outbox={"calls": 0, "contacts": 0})
        self.sequence = 0

    def history(self, what: str, **members: Any) -> None:
        self.found.history.append({"at": 0, "what": what, **members})

    def request(self, n: int, number: str, status: int, call: UUID) -> None:
        self.history("request", n=n, user=str(USER), number=number, key=f"key-{n}")
        for answer in (0, status):
            named = str(call) if answer else None
            self.history("try", n=n, status=answer, code=None, call=named, replayed=False, again=False)

    def states(self, number: str, call_id: UUID, reason: str, *lines: str) -> list[Call]:
        """At the provider: queued, in progress if anything was said, ended, analysed."""
        request = {"name": str(call_id), "customer": {"number": f"+120255501{number}", "name": "Dana"}}
        call = Call(id=str(uuid4()), request=request, control_url="http://x/", created_at=START, updated_at=START)
        states = [call]
        if lines:
            change = {"status": "in-progress", "started_at": after(1), "updated_at": after(1), "spoken": spoken(*lines)}
            states.append(states[-1].model_copy(update=change))
        change = {"status": "ended", "ended_at": after(9), "ended_reason": reason, "updated_at": after(9)}
        states.append(states[-1].model_copy(update=change))
        states.append(states[-1].model_copy(update={"analysed": True, "updated_at": after(10)}))
        self.found.provider_calls[call.id] = states
        self.found.dials.append(
            {"at": "", "id": call.id, "name": str(call_id), "number": request["customer"]["number"]}
        )
        return states

    def webhook(self, message: dict[str, Any]) -> list[Fact]:
        """Sent, answered 200, stored and applied."""
        self.sequence += 1
        digest = f"{self.sequence:064x}"
        message = redact(render.envelope(message))["message"]
        event = ProviderEvent(
            source="webhook",
            kind=message["type"],
            provider_call_id=message["call"]["id"],
            received_at=START,
            message=message,
        )
        facts = reports.facts_of(event)
        for status in (0, 200):
            self.found.tries.append({"call": message["call"]["id"], "sha256": digest, "status": status})
        self.found.events.append(Stored(self.sequence, digest, message["call"]["id"], facts))
        self.found.settled.add(self.sequence)
        self.found.floor = self.sequence
        return facts

    def call(self, n: int, call_id: UUID, provider_id: str | None, facts: list[Fact], hang_up: bool = False) -> None:
        state = fold(CallState(), facts)
        row = {
            "id": call_id,
            "user_id": USER,
            "contact_id": CONTACT,
            "script_id": None,
            "created_at": START,
            "due_at": None,
            "version": 2,
            "request_metadata": {"request": n},
            "provider_call_id": provider_id,
            "hang_up_wanted": hang_up,
            **{name: getattr(state, name) for name in JOINED},
        }
        row["status"] = str(state.status)
        self.found.rows.append(row)
        lines = [timeline_entry(call_id, "created", "user", START, "pending", None)]
        lines += [entry(call_id, fact) for fact in facts]
        self.found.timeline[call_id] = [{name: getattr(line, name) for name in line.__slots__} for line in lines]
        for version in (1, 2):
            self.found.told.append(_event({**row, "version": version}, None, "").data)  # pyright: ignore[reportArgumentType]
        calls, spent = self.found.totals.get((USER, row["status"]), (0, Decimal(0)))
        self.found.totals[USER, row["status"]] = (calls + 1, spent + (row["cost"] or 0))
        if row["status"] == "completed":
            self.found.daily[USER, START.date()] = self.found.daily.get((USER, START.date()), 0) + 1


def good() -> Run:
    """1: answered, told by webhooks. 2: refused. 3: not placed. 4: found in the provider's list. 5: cancelled."""
    run = Run()
    one, two, three, four, five = (uuid4() for _ in range(5))
    states = run.states("00", one, "assistant-ended-call", "Hello?", "Yes.", "Good.", "Bye.")
    facts = [reports.create_answer(render.call_json(states[0]), START)]
    facts += [fact for state in states[:3] for fact in run.webhook(render.status_update(state))]
    facts += run.webhook(render.end_of_call_report(states[3]))
    run.request(1, "00", 201, one)
    run.call(1, one, states[0].id, facts)

    run.request(2, "25", 502, two)
    run.call(2, two, None, [Fact(Source.OURS, after(1), CallStatus.FAILED, error_code="rejected", error_message="no")])
    run.request(3, "21", 201, three)
    words = {"error_code": "not_placed", "error_message": "no such call"}
    run.call(3, three, None, [Fact(Source.OURS, after(1), CallStatus.FAILED, **words)])

    states = run.states("20", four, "assistant-ended-call", "Hello?", "Yes.", "Good.", "Bye.")
    facts = [reports.snapshot(redact(render.call_json(states[1])), START)]
    facts += run.webhook(render.end_of_call_report(states[3]))
    run.request(4, "20", 201, four)
    run.call(4, four, states[0].id, facts)

    states = run.states("05", five, "manually-canceled", "Hello?", "Yes.")
    facts = [Fact(Source.CANCEL, after(3), CallStatus.CANCELLED), *run.webhook(render.end_of_call_report(states[3]))]
    run.request(5, "05", 201, five)
    run.history("cancel", call=str(five), status=200, code=None)
    run.call(5, five, states[0].id, facts, hang_up=True)

    for at, state in enumerate(("ringing", "completed", "ringing"), 2):
        # The last one was asked for before the second had its answer.
        found = {
            "at": at,
            "what": "read",
            "op": "get",
            "status": 200,
            "call": str(one),
            "state": state,
            "sent": at - 1.5,
        }
        run.found.history.append(found)
    run.history("webhook", sort="garbage", sha256="f" * 64, status=200)
    run.found.letters.append(Letter(f"dlq:webhook:{'f' * 64}", None))
    contact = str(CONTACT)
    run.history("contact", contact=contact, op="create", change=0, status=201)
    run.history("contact", contact=contact, op="update", change=1, status=200)
    run.history("contact", contact=contact, op="update", change=2, status=0)
    run.found.contacts.append({"id": CONTACT, "user_id": USER, "metadata": {"change": 2}})
    run.found.contact_totals[USER] = 1
    run.found.contact_events += [("created", contact), ("updated", contact), ("updated", contact)]
    run.found.unmatched.append({"provider_call_id": "not ours", "sequence": 1})
    return run


def broken(verdict: Verdict) -> set[str]:
    return {violation.promise for violation in verdict.violations}


def test_in_a_run_in_which_all_went_well_nothing_is_wrong() -> None:
    verdict = check(good().found)
    assert verdict.violations == []
    figures = verdict.figures
    assert (figures["taken"], figures["applied"], figures["dead"], figures["pending"], figures["lost"]) == (
        7,
        6,
        1,
        0,
        0,
    )
    assert (figures["requested"], figures["dialled once"], figures["never dialled"]) == (5, 3, 2)
    assert (figures["dialled twice"], figures["rows differing"], figures["not terminal"]) == (0, 0, 0)


Plant = Callable[[Evidence], object]


def _tell(found: Evidence, what: str, **members: Any) -> None:
    found.history.append({"at": 0, "what": what, **members})


def _try(found: Evidence, **answer: Any) -> None:
    _tell(found, "try", n=1, code=None, **answer)


def _dial_again(found: Evidence) -> None:
    found.dials.append({**found.dials[0]})


def _second_call_of_a_request(found: Evidence) -> None:
    found.rows[1]["request_metadata"] = {"request": 1}


def _redial_under_another_name(found: Evidence) -> None:
    """Two calls of one request, each dialled once."""
    found.rows[3]["request_metadata"] = {"request": 1}


def _status(found: Evidence, index: int, status: str) -> None:
    found.rows[index]["status"] = status


def _forget_event(found: Evidence) -> None:
    found.events.pop(0)


def _never_apply(found: Evidence) -> None:
    found.settled.discard(2)


def _turn_back(found: Evidence) -> None:
    call = str(found.rows[0]["id"])
    found.history.append({**found.history[-1], "at": 9, "what": "read", "op": "get", "status": 200, "call": call})
    found.history[-1].update(state="in-progress", sent=8)


def _drop_adoption_line(found: Evidence) -> None:
    """The timeline tells of a call object that the provider never showed."""
    call = UUID(found.dials[1]["name"])
    line = next(line for line in found.timeline[call] if line["type"] == "call-snapshot")
    line["at"], line["id"] = after(5), uuid4()


PLANTED: dict[str, tuple[str, Plant]] = {
    "a webhook answered 200 is nowhere": ("lost", _forget_event),
    "a garbage webhook answered 200 is nowhere": ("lost", lambda found: found.letters.clear()),
    "a foreign webhook answered 200 is nowhere": (
        "lost",
        lambda found: _tell(found, "webhook", sort="again", sha256="a" * 64, status=200),
    ),
    "a webhook answered 200 is taken from the stream and not applied": ("lost", _never_apply),
    "a stored event is not applied": ("not applied", _never_apply),
    "a call is dialled twice": ("dialled twice", _dial_again),
    "a request is dialled twice": ("dialled twice", _redial_under_another_name),
    "a request became two calls": ("two calls", _second_call_of_a_request),
    "a call belongs to no request": ("call of nobody", lambda found: found.rows[0].update(request_metadata=None)),
    "a dialled call is not known": ("dial of no call", lambda found: found.rows.pop(0)),
    "a call answered 201 vanished": ("call vanished", lambda found: found.rows.pop(2)),
    "a reader was told that a call is not there": (
        "call vanished",
        lambda found: _tell(found, "read", op="get", status=404, call="x", state=None),
    ),
    "a refused request was placed": (
        "false refusal",
        lambda found: _tell(
            found, "try", n=1, status=502, code="provider_error", call="x", replayed=False, again=False
        ),
    ),
    "a rejected call was dialled": ("false refusal", lambda found: found.rows[0].update(error_code="rejected")),
    "a repeat was answered 422": (
        "wrong answer",
        lambda found: _tell(
            found, "try", n=1, status=422, code="idempotency_key_reused", call=None, replayed=False, again=False
        ),
    ),
    "a repeat was answered anew": (
        "not replayed",
        lambda found: _try(found, status=201, call=found.dials[0]["name"], replayed=False, again=True),
    ),
    "a dialled call has another provider id": ("not adopted", lambda found: found.dials[0].update(id="other")),
    "a call that was never dialled is completed": ("never dialled", lambda found: _status(found, 2, "completed")),
    "a call is not terminal": ("not terminal", lambda found: _status(found, 0, "in-progress")),
    "a confirmed cancel is undone": ("cancel undone", lambda found: _status(found, 4, "completed")),
    "a row's status is not its facts'": ("row differs", lambda found: _status(found, 0, "failed")),
    "a row's field is not its facts'": ("row differs", lambda found: found.rows[3].update(transcript="AI: Oh.\n")),
    "a row's key is not its facts'": ("row differs", lambda found: found.rows[3]["keys"].update(cost=[1])),
    "a fact stands nowhere": ("row differs", _drop_adoption_line),
    "a report is not in the timeline": ("timeline", lambda found: found.timeline[found.rows[0]["id"]].pop()),
    "a call's total is off by one": (
        "rollup",
        lambda found: found.totals.update({(USER, "failed"): (3, Decimal(0))}),
    ),
    "a user's spending is off": (
        "rollup",
        lambda found: found.totals.update({(USER, "completed"): (2, Decimal("0.01"))}),
    ),
    "a day's count is off": ("rollup", lambda found: found.daily.update({(USER, START.date()): 1})),
    "a count of contacts is off": ("rollup", lambda found: found.contact_totals.update({USER: 2})),
    "a version was not told of": ("events", lambda found: found.told.pop(0)),
    "a version was told of twice": ("events", lambda found: found.told.append(found.told[0])),
    "the newest event differs from the row": ("events", lambda found: found.rows[0].update(ended_reason="else")),
    "an event of a call that is not there": ("event of no call", lambda found: found.rows.pop(1)),
    "a contact's change was not told of": ("events", lambda found: found.contact_events.clear()),
    "a contact's deletion was not told of": (
        "events",
        lambda found: (
            _tell(found, "contact", contact=str(CONTACT), op="delete", change=0, status=0),
            found.contacts.pop(),
        ),
    ),
    "a confirmed change of a contact is gone": (
        "write lost",
        lambda found: found.contacts[0].update(metadata={"change": 0}),
    ),
    "a confirmed deletion of a contact is gone": (
        "write lost",
        lambda found: _tell(found, "contact", contact=str(CONTACT), op="delete", change=0, status=200),
    ),
    "a contact vanished": ("contact vanished", lambda found: found.contacts.pop()),
    "a reader saw a call go back": ("went back", _turn_back),
    "an outbox holds an event": ("left over", lambda found: found.outbox.update(calls=1)),
    "a spool holds a segment": ("left over", lambda found: found.leftovers.append("spool/1.seg")),
    "a report of our call is left unmatched": (
        "left over",
        lambda found: found.unmatched.append({"provider_call_id": found.dials[0]["id"], "sequence": 9}),
    ),
    "a log tells of a broken promise": ("alarm", lambda found: found.alarms.append("placed_twice")),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str) -> None:
    promise, plant = PLANTED[planted]
    found = good().found
    plant(found)
    assert promise in broken(check(found, shuffles=2))


@pytest.mark.parametrize("name", ["status", "transcript", "cost", "outcome", "final", "started_at"])
def test_a_result_that_is_not_the_providers_is_found(name: str) -> None:
    """The row follows from its facts, but what happened at the provider was something else."""
    run = good()
    states = next(iter(run.found.provider_calls.values()))
    call = states[-1]
    changes: dict[str, dict[str, Any]] = {
        "status": {"ended_reason": "customer-busy"},
        "transcript": {"spoken": spoken("Hello?", "No.", "Good.", "Bye.")},
        "cost": {"spoken": spoken("Hello?", "Yes.")},
        "outcome": {"spoken": spoken("Hello?")},
        "final": {},
        "started_at": {"started_at": after(2)},
    }
    states[-1] = call.model_copy(update=changes[name])
    if name == "final":
        run.found.rows[0]["final"] = False
    said = [
        violation.seen for violation in check(run.found, shuffles=2).violations if violation.promise == "wrong result"
    ]
    assert any(text.startswith(f"{name} is") for text in said)


def test_a_call_that_goes_on_at_the_provider_is_found() -> None:
    run = good()
    states = next(iter(run.found.provider_calls.values()))
    del states[-1]
    assert "not over" in broken(check(run.found, shuffles=2))


def test_a_webhook_that_still_waits_is_pending_and_not_lost() -> None:
    run = good()
    digest = run.found.events.pop(0).message_id
    run.found.spooled.add(digest)
    run.found.settled.discard(6)
    run.found.floor = 5
    verdict = check(run.found, shuffles=2)
    assert (verdict.figures["pending"], verdict.figures["lost"]) == (2, 0)


def test_a_dead_letter_does_not_count_for_the_row() -> None:
    run = good()
    event = run.found.events[0]
    run.found.settled.discard(event.sequence)
    run.found.letters.append(Letter("dlq:PROVIDER_EVENTS:1:0", event.sequence))
    verdict = check(run.found, shuffles=2)
    assert (verdict.figures["dead"], verdict.figures["applied"]) == (2, 5)


def test_facts_whose_order_matters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_wins(state: CallState, facts: Any) -> CallState:
        for fact in facts:
            state = replace(fold(state, [fact]), status=fact.status or state.status)
        return state

    monkeypatch.setattr("chaos.check_rows.fold", last_wins)
    assert "order matters" in broken(check(good().found))
