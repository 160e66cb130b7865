"""Who may do what on NATS: one table, and every user of deploy/nats.conf tried on every line of it, on the real server.

Then what a thief could do with a service's credential although each single step is allowed: have the server or a
service send something where the thief may not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import nats
import orjson
import pytest
from nats.aio.client import Client

from boostedcalls.common import messages
from boostedcalls.common.bus.streams import CALL_EVENTS, DLQ, JOBS, PROVIDER_EVENTS, STREAMS
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS
from boostedcalls.devkit.attacks import Attacks
from boostedcalls.devkit.net import HOST
from boostedcalls.devkit.procs import frozen
from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.servers import NATS_USERS, Server
from boostedcalls.devkit.stack import Stack

from .conftest import FAST, SignUp, is_over
from .watch import Log, dead_letters

SERVICES = {"gateway", "contacts", "webhooks", "calls"}
USERS = [user for user in NATS_USERS if user not in ("admin", "system")]
ANYBODY = {*SERVICES, "subscriber"}
NOBODY: set[str] = set()
ASKED_BY_CALLS = ("bc.svc.contacts.get", "bc.svc.contacts.count", "bc.svc.scripts.get")
PUBLISH, SUBSCRIBE = "PUB", "SUB"
# What each consumer's messages are for.
READS = {(PROVIDER_EVENTS, "calls"): {"calls"}, (JOBS, "calls"): {"calls"}, (CALL_EVENTS, "subscriber"): {"subscriber"}}
IDS = "0198b1f0-0000-7000-8000-000000000001", "0198b1f0-0000-7000-8000-000000000002"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: what is tried, and who may."""

    kind: str
    subject: str
    allowed: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


def table() -> Iterator[Line]:
    for kind, subject, allowed in (*publishing(), *jetstream(), *subscribing()):
        yield Line(kind, subject, frozenset(allowed))


def publishing() -> Iterator[tuple[str, str, set[str]]]:
    for subject in (*(rpc.subject for rpc in messages.ALL), INGEST_WEBHOOK, INGEST_WEBHOOKS):
        also = {"calls"} if subject in ASKED_BY_CALLS else set[str]()
        yield PUBLISH, subject, {"gateway"} | also
    for kind in ("status-update", "end-of-call-report", "hang", "synced"):
        for call in (IDS[0], "none"):
            yield PUBLISH, f"bc.evt.provider.{kind}.{call}", {"webhooks", "calls"}
    for what in ("created", "status-changed", "updated"):
        yield PUBLISH, f"bc.evt.call.{what}.{'.'.join(IDS)}", {"calls"}
        yield PUBLISH, f"bc.evt.contact.{what}.{'.'.join(IDS)}", {"contacts"}
    yield PUBLISH, "bc.job.sync", {"calls"}
    yield PUBLISH, f"bc.dlq.{PROVIDER_EVENTS}.1", {"calls"}
    yield PUBLISH, f"bc.dlq.{JOBS}.1", {"calls"}
    yield PUBLISH, "bc.dlq.webhook.0123456789abcdef", {"webhooks"}
    yield PUBLISH, "bc.dlq.replayed.1", NOBODY
    yield PUBLISH, "bc.ping", ANYBODY
    for subject in ("bc.svc.users.list", "bc.evt.other.x", "bc", "anything", "$SRV.PING", "$SRV.INFO.calls"):
        yield PUBLISH, subject, NOBODY
    for user in (*NATS_USERS, "test"):
        yield PUBLISH, f"_INBOX_{user}.a.b", NOBODY
    yield PUBLISH, "_INBOX.a.b", NOBODY
    for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.CALLS.CONNZ", "$SYS.ACCOUNT.CALLS.CONNECT"):
        yield PUBLISH, subject, NOBODY


