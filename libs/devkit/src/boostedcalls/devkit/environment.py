"""What `make run` tells its processes: the caller's environment and `.env`, kept secrets, and what to start at all.

Owns the files `secrets.json` and `env` of the home folder, both readable by their owner only. `env` exists while a
`make run` does: it lets `make user`, `make migrate` and `make sync-stale` reach the same servers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from boostedcalls.devkit.credentials import new_database_passwords, new_secrets
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.folder import in_use, private_folder, write_private
from boostedcalls.devkit.servers import NATS_USERS, nats_passwords, nats_variable
from boostedcalls.devkit.stack import EVERYTHING

DEFAULT_PORT = 8000
# Lost webhooks are part of the demonstration; with the usual steps a minute would pass before they show.
_DEMO_STEPS = {"SYNC_STEPS": "5,15,60", "RECONCILE_STEPS": "5,10,20,60"}


def given(folder: Path) -> dict[str, str]:
    """The caller's environment over the `.env` of `folder`; empty values count as absent."""
    dotenv = dotenv_values(folder / ".env")
    return {name: value for name, value in {**dotenv, **os.environ}.items() if value}


def home_folder(env: Mapping[str, str], checkout: Path) -> Path:
    """Where data and logs live: BOOSTEDCALLS_HOME, or `.run` in the checkout."""
    return Path(env.get("BOOSTEDCALLS_HOME") or checkout / ".run").absolute()


def gateway_port(env: Mapping[str, str]) -> int:
    """PORT. Raises DevkitError when that is no port."""
    text = env.get("PORT", str(DEFAULT_PORT))
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise DevkitError(f"PORT={text}: not a port number")
    return int(text)


def setting_names(checkout: Path) -> set[str]:
    """Every variable that our processes read, as `.env.example` lists them."""
    return set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", (checkout / ".env.example").read_text(), re.MULTILINE))


def parts(env: Mapping[str, str]) -> list[str]:
    """What to start: everything that the environment does not name a real one for."""
    external = {
        "nats": "NATS_URL" in env,
        "postgres": "DATABASE_URL" in env or "DB_HOST" in env,
        "simulator": "VAPI_API_KEY" in env,
    }
    return [part for part in EVERYTHING if not external.get(part, False)]


def kept_secrets(home: Path) -> dict[str, str]:
    """The secrets of this home, made on its first start. Raises DevkitError when the file is damaged."""
    path = private_folder(home, passable=True) / "secrets.json"
    try:
        kept: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        kept = {}
    except ValueError:
        raise DevkitError(f"{path} is not valid JSON; restore it, or delete it to get new secrets") from None
    wanted = new_secrets() | new_database_passwords()
    wanted |= {nats_variable(user): password for user, password in nats_passwords().items()}
    if not wanted.keys() <= kept.keys():
        kept = {**wanted, **kept}
        write_private(path, json.dumps(kept, indent=2) + "\n")
    return kept


def service_environment(env: Mapping[str, str], kept: Mapping[str, str], wanted: list[str]) -> dict[str, str]:
    """The variables for the services: what the caller gave wins over kept secrets and demo settings."""
    made = {name: value for name, value in kept.items() if "nats" in wanted or not name.startswith("NATS_")}
    if "postgres" not in wanted:
        # Roles belong to a whole server: those of another's are made when the caller asks for them.
        made = {name: value for name, value in made.items() if name not in new_database_passwords()}
    if "simulator" in wanted:
        made |= _DEMO_STEPS
    return {**made, **{name: value for name, value in env.items() if name != "PORT"}}


def nats_users(env: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
    """The password of each user of the NATS server that is started: given ones before kept ones."""
    return {user: env.get(nats_variable(user), kept[nats_variable(user)]) for user in NATS_USERS}


def write_running(home: Path, env: Mapping[str, str], known: set[str]) -> None:
    """Leave the settings (`known` names) of this run for other commands; a shell can read the file too."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(env.items()) if name in known]
    write_private(home / "env", "".join(lines))


def forget_running(home: Path) -> None:
    (home / "env").unlink(missing_ok=True)


def running(home: Path) -> dict[str, str] | None:
    """The settings of the `make run` that uses this home now; None when there is none."""
    path = home / "env"
    if not path.exists() or not in_use(home):
        return None
    return dict(item.split("=", 1) for item in shlex.split(path.read_text()))
