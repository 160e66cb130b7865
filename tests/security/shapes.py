"""The provider's webhooks as hypothesis makes them: right ones, by Vapi's published schemas, and what goes wrong.

Nothing here knows of our code: the shapes are written down from the provider's documentation.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Json = dict[str, Any]

REASONS = [
    row["endedReason"]
    for row in csv.DictReader(
        (Path(__file__).parents[2] / "services/calls/tests/data/ended-reasons.csv").read_text().splitlines()
    )
]
STATUSES = [
    "scheduled",
    "queued",
    "ringing",
    "in-progress",
    "forwarding",
    "ended",
    "ended",
    "ended",
    "not-found",
    "deletion-failed",
]
ROLES = ["assistant", "user", "system", "bot", "tool"]

anything = st.characters(codec=None, categories=None)
text = st.text(anything, max_size=60)
reasons = st.sampled_from(REASONS) | text
ids = st.uuids().map(str) | st.text(max_size=70)
times = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.integers(0, 2**43)
money = st.floats(0, 1e7) | st.integers(-5, 10**7)
numbers = (
    st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.sampled_from([2**63, -(2**63) - 1, 1e308, -0.0])
)
leaves = st.none() | st.booleans() | numbers | text
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))


def some(
    required: dict[str, SearchStrategy[Any]] | None = None, **optional: SearchStrategy[Any]
) -> SearchStrategy[Json]:
    return st.fixed_dictionaries(required or {}, optional=optional)


destination = some(type=st.sampled_from(["number", "sip", "assistant"]), number=text, message=text)
messages = st.lists(
    some(role=st.sampled_from(ROLES), message=text, content=text, time=times, duration=numbers), max_size=4
)
analysis = some(
    summary=text,
    successEvaluation=st.sampled_from(["true", "false", "Pass", "8", "not_interested"]) | text,
    structuredData=junk,
    structuredDataMulti=st.lists(junk, max_size=2),
)
artifact = some(
    transcript=text,
    messages=messages,
    messagesOpenAIFormatted=messages,
    recordingUrl=text,
    stereoRecordingUrl=text,
    recording=some(mono=some(combinedUrl=text), stereoUrl=text),
    structuredOutputs=st.dictionaries(ids, some(name=st.just("outcome") | text, result=junk), max_size=2),
    variableValues=junk,
)
functions = some(name=text, arguments=st.dictionaries(text, junk, max_size=2) | text, parameters=junk)
tool_calls = st.lists(some(id=ids, type=st.just("function"), function=functions, name=text, arguments=junk), max_size=3)
status = some(
    {"status": st.sampled_from(STATUSES)},
    endedReason=reasons,
    endedMessage=text,
    destination=destination,
    transcript=text,
    summary=text,
    messages=messages,
)
report = some(
    {"endedReason": reasons, "artifact": artifact, "analysis": analysis},
    cost=money,
    costs=st.lists(some(type=text, cost=money), max_size=3),
    costBreakdown=some(transport=money, stt=money, llm=money, total=money, llmPromptTokens=numbers),
    startedAt=times,
    endedAt=times,
    durationSeconds=money,
    transcript=text,
    summary=text,
    compliance=junk,
)
OWN: dict[str, SearchStrategy[Json]] = {
    "status-update": status,
    "end-of-call-report": report,
    "tool-calls": some(
        {"toolCallList": tool_calls, "toolWithToolCallList": st.lists(some(toolCall=functions), max_size=2)}
    ),
    "function-call": some(functionCall=functions),
    "transcript": some(
        {"role": st.sampled_from(ROLES), "transcriptType": st.sampled_from(["partial", "final"]), "transcript": text},
        isFiltered=st.booleans(),
        confidence=money,
    ),
    'transcript[transcriptType="final"]': some(transcript=text, role=text),
    "speech-update": some(
        {"status": st.sampled_from(["started", "stopped"]), "role": st.sampled_from(ROLES)}, turn=numbers
    ),
    "conversation-update": some({"messagesOpenAIFormatted": messages}, messages=messages),
    "model-output": some({"output": junk}, turnId=ids),
    "voice-request": some({"text": text, "sampleRate": numbers}),
    "call.endpointing.request": some({"messagesOpenAIFormatted": messages}, messages=messages),
    "knowledge-base-request": some({"messagesOpenAIFormatted": messages}, messages=messages),
    "handoff-destination-request": some({"parameters": junk}),
    "transfer-destination-request": some(),
    "transfer-update": some(destination=destination, toAssistant=junk, fromAssistant=junk),
    "assistant-request": some(),
    "campaign.predial": some({"campaignId": ids, "contact": junk}),
    "campaign.event": some(campaignId=ids, eventType=text, data=some(callId=ids)),
    "phone-call-control": some({"request": st.sampled_from(["forward", "hang-up"])}, destination=destination),
    "language-change-detected": some({"language": text}),
    "voice-input": some({"input": text}),
    "assistant.speechStarted": some({"text": text}, turn=numbers, source=text, timing=junk),
    "call.artifact.upload": some({"artifacts": st.lists(some(type=text, success=st.booleans()), max_size=2)}),
    **dict.fromkeys(("session.created", "session.updated", "session.deleted"), some({"session": junk})),
    **dict.fromkeys(("chat.created", "chat.deleted"), some({"chat": junk})),
    **dict.fromkeys(
        ("hang", "user-interrupted", "assistant.started", "language-changed", "call.deleted", "call.delete.failed"),
        some(),
    ),
}


@dataclass(frozen=True)
class Target:
    """A call that a message may be about: the provider's id for it, and what we gave the provider to carry."""

    provider_id: str
    metadata: Json


