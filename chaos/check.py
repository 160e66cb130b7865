"""The checker, in the manner of Jepsen: pure judgements over what a run has left (`evidence`), each of which can fail.

A violation says which promise did not hold, of what, and what was seen. Figures are what the table shows. How a call's
row follows from its facts is `check_rows`'s.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from boostedcalls.calls.state import TERMINAL
from chaos import check_rows
from chaos.evidence import Evidence, Row
from chaos.history import Line
from chaos.load import to_be_repeated

_RANK = {"pending": 0, "queued": 1, "initiated": 2, "ringing": 3, "in-progress": 4}
_LAST = 9
_NEVER_DIALLED = {("failed", "not_placed"), ("failed", "rejected"), ("failed", "timed_out"), ("cancelled", None)}


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that did not hold: which, of what (call, request, webhook, contact), and what was seen."""

    promise: str
    about: str
    seen: str


@dataclass(slots=True)
class Verdict:
    """Figures by name, and what is wrong."""

    figures: dict[str, int] = field(default_factory=dict[str, int])
    violations: list[Violation] = field(default_factory=list[Violation])

    def wrong(self, promise: str, about: Any, seen: str) -> None:
        self.violations.append(Violation(promise, str(about), seen))

    def count(self, promise: str) -> int:
        return sum(1 for violation in self.violations if violation.promise == promise)


def check(found: Evidence, shuffles: int = 20) -> Verdict:
    verdict = Verdict()
    for judge in (webhooks, requests, dials, endings, rollups, events, contacts, readers, leftovers):
        judge(found, verdict)
    check_rows.rows(found, verdict, shuffles)
    return verdict


def _noted(found: Evidence, what: str) -> Iterable[Line]:
    return (line for line in found.history if line["what"] == what)


def _request_of(row: Row) -> Any:
    """The number of the request that made the call."""
    return (row["request_metadata"] or {}).get("request")


def webhooks(found: Evidence, verdict: Verdict) -> None:
    """Each webhook that was answered 200 is applied, dead-lettered or pending."""
    # The door's own record is of the same tries as the provider's, but for what the door sent by itself.
    sent = [*found.tries, *(line for line in _noted(found, "webhook") if line["sort"] not in {"real", "lost"})]
    tried = [*found.tries, *_noted(found, "webhook")]
    taken = {line["sha256"] for line in tried if line["status"] == 200}
    sequences = {event.message_id: event.sequence for event in found.events}
    dead = {letter.sequence for letter in found.letters}
    # A webhook that is no message is a dead letter at once: `dlq:webhook:<digest>`.
    aside = {letter.message_id.rpartition(":")[2] for letter in found.letters if letter.sequence is None}
    fate: Counter[str] = Counter()
    for digest in sorted(taken):
        place = sequences.get(digest)
        if place is None:
            fate["dead" if digest in aside else "pending" if digest in found.spooled else "LOST"] += 1
            if digest not in aside and digest not in found.spooled:
                verdict.wrong("lost", f"webhook {digest}", f"answered 200, and nowhere: {_tries_of(tried, digest)}")
        elif place in dead or place in found.settled or place > found.floor:
            fate["dead" if place in dead else "applied" if place in found.settled else "pending"] += 1
        else:
            fate["LOST"] += 1
            verdict.wrong("lost", f"webhook {digest}", f"provider event {place} was taken from the stream, not applied")
    verdict.figures |= {
        "sent": len(sent),
        "answered 200": sum(line["status"] == 200 for line in sent),
        "taken": len(taken),
        "applied": fate["applied"],
        "dead": fate["dead"],
        "pending": fate["pending"],
        "lost": fate["LOST"],
    }
    for place in sorted(event.sequence for event in found.events if event.sequence not in found.settled | dead):
        verdict.wrong("not applied", f"provider event {place}", "in the stream, and neither applied nor dead-lettered")


def _tries_of(tried: Iterable[Line], digest: str) -> list[Line]:
    return [line for line in tried if line["sha256"] == digest][:5]


def requests(found: Evidence, verdict: Verdict) -> None:
    """Each request, however often it was repeated, is at most one call; what it was answered is true of that call."""
    calls: defaultdict[Any, list[Any]] = defaultdict(list)
    for row in found.rows:
        calls[_request_of(row)].append(row)
    answers: defaultdict[int, list[Line]] = defaultdict(list)
    for line in _noted(found, "try"):
        answers[line["n"]].append(line)
    asked = {line["n"]: line for line in _noted(found, "request")}
    for n in calls.keys() - asked.keys():
        verdict.wrong("call of nobody", f"request {n}", f"calls {[str(row['id']) for row in calls[n]]}")
    for n, request in asked.items():
        made = calls.get(n, [])
        if len(made) > 1:
            verdict.wrong("two calls", f"request {n} {request}", f"calls {[str(row['id']) for row in made]}")
        known = {str(row["id"]): row for row in made}
        for line in answers[n]:
            _answer(verdict, n, line, known)
    verdict.figures |= {
        "requested": len(asked),
        "created": len(found.rows),
        "answered": sum(any(not to_be_repeated(line["status"]) for line in tries) for tries in answers.values()),
        "internal errors": sum(line["status"] == 500 for tries in answers.values() for line in tries),
        "replayed": sum(line["replayed"] for tries in answers.values() for line in tries),
    }


