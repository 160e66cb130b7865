"""Where the provider is told to report to, and how it is to prove itself there."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from boostedcalls.calls import dispatch
from boostedcalls.common.context import caller

from .conftest import SECRET, Make
from .provider import Provider

URL = "https://calls.example.com/api/calls/webhook/"
CREDENTIAL = {"credentialId": "credential"}
HEADER = {"headers": {"x-vapi-secret": "0123456789abcdef"}}
SETTINGS = {"vapi_webhook_url": URL}
BY_SECRET = {"vapi_webhook_secret": "0123456789abcdef"}
BY_CREDENTIAL = {"vapi_webhook_credential_id": "credential"}


@pytest.mark.parametrize(
    ("settings", "proof"),
    [
        (SETTINGS | BY_SECRET, HEADER),
        (SETTINGS | BY_CREDENTIAL, CREDENTIAL),
        (SETTINGS | BY_SECRET | BY_CREDENTIAL, CREDENTIAL),
        (SETTINGS, None),
        (BY_SECRET | BY_CREDENTIAL, None),
        ({}, None),
    ],
)
async def test_a_call_names_our_server_only_together_with_a_proof(
    make_world: Make, provider: Provider, user_id: UUID, settings: dict[str, str], proof: dict[str, Any] | None
) -> None:
    world = await make_world(vapi_base_url=provider.url, **settings)
    row = await world.insert(user_id)
    await dispatch.dispatch(world.deps, caller(user_id), row["id"])
    (call,) = provider.calls.values()
    server = call["assistantOverrides"].get("server")
    if proof is None:
        # The one of the saved assistant stays as it is.
        assert "server" not in call["assistantOverrides"]
    else:
        plan = {"type": "exponential", "maxRetries": 10, "baseDelaySeconds": 10}
        assert server == {"url": URL, "timeoutSeconds": 20, "backoffPlan": plan, **proof}


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        (SETTINGS, 1),
        (SETTINGS | BY_SECRET, 0),
        (SETTINGS | BY_CREDENTIAL, 0),
        ({}, 0),
    ],
)
async def test_a_webhook_address_without_a_proof_is_one_warning_at_the_start(
    make_world: Make, nats_server: Any, tmp_path: Path, settings: dict[str, str], warnings: int
) -> None:
    world = await make_world()
    environment = {
        "PATH": os.environ["PATH"],
        "NATS_URL": nats_server.url,
        "DATABASE_URL": world.dsn,
        "VAPI_API_KEY": "key",
        "CALL_SIGNING_SECRET": SECRET,
        "HEALTH_HOST": "127.0.0.1",
        "HEALTH_PORT": "0",
        **{name.upper(): value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "boostedcalls.calls"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=tmp_path, stderr=pipe)
    assert process.stderr
    try:
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != "ready":
            found.append(json.loads(await process.stderr.readline()))
    finally:
        process.terminate()
        await process.communicate()
    warned = [line for line in found if line["event"] == "webhook_without_proof"]
    assert [line["level"] for line in warned] == ["warning"] * warnings
