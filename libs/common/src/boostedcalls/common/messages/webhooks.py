"""The provider's webhooks on their way from the gateway to the webhooks service: no model stands between.

One travels as its raw body, answered by the body to send back. Several travel together: a line of JSON that says of
each `[size of the body, request id, traceparent, when it came in]`, then the bodies, one after another. They are
answered by a JSON array: for each, in their order, the body to send back as a string, or a problem where it is not
stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import orjson

from boostedcalls.common import subjects
from boostedcalls.common.context import Caller
from boostedcalls.common.errors import ServiceError, parse_problem
from boostedcalls.common.messages.base import rfc3339

INGEST_WEBHOOK = subjects.service("webhooks", "ingest")
INGEST_WEBHOOKS = subjects.service("webhooks", "ingest-many")


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook's raw body and who passes it on: its ids, and when it came in."""

    who: Caller
    body: bytes


def pack(webhooks: Sequence[Webhook]) -> bytes:
    heads = [
        [
            len(webhook.body),
            webhook.who.request_id,
            webhook.who.traceparent,
            rfc3339(webhook.who.received_at) if webhook.who.received_at else None,
        ]
        for webhook in webhooks
    ]
    return b"".join((orjson.dumps(heads), b"\n", *(webhook.body for webhook in webhooks)))


def unpack(data: bytes) -> list[Webhook]:
    """Raises ValueError for what `pack` did not make."""
    line, _, bodies = data.partition(b"\n")
    heads: list[list[Any]] = orjson.loads(line)
    found: list[Webhook] = []
    place = 0
    for size, request_id, traceparent, came_in in heads:
        received_at = datetime.fromisoformat(came_in) if came_in else None
        found.append(Webhook(Caller(None, request_id, traceparent, received_at), bodies[place : place + size]))
        place += size
    if place != len(bodies):
        raise ValueError("the sizes of the bodies do not add up")
    return found


def pack_answers(answers: Sequence[bytes | ServiceError]) -> bytes:
    return orjson.dumps(
        [answer.decode() if isinstance(answer, bytes) else orjson.Fragment(answer.to_json("")) for answer in answers]
    )


def unpack_answers(data: bytes) -> list[bytes | ServiceError]:
    """Raises ValueError for what `pack_answers` did not make."""
    found: list[bytes | ServiceError] = []
    answers = orjson.loads(data)
    if not isinstance(answers, list):
        raise ValueError("no list of answers")
    for answer in cast("list[str | dict[str, Any]]", answers):
        if isinstance(answer, str):
            found.append(answer.encode())
        else:
            found.append(parse_problem(orjson.dumps(answer), int(answer["status"]), None))
    return found
