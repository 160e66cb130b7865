"""The variables of a system, secrets among them, and which of them a process is given: its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from boostedcalls.devkit.net import HOST
from boostedcalls.devkit.servers import NATS_USERS, Server, nats_variable

SCHEMAS = {"gateway": "auth", "contacts": "contacts", "calls": "calls"}
"""Whose schema is which."""
WITH_MIGRATIONS = tuple(SCHEMAS)
_OWNERS = ("DB_USER", "DB_PASSWORD")


def new_secrets() -> dict[str, str]:
    """Fresh values for every secret our processes want."""
    names = ("JWT_SECRET", "VAPI_WEBHOOK_SECRET", "CALL_SIGNING_SECRET")
    return {name: secrets.token_hex(32) for name in names}


def password_variable(service: str) -> str:
    """The variable that holds the password of the service's own role in the database."""
    return f"DB_{service.upper()}_PASSWORD"


def new_database_passwords() -> dict[str, str]:
    """A fresh password for each service's role."""
    return {password_variable(name): secrets.token_hex(16) for name in WITH_MIGRATIONS}


def new_environment(nats: Server | None, postgres: Server | None) -> dict[str, str]:
    """What all services of a system are given: fresh secrets, and the way to the servers that are its own."""
    # What a process needs of this machine, and nothing that could be one of our settings.
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM")
    env = {name: value for name, value in os.environ.items() if name in kept or name.startswith(("PYTHON", "SSL_"))}
    env |= {"HOST": HOST, "HEALTH_HOST": HOST, "OPERATIONS_HOST": HOST, **new_secrets()}
    if nats is not None:
        env["NATS_URL"] = f"nats://{HOST}:{nats.port}"
        env |= {nats_variable(user): password for user, password in nats.passwords.items()}
    if postgres is not None:
        env |= {"DATABASE_URL": postgres.url, **new_database_passwords()}
    return env


def beside_simulator(url: str, port: int, data: Path) -> dict[str, str]:
    """What makes the simulator the provider."""
    return {
        "VAPI_BASE_URL": url,
        "VAPI_API_KEY": "simulator",
        "VAPI_ASSISTANT_ID": "demo-assistant",
        "VAPI_PHONE_NUMBER_ID": "demo-phone-number",
        # Nobody's telephone rings.
        "CREATE_CALLS_PER_MINUTE": "0",
        "NUMBER_COOLDOWN": "0",
        "SIMULATOR_HOST": HOST,
        "SIMULATOR_PORT": str(port),
        "SIMULATOR_DATA": str(data),
    }


def own_variables(given: Mapping[str, str], name: str, *, owner: bool, operator: bool) -> dict[str, str]:
    """The variables of a service's processes, out of an operator's: with its own login to the database, and the owner's
    for `owner` or where it has none of its own; with its own login to NATS, and everybody's for `operator`."""
    own = password_variable(name)
    passwords = {password_variable(each) for each in WITH_MIGRATIONS} - {own}
    if not operator:
        passwords |= {nats_variable(user) for user in NATS_USERS if user != name}
    env = {variable: value for variable, value in given.items() if variable not in passwords}
    if not owner and (own in env or name not in WITH_MIGRATIONS):
        env = {variable: value for variable, value in env.items() if variable not in _OWNERS}
        if "DATABASE_URL" in env:
            url = urlsplit(env["DATABASE_URL"])
            env["DATABASE_URL"] = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    return env
