"""The demonstration data of `make run`: one user, a few contacts whose numbers the simulator knows, one script.

Made through the public REST API, like anybody's data; only the user comes from the gateway's command line.
"""

from __future__ import annotations

import secrets
from typing import Any

import httpx2

from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.stack import Stack

EMAIL = "demo@example.com"
PASSWORD = "demo-password-1"  # noqa: S105 - printed on every start, for a server on loopback
_CONTACTS = {
    "+12025550100": "Ada Answers",
    "+12025550101": "Ben Busy",
    "+12025550102": "Nora No-Answer",
    "+12025550103": "Vic Voicemail",
    "+12025550105": "Tessa Talks-Until-Told",
    "+12025550110": "Lou Lost-Webhooks",
}
_SCRIPT: dict[str, Any] = {
    "name": "Appointment reminder",
    "description": "Reminds of tomorrow's appointment and asks whether it stands",
    "custom_prompt": "You remind people of an appointment tomorrow at ten. Be brief and friendly.",
    "first_message": "Hello, this is a reminder of your appointment tomorrow at ten. Does it still suit you?",
    "call_goals": ["Confirm the appointment"],
}


async def prepare(stack: Stack) -> str:
    """See to the demo user and its data; return the id of the contact who answers.

    Raises DevkitError when the demo user cannot log in, for instance because its password was changed.
    """
    async with httpx2.AsyncClient(base_url=stack.url, timeout=20) as client:
        token = await _log_in(client)
        if token is None:
            code, words = await stack.command("gateway", "user", "add", EMAIL, "--password", PASSWORD)
            if code != 0:
                # It is there from before, and was locked while calls were real.
                code, words = await stack.command("gateway", "user", "password", EMAIL, "--password", PASSWORD)
            token = await _log_in(client)
            if token is None:
                raise DevkitError(f"the demo user cannot log in (user add: exit code {code}, {words})")
        client.headers["Authorization"] = f"Bearer {token}"
        contacts = await _get(client, "/api/contacts/")
        if not contacts:
            for phone, name in _CONTACTS.items():
                contacts.append(await _post(client, "/api/contacts/", {"name": name, "phone": phone}))
            await _post(client, "/api/scripts/", _SCRIPT)
    return next((contact["id"] for contact in contacts if contact["phone"] in _CONTACTS), contacts[0]["id"])


async def lock(stack: Stack) -> None:
    """Shut the door whose key is in the README, where calls are real: an unknown password, all sessions ended."""
    await stack.command("gateway", "user", "password", EMAIL, "--password", secrets.token_urlsafe(24), "--if-exists")


async def _log_in(client: httpx2.AsyncClient) -> str | None:
    answer = await client.post("/api/token/", json={"username": EMAIL, "password": PASSWORD})
    return answer.json()["access"] if answer.status_code == 200 else None


async def _get(client: httpx2.AsyncClient, path: str) -> list[Any]:
    answer = await client.get(path)
    return answer.raise_for_status().json()


async def _post(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    return answer.raise_for_status().json()


def curl(url: str, contact_id: str) -> str:
    """One line for a shell that logs in and places a call."""
    login = f'{{"username":"{EMAIL}","password":"{PASSWORD}"}}'
    token = (
        f"curl -s {url}/api/token/ -H 'Content-Type: application/json' -d '{login}'"
        r""" | sed 's/.*"access": *"\([^"]*\)".*/\1/'"""
    )
    return (
        f'curl -s {url}/api/calls/ -H "Authorization: Bearer $({token})"'
        f""" -H 'Content-Type: application/json' -d '{{"contact_id":"{contact_id}"}}'"""
    )
