"""Asks for calls over NATS, as the gateway asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest

from boostedcalls.calls import create
from boostedcalls.common.bus import Endpoint, endpoint, serve
from boostedcalls.common.context import Caller, caller, new_id
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.messages.calls import CREATE_CALL
from boostedcalls.common.messages.contacts import GET_CONTACT, Contact

from .provider import Provider

if TYPE_CHECKING:
    from .conftest import Make, World

SETTINGS = {
    "vapi_assistant_id": "assistant",
    "vapi_phone_number_id": "number",
    "dispatch_wait": 15,
    "create_calls_per_minute": 0,
    "number_cooldown": 0,
}


class Asker:
    """Asks one of the replicas for calls to one contact; `contacts` is what the contacts service has, and `both`, where
    it is set, what holds its answers until so many are asked for."""

    def __init__(self, worlds: list[World], provider: Provider) -> None:
        self.worlds = worlds
        self.provider = provider
        self.user_id = new_id()
        self.contact_id = new_id()
        self.contacts: dict[UUID, Contact] = {}
        self.contacts_asked = 0
        self.both: asyncio.Barrier | None = None
        self.add_contact()

    @property
    def world(self) -> World:
        return self.worlds[0]

    def add_contact(self, phone: str = "+12025550100") -> None:
        now = datetime.now(UTC)
        self.contacts[self.contact_id] = Contact(
            id=self.contact_id,
            name="Ada",
            phone=phone,
            email=None,
            metadata=None,
            created_at=now,
            updated_at=now,
        )

    async def get_contact(self, _: Caller, data: bytes) -> bytes:
        self.contacts_asked += 1
        if self.both:
            await self.both.wait()
        found = self.contacts.get(UUID(orjson.loads(data)["contact_id"]))
        if found is None:
            raise problem("contact_not_found")
        return found.model_dump_json().encode()

    async def ask(self, key: str | None = "key", user_id: UUID | None = None, within: float = 30, **more: Any) -> bytes:
        body = {"contact_id": str(self.contact_id), **({"idempotency_key": key} if key else {}), **more}
        who = caller(user_id or self.user_id)
        return await self.world.bus.request(CREATE_CALL.subject, orjson.dumps(body), who, within)

    async def refused(self, **more: Any) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            await self.ask(**more)
        return caught.value

    async def dialled(self) -> None:
        """Wait until the provider was asked to dial."""
        await asyncio.wait_for(self.provider.came.wait(), 20)

    async def calls(self) -> int:
        return await self.world.admin.fetchval("SELECT count(*) FROM calls.calls")

    async def keys(self) -> int:
        return await self.world.admin.fetchval("SELECT count(*) FROM calls.idempotency_keys")

    async def let_time_pass(self, column: str, interval: str) -> None:
        """As if it were later by `interval` for what this column says."""
        await self.world.admin.execute(
            f"UPDATE calls.idempotency_keys SET {column} = {column} - $1::text::interval",  # noqa: S608 - our column
            interval,
        )


def shown(answer: bytes) -> dict[str, Any]:
    return orjson.loads(bytes(answer))


MakeAsker = Callable[..., Awaitable[Asker]]


@asynccontextmanager
async def askers(make_world: Make, provider: Provider) -> AsyncGenerator[MakeAsker]:
    """`asker = await make_asker(max_active_calls_per_user=1)`: two replicas, a contacts service, a provider."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Asker:
            worlds = [await make_world(vapi_base_url=provider.url, **{**SETTINGS, **settings}) for _ in range(2)]
            asker = Asker(worlds, provider)
            for world in worlds:
                await serve(
                    stack, world.bus, "calls", "1.0.0", [endpoint(CREATE_CALL, create.create_call, world.service)]
                )
                stack.push_async_callback(world.service.finish, 5)
            contacts = Endpoint(GET_CONTACT.subject, asker.get_contact)
            await serve(stack, asker.world.bus, "contacts", "1.0.0", [contacts])
            return asker

        yield make
        provider.going.set()
