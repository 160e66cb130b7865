"""What all end-to-end tests share: one running system a worker, and people who use it through REST alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import pytest_asyncio

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

Json = dict[str, Any]
SignUp = Callable[[str], Awaitable["User"]]

FAST = {
    "SIMULATOR_SPEED": "0.2",
    "SYNC_STEPS": "1,2,4",
    "RECONCILE_STEPS": "1,2,3,4",
    "DISPATCH_WAIT": "2",
    "DISPATCH_READ_TIMEOUT": "3",
    "SYNC_ON_READ": "0.2",
    "SIGNUP_ENABLED": "true",
    "SIGNUPS_PER_ADDRESS_PER_HOUR": "0",
    "REQUESTS_PER_USER_PER_MINUTE": "100000",
    "MAX_ACTIVE_CALLS_PER_USER": "50",
}
PASSWORD = "correct-horse-battery"
TERMINAL = {"completed", "failed", "cancelled", "no-answer", "busy", "voicemail"}


def is_over(call: Mapping[str, Any]) -> bool:
    return call["status"] in TERMINAL


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with an account. `http` carries their access token; all numbers are the simulator's."""

    id: str
    email: str
    password: str
    http: httpx2.AsyncClient

    async def made(self, path: str, **body: Any) -> Json:
        """POST what must succeed."""
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def found(self, path: str, **params: Any) -> Any:
        """GET what must succeed."""
        answer = await self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def contact(self, suffix: str = "00", **body: Any) -> Json:
        """A contact whose number makes the simulator play the scenario `suffix` (docs/simulator.md)."""
        return await self.made("/api/contacts/", **{"name": f"No. {suffix}", "phone": f"+120255501{suffix}", **body})

    async def request_call(self, suffix: str = "00", **body: Any) -> tuple[httpx2.Response, str]:
        """Ask for a call to a new contact: the answer, whatever it is, and the contact's id to find the call by."""
        contact = await self.contact(suffix)
        return await self.http.post("/api/calls/", json={"contact_id": contact["id"], **body}), contact["id"]

    async def place_call(self, suffix: str = "00", **body: Any) -> Json:
        """A call that was placed, as the 201 shows it."""
        answer, _ = await self.request_call(suffix, **body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def call_to(self, contact_id: str) -> Json:
        """The one call that there is to this contact, as the list shows it (reading a list syncs nothing)."""
        (call,) = (await self.found("/api/calls/", contact_id=contact_id))["data"]
        return call

    async def everything(self) -> Json:
        """All that the user has, to compare before and after."""
        paths = ("/api/contacts/", "/api/scripts/", "/api/calls/", "/api/calls/pending-count/")
        return {path: await self.found(path) for path in paths}

    async def wait_for(self, call: Mapping[str, Any] | str, until: Callable[[Json], Any] = is_over) -> Json:
        """Read the call until the predicate holds of it (by default: until it is over). Raises TimeoutError."""
        call_id = call if isinstance(call, str) else call["id"]
        async with asyncio.timeout(60):
            while True:
                found = await self.found(f"/api/calls/{call_id}/")
                if until(found):
                    return found
                await asyncio.sleep(0.1)


@pytest.fixture(scope="session")
def is_problem() -> Callable[[httpx2.Response, int, str], Json]:
    """Check that an answer is an RFC 9457 document as api.md wants it, with this status and code; return it."""

    def check(answer: httpx2.Response, status: int, code: str) -> Json:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        found = answer.json()
        members = {"type", "title", "status", "detail", "code", "request_id"}
        assert found.keys() - {"errors", "instance"} == members, found
        assert all(isinstance(found[name], str) and found[name] for name in members - {"status"})
        assert (found["status"], found["code"]) == (status, code)
        assert found["request_id"] == answer.headers["x-request-id"]
        assert ("errors" in found) is (status == 422)
        assert all(error.keys() == {"field", "message"} for error in found.get("errors", ()))
        return found

    return check


@pytest.fixture(scope="session")
def fast() -> dict[str, str]:
    """Settings that make minutes seconds, for tests that start a system of their own: `stack(env=fast)`."""
    return dict(FAST)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(stack: StackFactory) -> AsyncGenerator[Stack]:
    """The system of this worker's tests. Tests leave its processes alone: who kills any starts a stack of his own."""
    async with stack(env=FAST) as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sign_up() -> AsyncGenerator[SignUp]:
    """`user = await sign_up(system.url)`: a new account, logged in until the module ends."""
    async with AsyncExitStack() as clients:

        async def make(url: str) -> User:
            http = await clients.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=30))
            email = f"{uuid4().hex}@example.com"
            account = await http.post("/api/auth/signup", json={"email": email, "password": PASSWORD})
            assert account.status_code == 201, account.text
            tokens = await http.post("/api/token/", json={"username": email, "password": PASSWORD})
            assert tokens.status_code == 200, tokens.text
            http.headers["Authorization"] = f"Bearer {tokens.json()['access']}"
            return User(account.json()["id"], email, PASSWORD, http)

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def user(running: Stack, sign_up: SignUp) -> User:
    """A new user of the running system."""
    return await sign_up(running.url)


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(running: Stack, sign_up: SignUp) -> User:
    """Another one, who has nothing to do with `user`."""
    return await sign_up(running.url)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def owner(running: Stack, sign_up: SignUp) -> User:
    """A user who has a contact, a script, and a call that went well and is settled."""
    user = await sign_up(running.url)
    script = await user.made("/api/scripts/", name="Sales Pitch", call_goals=["Qualify lead"])
    call = await user.place_call("00", script_id=script["id"])
    await user.wait_for(call, lambda call: is_over(call) and call["cost"] is not None)
    return user


@pytest_asyncio.fixture(loop_scope="session")
async def ids(owner: User) -> AsyncGenerator[dict[str, str]]:
    """The ids of what the owner has. After the test the owner must have the same, unchanged."""
    before = await owner.everything()
    found = {"contact_id": before["/api/contacts/"][0]["id"], "script_id": before["/api/scripts/"][0]["id"]}
    yield found | {"call_id": before["/api/calls/"]["data"][0]["id"]}
    assert await owner.everything() == before


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def document(running: Stack) -> Json:
    """What /openapi.json says."""
    async with httpx2.AsyncClient(base_url=running.url) as http:
        return (await http.get("/openapi.json")).json()
