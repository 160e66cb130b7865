"""The webhooks of the load: the same bytes for every contender, from `wrk` and from our own generator.

Webhook k is event k % 4 of live call k // 4: ringing, in progress, ended, end-of-call-report. Each body is a template
whose call id is left open. Loads go through the webhooks in `order`, which tells a block of calls that they ring before
it tells the first one that it was answered: calls go on side by side, and their reports do not arrive in one breath.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from bench.data import conversations, live_provider_id

EVENTS = 4
BLOCK = 256
"""Calls whose events are sent side by side."""
REPORTS = 16
"""Different reports; call c gets number c % REPORTS."""
_ID = "@CALL-ID@"
_FILES = ("ringing", "in-progress", "ended", *(f"report-{number}" for number in range(REPORTS)))


def order(place: int) -> int:
    """The webhook that is sent as number `place`."""
    block, inside = divmod(place, BLOCK * EVENTS)
    event, call = divmod(inside, BLOCK)
    return (block * BLOCK + call) * EVENTS + event


def expected(sent: int) -> Counter[str]:
    """How many calls are in which state once the first `sent` webhooks of the order are applied; `reported` counts
    those among the completed that have their transcript."""
    blocks, inside = divmod(sent, BLOCK * EVENTS)
    told = [min(max(inside - event * BLOCK, 0), BLOCK) + blocks * BLOCK for event in range(EVENTS)]
    return Counter(ringing=told[0] - told[1], **{"in-progress": told[1] - told[2]}, completed=told[2], reported=told[3])


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _call(status: str, at: datetime, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": _ID,
        "orgId": "5d1a7b0e-3c52-4f0b-9a64-2f8f0f6f1c11",
        "type": "outboundPhoneCall",
        "createdAt": _iso(at - timedelta(seconds=60)),
        "updatedAt": _iso(at),
        "status": status,
        "assistantId": "0f6b2f7c-52a1-4a6e-b0a9-6b7b6f0f2a10",
        "phoneNumberId": "c2a9d6a4-1f0e-4d2b-8b36-70a6f9a3d5be",
        "phoneCallProvider": "twilio",
        "phoneCallTransport": "pstn",
        "phoneCallProviderId": "CA00000000000000000000000000000001",
        "name": "job-1042",
        "customer": {"number": "+12025550123", "name": "Dana Reyes", "externalId": "lead-88213"},
        "assistantOverrides": {
            "variableValues": {"first_name": "Dana", "appointment_at": "2026-11-24T15:00:00Z"},
            "metadata": {"callRequestId": "cr_01JDA9X3", "tenantId": "t_42", "attempt": "1"},
        },
        **more,
    }


def _around() -> dict[str, Any]:
    """What stands beside the call in every message."""
    return {
        "phoneNumber": {
            "provider": "twilio",
            "number": "+12025550199",
            "twilioAccountSid": "AC00000000000000000000000000000000",
            "name": "Outbound main",
        },
        "customer": {"number": "+12025550123", "name": "Dana Reyes", "externalId": "lead-88213"},
        "assistant": {
            "name": "Appointment reminder",
            "firstMessage": "Hi Dana, this is Harbor Clinic.",
            "metadata": {"callRequestId": "cr_01JDA9X3"},
        },
    }


def _update(status: str, at: datetime, call: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    told = {"timestamp": int(at.timestamp() * 1000), "type": "status-update", "status": status}
    return {"message": {**told, **more, "call": _call(status, at, call), **_around()}}


def _report(number: int, at: datetime, started: datetime, ended: datetime) -> dict[str, Any]:
    said = conversations()[(number * 4 + 1) % len(conversations())]
    files = f"https://storage.example.test/{_ID}"
    costs = {"transport": 0.0058, "stt": 0.0041, "llm": 0.0024, "tts": 0.0059, "vapi": 0.0207, "chat": 0, "total": 0.04}
    times = {"startedAt": _iso(started), "endedAt": _iso(ended)}
    end = {**times, "endedReason": "customer-ended-call", "cost": 0.04}
    return {
        "message": {
            "timestamp": int(at.timestamp() * 1000),
            "type": "end-of-call-report",
            **end,
            "costs": [
                {"type": "transport", "provider": "twilio", "minutes": 0.4133, "cost": 0.0058},
                {"type": "vapi", "subType": "normal", "minutes": 0.4133, "cost": 0.0207},
            ],
            "analysis": {
                "summary": said.summary,
                "structuredData": {"rescheduled": True},
                "successEvaluation": "true",
            },
            "artifact": {
                "recordingUrl": f"{files}/mono.wav",
                "stereoRecordingUrl": f"{files}/stereo.wav",
                "logUrl": f"{files}/log.jsonl.gz",
                "transcript": said.transcript,
                "messages": said.messages,
                "variableValues": {"first_name": "Dana"},
            },
            "call": _call("ended", at, {**end, "costBreakdown": costs}),
            **_around(),
        }
    }


@dataclass(frozen=True)
class Templates:
    """Each body, cut where the call's id belongs."""

    parts: tuple[tuple[bytes, ...], ...]

    def body(self, webhook: int) -> bytes:
        call, event = divmod(webhook, EVENTS)
        return self.of(event, call)

    def of(self, event: int, call: int) -> bytes:
        place = event if event < EVENTS - 1 else EVENTS - 1 + call % REPORTS
        return live_provider_id(call).encode().join(self.parts[place])

    def write(self, folder: Path) -> None:
        """For wrk's script: one file each, named by its number."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, parts in enumerate(self.parts):
            (folder / f"{number}.json").write_bytes(_ID.encode().join(parts))

    @property
    def sizes(self) -> Sequence[int]:
        return [sum(map(len, parts)) + 36 * (len(parts) - 1) for parts in self.parts]


@cache
def templates() -> Templates:
    """Of calls that were placed a minute ago. The times are the same in all webhooks of a run."""
    now = datetime.now(UTC).replace(microsecond=0)
    started, ended = now - timedelta(seconds=31), now - timedelta(seconds=6)
    url = f"wss://phone-call-websocket.example-region.vapi.ai/{_ID}"
    found = [
        _update("ringing", now - timedelta(seconds=40), {}, {}),
        _update(
            "in-progress",
            started,
            {"startedAt": _iso(started), "monitor": {"listenUrl": f"{url}/listen"}},
            {},
        ),
        _update(
            "ended",
            ended,
            {"startedAt": _iso(started), "endedAt": _iso(ended), "endedReason": "customer-ended-call"},
            {"endedReason": "customer-ended-call"},
        ),
        *(_report(number, now, started, ended) for number in range(REPORTS)),
    ]
    return Templates(tuple(tuple(orjson.dumps(each).split(_ID.encode())) for each in found))
