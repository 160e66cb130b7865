"""docker-compose.yml, read as the file it is: no engine is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import yaml

from boostedcalls.calls.settings import CallsNats, CallsSettings, ProviderSettings
from boostedcalls.common.bus.settings import AdminSettings
from boostedcalls.common.db import DatabaseSettings
from boostedcalls.contacts.__main__ import ContactsNats
from boostedcalls.devkit.environment import setting_names
from boostedcalls.devkit.servers import NATS_USERS, nats_variable
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.webhooks.__main__ import WebhooksNats

CHECKOUT = Path(__file__).resolve().parents[1]
TEXT = (CHECKOUT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
ONCE = {"migrate", "streams", "demo-user"}
BY_HAND = {"operator"}
OURS = {"gateway", "contacts", "calls", "webhooks", "simulator"}
PASSWORD = re.compile(r"(?:NATS|DB)_([A-Z]+)_PASSWORD")
OWN = {
    "nats": set(NATS_USERS),
    "streams": {"admin"},
    "operator": {"admin", "calls"},
    "demo-user": {"gateway"},
    "migrate": {"gateway", "contacts", "calls"},
}
DB_PASSWORDS = {
    name.removeprefix("DEMO_"): value
    for name, value in SERVICES["migrate"]["environment"].items()
    if name.startswith("DEMO_DB_")
}


def test_it_runs_the_two_servers_the_five_processes_and_what_runs_once():
    assert SERVICES.keys() == {"nats", "postgres"} | OURS | ONCE | BY_HAND


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - BY_HAND))
def test_a_service_has_a_health_check_and_a_restart_policy_or_runs_once(name):
    service = SERVICES[name]
    assert ("healthcheck" in service) == (name not in ONCE)
    assert service["restart"] == ("on-failure" if name in ONCE else "unless-stopped")
    assert "stop_grace_period" in service


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_what_it_needs_is_healthy_or_done(name):
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert how["condition"] == wanted, needed


@pytest.mark.parametrize("name", ["gateway", "contacts", "calls"])
def test_a_service_with_a_database_waits_for_the_migration(name):
    assert "migrate" in SERVICES[name]["depends_on"]


def test_only_the_gateway_publishes_a_port_and_only_on_loopback_unless_told():
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"gateway"}
    assert SERVICES["gateway"]["ports"] == ["${PUBLISH_ADDRESS:-127.0.0.1}:${PORT:-8000}:8000"]


@pytest.mark.parametrize("name", sorted(OURS | ONCE | BY_HAND))
def test_our_processes_share_one_image_and_have_no_privileges(name):
    service = SERVICES[name]
    assert service["image"] == "boostedcalls"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER 10001", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)


def test_every_variable_has_a_default_and_is_in_the_example():
    used = re.findall(r"(?<!\$)\$\{?([A-Z][A-Z0-9_]*)(:[-+])?", TEXT)
    assert {name for name, _ in used} <= setting_names(CHECKOUT)
    assert {default for _, default in used} == {":-", ":+"}


def test_secrets_have_defaults_that_say_what_they_are_and_are_long_enough():
    secrets = dict(re.findall(r"\$\{([A-Z_]*(?:SECRET|PASSWORD)):-([^}]+)\}", TEXT))
    assert secrets.keys() >= {
        "JWT_SECRET",
        "CALL_SIGNING_SECRET",
        "VAPI_WEBHOOK_SECRET",
        "DB_PASSWORD",
        *(nats_variable(user) for user in NATS_USERS if user not in ("subscriber", "system")),
    }
    assert all(value.startswith("demo-only-") for value in secrets.values())
    assert all(len(secrets[name]) >= 32 for name in ("JWT_SECRET", "CALL_SIGNING_SECRET"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gateway", (GatewaySettings,)),
        ("calls", (CallsSettings, ProviderSettings, DatabaseSettings, CallsNats)),
        ("contacts", (DatabaseSettings, ContactsNats)),
        ("webhooks", (WebhooksNats,)),
        ("streams", (AdminSettings,)),
        ("migrate", (DatabaseSettings,)),
    ],
)
def test_a_setting_given_to_compose_reaches_the_service(name, settings):
    wanted = {field.upper() for cls in settings for field in cls.model_fields}
    if name != "migrate":
        wanted -= DB_PASSWORDS.keys() - {f"DB_{name.upper()}_PASSWORD"}
    assert wanted <= SERVICES[name]["environment"].keys()


@pytest.mark.parametrize("name", sorted(OURS | {"demo-user"}))
def test_a_service_is_given_no_other_login_to_the_database_than_its_own(name, attacks):
    given = SERVICES[name]["environment"]
    own = {"demo-user": "gateway"}.get(name, name)
    assert {variable for variable in DB_PASSWORDS if variable in given} <= {f"DB_{own.upper()}_PASSWORD"}
    # The owner's only where the database is elsewhere, and then none that stands here.
    assert given.get("DB_USER", "${DB_HOST:+${DB_USER:-postgres}}") == "${DB_HOST:+${DB_USER:-postgres}}"
    assert given.get("DB_PASSWORD", "${DB_HOST:+${DB_PASSWORD:-}}") == "${DB_HOST:+${DB_PASSWORD:-}}"
    attacks("Postgres: another's login", 3)


@pytest.mark.parametrize("name", ["migrate", "gateway", "contacts", "calls"])
def test_the_passwords_that_stand_there_are_for_the_postgres_that_stands_there_alone(name):
    given = {key: value for key, value in SERVICES[name]["environment"].items() if key.startswith("DEMO_DB_")}
    assert len(given) == (3 if name == "migrate" else 1)
    for key, demo in given.items():
        variable = key.removeprefix("DEMO_")
        assert demo.startswith("demo-only-")
        assert DB_PASSWORDS[variable] == demo
        assert entrypoint("printenv", variable, **given, **{variable: ""}).stdout == f"{demo}\n"
        assert entrypoint("printenv", variable, **given, **{variable: "mine"}).stdout == "mine\n"
        elsewhere = {"DATABASE_ELSEWHERE": "yes", variable: ""}
        assert entrypoint("printenv", variable, **given, **elsewhere).stdout == "\n"


def entrypoint(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the image's command with this environment's Python instead of the image's."""
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["/bin/sh", CHECKOUT / "scripts" / "entrypoint", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_simulator_stands_in_until_there_is_a_key():
    compose = SERVICES["calls"]["environment"]
    names = ("SIMULATOR_URL", "SIMULATOR_WEBHOOK_URL", "SIMULATOR_WEBHOOK_SECRET")
    simulator = {name: compose[name] for name in names}
    empty = {"VAPI_API_KEY": "", "VAPI_BASE_URL": ""}
    assert entrypoint("printenv", "VAPI_BASE_URL", **simulator, **empty).stdout == "http://simulator:8090\n"
    assert entrypoint("printenv", "VAPI_BASE_URL", **simulator, **empty | {"VAPI_API_KEY": "real"}).stdout == "\n"


async def test_migrate_brings_up_every_schema(database):
    dsn = await database()
    for _ in range(2):
        done = entrypoint("migrate", DATABASE_URL=dsn)
        assert done.returncode == 0, done.stderr
    connection = await asyncpg.connect(dsn)
    schemas = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname IN ('auth', 'contacts', 'calls')")
    await connection.close()
    assert len(schemas) == 3


def test_a_service_that_lacks_a_secret_says_so_and_ends():
    done = entrypoint(PORT="8080")
    assert done.returncode == 2
    assert "JWT_SECRET: is missing" in done.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_process_gets_no_password_but_its_own(name):
    """Whoever breaks into one must not find the keys of the others."""
    found = {match[1].lower() for match in map(PASSWORD.fullmatch, SERVICES[name].get("environment", {})) if match}
    assert found <= OWN.get(name, {name}), found


@pytest.mark.parametrize("name", ["JWT_SECRET", "CALL_SIGNING_SECRET", "VAPI_WEBHOOK_SECRET"])
@pytest.mark.parametrize("real", [{"VAPI_API_KEY": "real"}, {"CALLS_ARE_REAL": "yes"}], ids=str)
def test_where_calls_are_real_nothing_starts_with_a_secret_that_stands_there(name, real):
    done = entrypoint("true", **{name: "demo-only-anything"}, **real)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"cannot start: {name} is the one that everybody knows" in done.stderr
    assert entrypoint("true", **{name: "demo-only-anything"}).returncode == 0
    assert entrypoint("true", **{name: "my own"}, **real).returncode == 0


def test_the_gateway_is_told_whether_calls_are_real():
    assert SERVICES["gateway"]["environment"]["CALLS_ARE_REAL"] == "${VAPI_API_KEY:+yes}"