def _answer(verdict: Verdict, n: int, line: Line, known: dict[str, Any]) -> None:
    match line["status"]:
        case 201 if line["call"] not in known:
            verdict.wrong("call vanished", f"request {n}", f"answered 201 with a call that is not there: {line}")
        case 502 if line["call"] not in known or known[line["call"]]["error_code"] != "rejected":
            verdict.wrong("false refusal", f"request {n}", f"answered 502, but its call was not refused: {line}")
        case 201 | 502 if line["again"] and not line["replayed"]:
            verdict.wrong("not replayed", f"request {n}", f"it had its answer, and got another one: {line}")
        case 201 | 502:
            pass
        case status if not to_be_repeated(status):
            verdict.wrong("wrong answer", f"request {n}", f"{line}")
        case _:
            pass


def dials(found: Evidence, verdict: Verdict) -> None:
    """Nobody is dialled twice, neither for a call nor for a request; a call that was not dialled says so."""
    by_call = Counter(dial["name"] for dial in found.dials)
    known = {str(row["id"]): row for row in found.rows}
    by_request: Counter[Any] = Counter()
    for name, times in by_call.items():
        row = known.get(name)
        if times > 1:
            verdict.wrong("dialled twice", f"call {name}", f"{[d for d in found.dials if d['name'] == name]}")
        if row is None:
            verdict.wrong("dial of no call", f"call {name}", "in the dial log, and not in the database")
            continue
        by_request[_request_of(row)] += times
        (placed, *_) = [dial["id"] for dial in found.dials if dial["name"] == name]
        if row["provider_call_id"] != placed:
            verdict.wrong("not adopted", f"call {name}", f"dialled as {placed}, known as {row['provider_call_id']}")
        if row["error_code"] == "rejected":
            verdict.wrong("false refusal", f"call {name}", f"rejected, and dialled as {placed}")
    for n, times in by_request.items():
        if times > 1:
            verdict.wrong("dialled twice", f"request {n}", f"{times} dials")
    for name, row in known.items():
        if name not in by_call and (row["status"], row["error_code"]) not in _NEVER_DIALLED:
            verdict.wrong("never dialled", f"call {name}", f"and ended as {row['status']} {row['error_code']}")
    asked = {line["n"] for line in _noted(found, "request")}
    verdict.figures |= {
        "dialled once": sum(1 for n in asked if by_request[n] == 1),
        "never dialled": sum(1 for n in asked if by_request[n] == 0),
        "dialled twice": sum(1 for n in asked if by_request[n] > 1),
    }


def endings(found: Evidence, verdict: Verdict) -> None:
    """No call stays non-terminal, and what was cancelled is cancelled."""
    open_calls = [row for row in found.rows if row["status"] not in TERMINAL]
    for row in open_calls:
        verdict.wrong("not terminal", f"call {row['id']}", f"{row['status']}, due at {row['due_at']}")
    cancelled = {line["call"] for line in _noted(found, "cancel") if line["status"] == 200}
    for row in found.rows:
        if str(row["id"]) in cancelled and row["status"] != "cancelled":
            verdict.wrong("cancel undone", f"call {row['id']}", f"its cancel was answered 200; now {row['status']}")
    verdict.figures |= {
        "not terminal": len(open_calls),
        "cancelled": len(cancelled),
        **{f"ended {status}": n for status, n in sorted(Counter(str(row["status"]) for row in found.rows).items())},
    }


def rollups(found: Evidence, verdict: Verdict) -> None:
    """Every rollup equals a recount."""
    totals: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    daily: Counter[tuple[Any, ...]] = Counter()
    for row in found.rows:
        totals[row["user_id"], row["status"]][0] += 1
        totals[row["user_id"], row["status"]][1] += row["cost"] or 0
        if row["status"] == "completed":
            daily[row["user_id"], row["created_at"].date()] += 1
    counted = Counter(row["user_id"] for row in found.contacts)
    pairs: list[tuple[str, Mapping[Any, Any], Mapping[Any, Any]]] = [
        ("totals", found.totals, {key: tuple(value) for key, value in totals.items()}),
        ("daily", found.daily, daily),
        ("contacts", found.contact_totals, counted),
    ]
    for name, kept, recount in pairs:
        for key in sorted(kept.keys() | recount.keys(), key=str):
            says, counts = kept.get(key), recount.get(key)
            if says != counts:
                verdict.wrong("rollup", f"{name} {key}", f"says {says}, a recount {counts}")
    verdict.figures["rollups differing"] = verdict.count("rollup")


