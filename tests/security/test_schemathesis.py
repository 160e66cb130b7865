"""schemathesis over /openapi.json of the running system: every check, in every phase, with a token and without."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import Interaction, ScenarioRecorder

from boostedcalls.devkit.attacks import Attacks

from .conftest import FUZZ_EXAMPLES, FUZZ_SECONDS, FUZZ_SEED

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)


# Refusals of what the document's schema allows, where JSON Schema cannot say the rule: by code, or by message.
REFUSALS = (
    "phone_invalid",  # whether a number exists is looked up in its region's numbering plan
    "idempotency_key_reused",  # depends on an earlier request
    "call_not_cancellable",  # depends on the call
    "is not a cursor that we gave",  # a cursor is opaque
    "is not a region with a numbering plan",
    "must have at least \\d+ bytes",  # counted in bytes, where a schema counts characters
    "must not be (longer|larger) than \\d+ bytes",
    "must not contain the NUL character",
    "must not be blank",
    "is out of range",  # a time that is not in the year 1 to 9999 any more in UTC
    "value is not a valid email address",  # more than a pattern
    "holds a value that JSON cannot carry",  # an integer beyond 64 bits, which readers disagree about
)
# Operations whose check is wrong about our contract.
WRONG_CHECKS = {
    ("POST /api/calls/webhook/", "negative_data_rejection"): "what the provider sends is kept, whatever it is",
}
# What is wrong may be too large as well.
REFUSED = {"negative_data_rejection": {"enabled": True, "expected-statuses": ["4xx"]}}
EXAMPLES = 12
_REFUSAL = re.compile("|".join(REFUSALS))


@dataclass
class Run:
    """What a run tried, by phase, and what it found."""

    tried: Counter[str] = field(default_factory=Counter[str])
    faults: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])


def is_explained(label: str, check: str, interaction: Interaction) -> bool:
    if (label, check) in WRONG_CHECKS:
        return True
    if check != "positive_data_acceptance" or interaction.response is None:
        return False
    problem = interaction.response.json()
    reasons = [problem["code"], *(f"{error['message']}" for error in problem.get("errors", ()))]
    members = reasons[1:] if problem["code"] == "validation_failed" else reasons[:1]
    # Of a union every kind is told of, also those that were not meant.
    return any(_REFUSAL.search(reason) for reason in members)


def run(url: str, config: dict[str, Any]) -> Run:
    found = Run()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=SchemathesisConfig.from_dict(config))
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            found.faults[event.label, type(event.value).__name__] = str(event.value)
        if isinstance(event, events.ScenarioFinished):
            found.tried[event.phase.value] += len(event.recorder.interactions)
            found.faults |= faults(event.recorder)
    return found


def faults(recorder: ScenarioRecorder) -> dict[tuple[str, str], str]:
    """Failed checks, by operation and check: what was sent, and what came back."""
    found: dict[tuple[str, str], str] = {}
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is None:
                continue
            label, interaction = recorder.cases[case_id].value.operation.label, recorder.interactions[case_id]
            if not is_explained(label, check.name, interaction):
                sent, answer = interaction.request, interaction.response
                said = f"{answer.status_code} {answer.content[:500]}" if answer else "no answer"
                sent = f"{sent.method} {sent.uri} {sent.body!r} {sent.headers}"
                found[label, check.name] = f"{check.failure_info.failure}\n  {sent}\n  {said}"
    return found


def config(examples: int, seconds: float, **auth: Any) -> dict[str, Any]:
    """All phases and checks, the same cases for the same seed; again and again until `seconds` are over (0: once)."""
    return {
        "seed": FUZZ_SEED,
        **({"max-time": int(seconds)} if seconds else {}),
        "continue-on-failure": True,
        "request-timeout": 30,
        "cache": {"enabled": False},
        "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}, **REFUSED},
        "auth": {"openapi": auth} if auth else {},
    }


async def attack(url: str, attacks: Attacks, who: str, share: float, **auth: Any) -> None:
    """One run of a known size; in the long form another one until a share of its time is over."""
    asked = [config(EXAMPLES, 0, **auth)]
    if FUZZ_SECONDS:
        asked.append(config(FUZZ_EXAMPLES or 100, FUZZ_SECONDS * share, **auth))
    runs = [await asyncio.to_thread(run, url, each) for each in asked]
    assert {"examples", "coverage", "fuzzing", "stateful"} == runs[0].tried.keys()
    for found in runs:
        for phase, count in found.tried.items():
            attacks(f"HTTP: schemathesis {phase}, {who}", count)
        assert not found.faults, "\n".join(f"{name}: {fault}" for name, fault in found.faults.items())


async def test_every_answer_to_a_user_keeps_what_the_document_promises(running, user, attacks):
    token = user.http.headers["Authorization"].removeprefix("Bearer ")
    secret = running.env["VAPI_WEBHOOK_SECRET"]
    auth = {"bearer": {"bearer": token}, "webhookSecret": {"api_key": secret}}
    await attack(running.url, attacks, "with a token", 0.5, **auth)


async def test_every_answer_to_a_stranger_keeps_what_the_document_promises(running, attacks):
    await attack(running.url, attacks, "without a token", 0.25)