def jetstream() -> Iterator[tuple[str, str, set[str]]]:
    api = "$JS.API"
    for call in ("INFO", "STREAM.NAMES", "STREAM.LIST", "ACCOUNT.PURGE.CALLS", "META.LEADER.STEPDOWN", "SERVER.REMOVE"):
        yield PUBLISH, f"{api}.{call}", NOBODY
    for stream in (*STREAMS, "ANOTHER"):
        looks = {"calls"} if stream == PROVIDER_EVENTS else NOBODY
        gets = {"calls"} if stream in (PROVIDER_EVENTS, DLQ) else NOBODY
        yield PUBLISH, f"{api}.STREAM.INFO.{stream}", looks
        yield PUBLISH, f"{api}.STREAM.MSG.GET.{stream}", gets
        for call in (
            *("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"),
            *("PEER.REMOVE", "MOVE", "CANCEL_MOVE"),
        ):
            yield PUBLISH, f"{api}.STREAM.{call}.{stream}", NOBODY
        for call in ("DIRECT.GET", "DIRECT.GET.LAST", "CONSUMER.NAMES", "CONSUMER.LIST", "CONSUMER.CREATE"):
            yield PUBLISH, f"{api}.{call}.{stream}", NOBODY
        for consumer in ("calls", "subscriber", "thief"):
            reads = READS.get((stream, consumer), NOBODY)
            yield PUBLISH, f"{api}.CONSUMER.INFO.{stream}.{consumer}", reads
            yield PUBLISH, f"{api}.CONSUMER.MSG.NEXT.{stream}.{consumer}", reads
            yield PUBLISH, f"$JS.ACK.{stream}.{consumer}.1.1.1.1.1", reads
            yield PUBLISH, f"$JS.ACK.domain.hash.{stream}.{consumer}.1.1.1.1.1.token", reads
            yield PUBLISH, f"{api}.CONSUMER.CREATE.{stream}.{consumer}.bc.evt.provider.x.y", NOBODY
            for call in ("CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "RESET", "LEADER.STEPDOWN", "UNPIN"):
                yield PUBLISH, f"{api}.CONSUMER.{call}.{stream}.{consumer}", NOBODY
    yield PUBLISH, "$JS.FC.PROVIDER_EVENTS.calls.x", NOBODY
    yield PUBLISH, "$JS.EVENT.ADVISORY.STREAM.DELETED.JOBS", NOBODY


def subscribing() -> Iterator[tuple[str, str, set[str]]]:
    owner = {"calls": "calls", "contacts": "contacts", "scripts": "contacts", "webhooks": "webhooks"}
    for subject in (*(rpc.subject for rpc in messages.ALL), INGEST_WEBHOOK, INGEST_WEBHOOKS):
        yield SUBSCRIBE, subject, {owner[subject.split(".")[2]]}
    for noun, service in owner.items():
        yield SUBSCRIBE, f"bc.svc.{noun}.*", {service}
        # Where the server is told `*` it takes `>` too.
        yield SUBSCRIBE, f"bc.svc.{noun}.>", {service}
    for what in ("call", "contact"):
        for subject in (f"bc.evt.{what}.>", f"bc.evt.{what}.*.{IDS[0]}.*", f"bc.evt.{what}.created.{'.'.join(IDS)}"):
            yield SUBSCRIBE, subject, {"subscriber"}
    for subject in (
        *("bc.evt.provider.>", f"bc.evt.provider.*.{IDS[0]}", "bc.evt.>", "bc.job.>", "bc.job.sync", "bc.dlq.>"),
        *("bc.>", "bc.svc.>", "bc.svc.*.*", "bc.ping", ">", "*", "*.>", "_INBOX.>", "_INBOX*.>", "$JS.>", "$JS.API.>"),
        *("$JS.ACK.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "$SYS.ACCOUNT.>", "$SRV.>", "$SRV.PING.gateway"),
    ):
        yield SUBSCRIBE, subject, NOBODY
    for user in (*USERS, "admin", "system", "test"):
        allowed = {user} & ANYBODY
        yield SUBSCRIBE, f"_INBOX_{user}.>", allowed
        yield SUBSCRIBE, f"_INBOX_{user}.abc.*", allowed
        yield SUBSCRIBE, f"_INBOX_{user}.abc.def", allowed
    for verb in ("PING", "INFO", "STATS"):
        yield SUBSCRIBE, f"$SRV.{verb}", SERVICES - {"gateway"}
        for service in sorted(SERVICES):
            yield SUBSCRIBE, f"$SRV.{verb}.{service}", {service} - {"gateway"}
            yield SUBSCRIBE, f"$SRV.{verb}.{service}.*", {service} - {"gateway"}


class Wire:
    """A client that says what it wants and hears what the server thinks of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._number = 0

    async def refused(self, line: Line, group: str = "") -> bool:
        self._number += 1
        if line.kind == PUBLISH:
            said = f"PUB {line.subject} 0\r\n\r\n"
        else:
            said = f"SUB {line.subject} {group} {self._number}\r\nUNSUB {self._number}\r\n"
        self._writer.write(f"{said}PING\r\n".encode())
        answers: list[str] = []
        while (answer := (await self._reader.readline()).decode().strip()) != "PONG":
            if not answer:
                raise ConnectionError(" ".join(answers))
            answers.append(answer)
        assert all("Permissions Violation" in answer for answer in answers if answer.startswith("-ERR")), answers
        return any(answer.startswith("-ERR") for answer in answers)


@asynccontextmanager
async def wire(server: Server, **login: str) -> AsyncGenerator[Wire]:
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        await reader.readline()
        writer.write(f"CONNECT {json.dumps({'verbose': False, 'headers': True, **login})}\r\n".encode())
        yield Wire(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize("user", [*USERS, "admin"])
async def test_a_user_may_do_what_the_table_allows_and_nothing_else(
    nats_server: Server, user: str, attacks: Attacks
) -> None:
    wrong: list[str] = []
    tried = 0
    async with wire(nats_server, user=user, **{"pass": nats_server.passwords[user]}) as client:
        for line in table():
            for group in ("",) if line.kind == PUBLISH else ("", "q"):
                tried += 1
                expected = user == "admin" or user in line.allowed
                # The server's own affairs are another account's: what is said there in ours reaches nobody.
                if user == "admin" and line.subject.startswith("$SYS"):
                    continue
                if await client.refused(line, group) is expected:
                    wrong.append(f"{line} {group}: {'refused' if expected else 'allowed'}")
    assert wrong == []
    attacks(f"NATS: {user} against every subject and JetStream call", tried)


@pytest.mark.parametrize(
    "login",
    [{}, {"user": "calls"}, {"user": "calls", "pass": ""}, {"user": "calls", "pass": "wrong"}, {"auth_token": "calls"}],
    ids=str,
)
async def test_nobody_gets_in_without_the_right_password(
    nats_server: Server, login: dict[str, str], attacks: Attacks
) -> None:
    with pytest.raises(ConnectionError):
        async with wire(nats_server, **login) as client:
            await client.refused(Line(PUBLISH, "bc.ping", frozenset()))
    attacks("NATS: without the right password")


async def test_the_servers_account_sees_nothing_of_ours(nats_server: Server, attacks: Attacks) -> None:
    system = await nats.connect(nats_server.url_of("system"))
    ours = await nats.connect(nats_server.url_of("admin"))
    try:
        heard = await system.subscribe(">")
        mine = await ours.subscribe("probe")
        await system.publish("probe", b"from outside")
        for subject in ("bc.svc.calls.get", "_INBOX_gateway.x", "bc.evt.call.created.a.b"):
            await ours.publish(subject, b"ours")
        await asyncio.gather(system.flush(), ours.flush())
        subjects = {message.subject async for message in _now(heard)}
        assert not any(subject.startswith(("bc.", "_INBOX")) for subject in subjects)
        assert mine.pending_msgs == 0
    finally:
        await asyncio.gather(system.close(), ours.close())
    attacks("NATS: the server's account listening to ours", 3)


async def _now(subscription: nats.aio.subscription.Subscription) -> AsyncGenerator[nats.aio.msg.Msg]:
    while subscription.pending_msgs:
        yield await subscription.next_msg()


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return dict(FAST)


@asynccontextmanager
async def thief(system: Stack, user: str) -> AsyncGenerator[Client]:
    """Somebody with the credential of a service, beside the service itself."""
    server = system.member("nats").server
    client = await nats.connect(server.url_of(user), inbox_prefix=f"_INBOX_{user}")
    try:
        yield client
    finally:
        await client.close()


async def test_what_a_thief_has_others_send_changes_nothing(
    stack: StackFactory, settings: dict[str, str], sign_up: SignUp, attacks: Attacks
) -> None:
    async with stack(env=settings) as system:
        user = await sign_up(system.url)
        contact = await user.contact("05")
        call = await user.made("/api/calls/", contact_id=contact["id"])
        call = await user.wait_for(call, lambda found: found["status"] == "in-progress")
        letters, contacts = await dead_letters(system), Log(system, "contacts")
        event = f"bc.evt.provider.end-of-call-report.{call['vapi_call_id']}"

        # The answer to what contacts may publish, directed into the provider's stream: no event, so a dead letter.
        async with thief(system, "contacts") as client:
            await client.publish(f"bc.evt.contact.updated.{uuid4()}.{uuid4()}", b"{}", reply=event)
            await client.flush()
        async with asyncio.timeout(20):
            while await dead_letters(system) == letters:
                await asyncio.sleep(0.05)
        letters = await dead_letters(system)

        # A service's answer, directed into a stream where only that service may publish.
        asked = {"Bc-User": user.id}
        async with thief(system, "gateway") as client:
            for subject in ("bc.svc.calls.get", "bc.svc.calls.list", "bc.svc.contacts.get", "bc.svc.calls.stats"):
                await client.publish(subject, orjson.dumps({"call_id": call["id"]}), reply=event, headers=asked)
            await client.publish("bc.svc.calls.list", b"{}", reply="bc.job.sync", headers=asked)
            await client.flush()

        # A message of a stream, directed to an endpoint that the thief may not ask.
        async with thief(system, "calls") as client:
            read = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.calls"
            with frozen(system.member("calls").server.child.pid):
                await client.publish("bc.job.sync", orjson.dumps({"contact_id": contact["id"]}), headers=asked)
                for _ in range(5):
                    await client.publish(read, b'{"batch":9,"no_wait":true}', "bc.svc.contacts.delete")
                await client.flush()
                await contacts.until("request_not_asked")
        assert (await user.found("/api/contacts/"))[0]["id"] == contact["id"]
        assert (await user.found(f"/api/calls/{call['id']}/"))["status"] == "in-progress"
        await user.http.post(f"/api/calls/{call['id']}/cancel/")
        assert (await user.wait_for(call, is_over))["status"] == "cancelled"
        # What went to JOBS was no job; nothing else became anything.
        assert await dead_letters(system) <= letters + 1
    attacks("NATS: an answer or a message sent where the thief may not", 11)
