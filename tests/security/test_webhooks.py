"""Generated webhooks, right and wrong: each is taken, none stops the consumer, and none moves another tenant's call."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest_asyncio

from boostedcalls.devkit.stack import Stack
from tests.conftest import Json, User, is_over
from tests.test_openapi import operations

from .conftest import FUZZ_EXAMPLES, rounds, settled
from .shapes import Target, broken, examples, message, mutated, plain

AT_ONCE = 16


def signature(secret: str, call_id: str, user_id: str) -> str:
    """What our metadata carries (calls/signing.py), made anew so that it can be forged."""
    return hmac.new(secret.encode(), f"{call_id}|{user_id}".encode(), hashlib.sha256).hexdigest()[:32]


def carried(call_id: Any, signed: Any) -> Json:
    return {"internalCallId": call_id, "internalCallSignature": signed}


ANYBODY = Target("@provider-id", carried("@call-id", "@signature"))


def aimed(body: bytes, target: Target) -> bytes:
    """A message about ANYBODY, made one about the target."""
    found = body.replace(plain(ANYBODY.metadata), plain(target.metadata))
    return found.replace(b'"%s"' % ANYBODY.provider_id.encode(), plain(target.provider_id))


@dataclass
class Calls:
    """A user's calls: one that goes on, one that is over, one that is cancelled, one that was never placed."""

    user: User
    calls: list[Json]

    async def dump(self) -> Json:
        found = await self.user.everything()
        for call in self.calls:
            for path in (f"/api/calls/{call['id']}/", f"/api/calls/{call['id']}/events/"):
                found[path] = await self.user.found(path)
        return found


async def make(system: Stack, sign_up: Any) -> Calls:
    user = await sign_up(system.url)
    over = await user.place_call("00")
    cancelled = await user.place_call("05")
    active = await user.place_call("05")
    # Only a call without an id of the provider's can be claimed at all.
    unplaced = await user.place_call("21")
    assert (await user.http.post(f"/api/calls/{cancelled['id']}/cancel/")).status_code == 200
    await user.wait_for(over, lambda call: is_over(call) and call["cost"] is not None)
    await user.wait_for(cancelled, lambda call: is_over(call) and call["cost"] is not None)
    await user.wait_for(active, lambda call: call["status"] == "in-progress")
    lost = await user.wait_for(unplaced)
    assert lost["vapi_call_id"] is None
    return Calls(user, [active, over, cancelled, lost])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ours(running, sign_up) -> Calls:
    return await make(running, sign_up)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def theirs(running, sign_up) -> Calls:
    return await make(running, sign_up)


@pytest_asyncio.fixture(loop_scope="session")
async def send_all(post_webhook):
    """Send bodies, several at once; each must be taken."""

    async def one(body: bytes) -> None:
        answer = await post_webhook(body)
        assert answer.status_code == 200, f"{answer.text}: {body!r}"
        assert "x-stored" not in answer.headers
        # Sound is what a voice request is answered with; we have none.
        assert not answer.content or isinstance(answer.json(), dict), f"{answer.text}: {body!r}"

    async def send(found: list[bytes]) -> None:
        for batch in itertools.batched(found, AT_ONCE, strict=False):
            await asyncio.gather(*map(one, batch))

    return send


async def readable(calls: Calls, document: Json) -> None:
    """Every call can be read in every way, and looks as the document says."""
    known = {operation.name: operation for operation in operations(document)}
    asked = [("list_calls", "/api/calls/"), ("get_call_stats", "/api/calls/stats/")]
    for call in calls.calls:
        path = f"/api/calls/{call['id']}/"
        asked += [("get_call", path), ("list_call_events", f"{path}events/")]
    for name, path in asked:
        answer = await calls.user.http.get(path)
        assert (answer.status_code, known[name].untrue(answer)) == (200, []), path


async def test_generated_messages_are_taken_and_calls_stay_readable(running, ours, theirs, document, send_all, attacks):
    secret = running.env["CALL_SIGNING_SECRET"]
    targets = [
        Target(call["vapi_call_id"], carried(call["id"], signature(secret, call["id"], ours.user.id)))
        for call in ours.calls[:-1]
    ]
    # A call of ours that turns up under another id of the provider's.
    targets.append(Target(str(uuid4()), targets[0].metadata))
    right = message([None, *targets])
    kinds = {
        "right": right.map(lambda each: plain({"message": each})),
        "mutated": mutated(right).map(plain),
        "broken": broken(right),
    }
    before = await theirs.dump()
    for number in rounds():
        for kind, strategy in kinds.items():
            found = await asyncio.to_thread(examples, strategy, FUZZ_EXAMPLES or 60, number)
            await send_all(found)
            attacks(f"Webhook: generated message, {kind}", len(found))
    await settled(running)
    await readable(ours, document)
    # They were taken for what they are.
    assert is_over(await ours.user.call_to(ours.calls[0]["contact_id"]))
    assert await theirs.dump() == before


async def test_message_that_claims_a_call_by_a_forged_signature_moves_nothing(
    running, ours, theirs, document, send_all, attacks
):
    secret, stranger, owner = running.env["CALL_SIGNING_SECRET"], ours.user.id, theirs.user.id
    before = await theirs.dump()
    for number in rounds():
        targets = []
        for call in theirs.calls:
            mine = ours.calls[0]["id"]
            forged = [
                None,
                "",
                0,
                ["x"],
                "0" * 32,
                "\u0130" * 32,
                signature(secret, call["id"], stranger),
                signature(secret, mine, stranger),
                signature(secret, mine, owner),
                signature("another secret of 32 bytes or more", call["id"], owner),
                signature(secret, call["id"], owner)[:31],
                signature(secret, call["id"], owner).upper() + " ",
                hashlib.sha256(f"{call['id']}|{owner}".encode()).hexdigest()[:32],
            ]
            targets += [Target(str(uuid4()), carried(call["id"], signed)) for signed in forged]
            targets += [Target(str(uuid4()), carried(call["id"].upper(), "0" * 32)), Target(call["id"], {})]
            targets += [Target(str(uuid4()), {"internalCallId": call["id"]}), Target(f"{call['vapi_call_id']} ", {})]
        about = message([ANYBODY], ("status-update", "end-of-call-report")).map(lambda each: plain({"message": each}))
        found = await asyncio.to_thread(examples, about, len(targets), number)
        await send_all([aimed(body, target) for body, target in zip(found, itertools.cycle(targets), strict=False)])
        attacks("Webhook: forged claim of another tenant's call", len(found))
    await settled(running)
    assert await theirs.dump() == before
    await readable(theirs, document)