def calls(targets: Sequence[Target | None]) -> SearchStrategy[Json]:
    """The provider's call object: of one of the targets; None is a call that nobody knows."""
    rest = some(
        orgId=ids,
        type=st.just("outboundPhoneCall"),
        status=st.sampled_from(STATUSES),
        endedReason=reasons,
        createdAt=times,
        updatedAt=times,
        startedAt=times,
        endedAt=times,
        cost=money,
        customer=some(number=text, name=text, externalId=ids),
        phoneNumber=some(provider=st.just("twilio"), twilioAuthToken=text, credentials=junk),
        monitor=some(controlUrl=text, listenUrl=text),
        artifact=artifact,
        analysis=analysis,
    )

    def of(target: Target | None) -> SearchStrategy[Json]:
        if target is None:
            return st.tuples(rest, ids).map(lambda parts: {**parts[0], "id": parts[1]})
        carried = {"id": target.provider_id, "assistantOverrides": {"metadata": target.metadata}}
        return rest.map(lambda found: {**found, **carried})

    return st.sampled_from(targets).flatmap(of)


def message(targets: Sequence[Target | None], kinds: Sequence[str] = tuple(OWN)) -> SearchStrategy[Json]:
    """A right message of any type, half of them of the two that change a call."""
    common = some(
        {"call": calls(targets)},
        timestamp=times,
        assistant=junk,
        customer=some(number=text),
        phoneNumber=junk,
        chat=junk,
    )
    kind = st.sampled_from(
        [each for each in ("status-update", "end-of-call-report") if each in kinds]
    ) | st.sampled_from(kinds)
    return kind.flatmap(
        lambda kind: st.tuples(common, OWN[kind]).map(lambda parts: {**parts[0], **parts[1], "type": kind})
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in decoded JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [each for name, item in inner for each in places(item, (*path, name))]


def deep(levels: int) -> Any:
    found: Any = "bottom"
    for level in range(levels):
        found = [found] if level % 2 else {"a": found}
    return found


@st.composite
def mutated(draw: st.DrawFn, right: SearchStrategy[Json]) -> Json:
    """A right message in which something is missing, of another type, too much, too deep or too large."""
    envelope = {"message": deepcopy(draw(right))}
    for _ in range(draw(st.integers(1, 3))):
        found = places(envelope)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        parent: Any = envelope
        for name in path:
            parent = parent[name]
        match draw(st.sampled_from(["missing", "junk", "extra", "deep", "long", "text"])):
            case "missing":
                del parent[last]
            case "junk":
                parent[last] = draw(junk)
            case "extra" if isinstance(parent, dict):
                parent[draw(text)] = draw(junk)
            case "deep":
                parent[last] = deep(draw(st.sampled_from([99, 101, 250])))
            case "long":
                parent[last] = draw(text) * 2000
            case _:
                parent[last] = draw(text)
    return envelope


def plain(value: Any) -> bytes:
    """JSON as any client writes it."""
    return json.dumps(value).encode()


@st.composite
def broken(draw: st.DrawFn, right: SearchStrategy[Json]) -> bytes:
    """Bytes that are not quite what they should be: another encoding, cut off, names twice, no JSON at all."""
    body = json.dumps({"message": draw(right)}, ensure_ascii=draw(st.booleans()))
    match draw(st.sampled_from(["utf-16", "utf-8-sig", "latin-1", "surrogates", "cut", "twice", "flipped", "bytes"])):
        case "utf-16" | "utf-8-sig" as codec:
            return body.encode(codec, "replace")
        case "latin-1":
            return body.encode("latin-1", "replace")
        case "surrogates":
            return body.encode("utf-8", "surrogatepass")
        case "cut":
            whole = body.encode("utf-8", "replace")
            return whole[: draw(st.integers(0, len(whole)))]
        case "twice":
            return (body[:-1] + ', "message": ' + json.dumps(draw(junk)) + "}").encode("utf-8", "replace")
        case "flipped":
            whole = bytearray(body.encode("utf-8", "replace"))
            whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
            return bytes(whole)
        case _:
            return draw(st.binary(max_size=200))


def examples(strategy: SearchStrategy[bytes], count: int, number: int) -> list[bytes]:
    """`count` examples, the same ones for the same seed."""
    found: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(body: bytes) -> None:
        found.append(body)

    collect()
    return found