def events(found: Evidence, verdict: Verdict) -> None:
    """Every version of every call was told of, once, and the newest says what the row says."""
    told: defaultdict[str, Counter[int]] = defaultdict(Counter)
    newest: dict[str, Any] = {}
    for event in found.told:
        call = str(event.call_id)
        told[call][event.version] += 1
        if call not in newest or newest[call].version < event.version:
            newest[call] = event
    known = {str(row["id"]): row for row in found.rows}
    for call in told.keys() - known.keys():
        verdict.wrong("event of no call", f"call {call}", f"versions {sorted(told[call])}")
    for call, row in known.items():
        wanted = Counter(range(1, row["version"] + 1))
        if told[call] != wanted:
            missing, more = wanted - told[call], told[call] - wanted
            verdict.wrong("events", f"call {call}", f"missing {sorted(missing)}, too many {sorted(more.elements())}")
            continue
        seen, says = newest[call], {**row, "vapi_call_id": row["provider_call_id"], "call_id": row["id"]}
        says["cost"] = None if row["cost"] is None else float(row["cost"])
        names = set(type(seen).model_fields) - {"previous_status"}
        if differing := sorted(name for name in names if getattr(seen, name) != says[name]):
            verdict.wrong("events", f"call {call}", f"the newest differs in {differing}: {seen}")
    verdict.figures["call events"] = len(found.told)


def contacts(found: Evidence, verdict: Verdict) -> None:
    """A contact is as its last confirmed write left it, and each confirmed write was told of."""
    rows = {str(row["id"]): row for row in found.contacts}
    told: defaultdict[str, list[str]] = defaultdict(list)
    for what, contact in found.contact_events:
        told[contact].append(what)
    written: defaultdict[str, list[Line]] = defaultdict(list)
    for line in _noted(found, "contact"):
        # Of a creation that was not answered nobody knows the contact.
        if line["contact"]:
            written[line["contact"]].append(line)
    for contact, lines in written.items():
        _contact(verdict, contact, rows.get(contact), lines, Counter(told[contact]))
    for contact in told.keys() | rows.keys():
        # In whatever order they come (docs/messaging.md): one that is gone was told of as deleted, and no other.
        if ("deleted" in told[contact]) is (contact in rows):
            there = "is there" if contact in rows else "is not there"
            verdict.wrong("events", f"contact {contact}", f"told {told[contact]}, and it {there}")
    verdict.figures |= {"contacts": len(found.contacts), "contact events": len(found.contact_events)}


def _contact(verdict: Verdict, contact: str, row: Any, lines: list[Line], told: Counter[str]) -> None:
    sure = [line["change"] for line in lines if line["op"] == "update" and line["status"] == 200]
    tried = [line["change"] for line in lines if line["op"] == "update"]
    deletes = [line["status"] for line in lines if line["op"] == "delete"]
    if row is None and not deletes:
        verdict.wrong("contact vanished", contact, f"never deleted: {lines[-3:]}")
    if row is not None:
        change = (row["metadata"] or {}).get("change", 0)
        if 200 in deletes:
            verdict.wrong("write lost", contact, "its deletion was confirmed, and it is there")
        if not max(sure, default=0) <= change <= max(tried, default=0):
            verdict.wrong("write lost", contact, f"change {change}; confirmed {sure}, tried up to {tried[-1:]}")
    if told["created"] != 1 or not len(sure) <= told["updated"] <= len(tried):
        verdict.wrong("events", f"contact {contact}", f"told {dict(told)}, {len(sure)} changes confirmed")


def readers(found: Evidence, verdict: Verdict) -> None:
    """Nobody who read a call was told that it is not there, or saw it go back behind what was known when they asked."""
    seen: defaultdict[str, list[Line]] = defaultdict(list)
    for line in _noted(found, "read"):
        if line["op"] == "get" and line["status"] == 404:
            verdict.wrong("call vanished", f"call {line['call']}", f"{line}")
        elif line["op"] == "get" and line["status"] == 200:
            before = [earlier for earlier in seen[line["call"]] if earlier["at"] < line["sent"]]
            if any(_rank(earlier) > _rank(line) for earlier in before):
                verdict.wrong("went back", f"call {line['call']}", f"to {line['state']}: {before[-3:]} then {line}")
            seen[line["call"]].append(line)


def _rank(line: Line) -> int:
    return _RANK.get(line["state"], _LAST)


def leftovers(found: Evidence, verdict: Verdict) -> None:
    """Nothing waits any more, nothing that is ours was left unmatched, and no log told of a broken promise."""
    for schema, waiting in found.outbox.items():
        if waiting:
            verdict.wrong("left over", f"outbox of {schema}", f"{waiting} events")
    for file in found.leftovers:
        verdict.wrong("left over", f"spool {file}", "not drained")
    ours = {row["provider_call_id"] for row in found.rows} | {dial["id"] for dial in found.dials}
    for row in found.unmatched:
        if row["provider_call_id"] in ours:
            verdict.wrong("left over", f"provider call {row['provider_call_id']}", f"unmatched: {row['sequence']}")
    for line in found.alarms:
        verdict.wrong("alarm", "log", line)
    verdict.figures["unmatched"] = len(found.unmatched)
