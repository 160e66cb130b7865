"""The supervisor, with the embedded servers alone: what it starts, what it starts again, what it says."""

import json
import signal
import stat
import sys

import asyncpg
import pytest

from boostedcalls.devkit import environment
from boostedcalls.devkit.child import Child, until_ready
from boostedcalls.devkit.console import Console
from boostedcalls.devkit.credentials import new_database_passwords
from boostedcalls.devkit.errors import ChildDied, DevkitError
from boostedcalls.devkit.net import http_status, reserved_port
from boostedcalls.devkit.stack import Stack

SERVERS_ONLY = {"parts": ("nats", "postgres"), "durable": False}


async def test_what_dies_is_started_again_and_it_is_said(tmp_path):
    said = []
    async with Stack(tmp_path, **SERVERS_ONLY, say=said.append) as stack:
        for name in ("nats", "postgres"):
            before = stack.member(name).server.child.pid
            await stack.kill(name)
            await stack.wait_until_restarted(name)
            assert stack.member(name).server.child.pid != before
        connection = await asyncpg.connect(stack.database_url)
        await connection.close()
    assert "nats was killed by SIGKILL; starting it again in 0.5 s" in said
    assert "postgres is back" in said


async def test_what_was_stopped_on_purpose_stays_stopped_until_it_is_started(tmp_path):
    async with Stack(tmp_path, **SERVERS_ONLY) as stack:
        await stack.stop("nats")
        assert not stack.member("nats").server.child.running
        await stack.start("nats")
        assert stack.member("nats").server.child.running


async def test_without_restart_the_dead_stay_dead(tmp_path):
    async with Stack(tmp_path, **SERVERS_ONLY, restart=False) as stack:
        await stack.kill("nats", number=signal.SIGTERM)
        assert not stack.member("nats").server.child.running


async def test_two_stacks_do_not_meet(tmp_path):
    async with Stack(tmp_path / "a", **SERVERS_ONLY) as first, Stack(tmp_path / "b", **SERVERS_ONLY) as second:
        assert first.nats_url != second.nats_url
        assert first.database_url != second.database_url


async def test_a_second_stack_in_the_same_home_is_refused_and_the_first_one_lives(tmp_path):
    async with Stack(tmp_path, **SERVERS_ONLY) as stack:
        with pytest.raises(DevkitError, match="in use by another instance"):
            await Stack(tmp_path, **SERVERS_ONLY).__aenter__()
        assert stack.member("nats").server.child.running


async def test_a_reserved_port_is_given_to_nobody_else_but_its_own_server_may_listen(tmp_path):
    with reserved_port() as port, reserved_port() as other:
        assert port != other
        child = Child(
            "web", [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], {}, tmp_path / "web.log"
        )

        async def ready() -> bool:
            return await http_status(port, "/") == 200

        await child.start()
        await until_ready(child, ready)
        with pytest.raises(DevkitError, match=f"port {port} is taken"), reserved_port(port):
            pass
        await child.stop()


async def test_a_process_that_ends_before_it_is_ready_is_quoted(tmp_path):
    child = Child("sad", [sys.executable, "-c", "raise SystemExit('no good')"], {}, tmp_path / "sad.log")

    async def never() -> bool:
        return False

    await child.start()
    with pytest.raises(ChildDied, match="sad ended with exit code 1: no good"):
        await until_ready(child, never)


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    lines = []
    child = Child("deaf", [sys.executable, "-c", code], {}, tmp_path / "deaf.log", sink=lines.append)

    async def heard() -> bool:
        return lines == ["deaf"]

    await child.start()
    await until_ready(child, heard)
    await child.stop(timeout=0.2)
    assert child.process.returncode == -signal.SIGKILL
    assert child.log.read_text() == "deaf\n"


def test_each_real_server_named_in_the_environment_switches_its_part_off():
    assert set(environment.parts({})) >= {"nats", "postgres", "simulator"}
    assert "nats" not in environment.parts({"NATS_URL": "nats://elsewhere"})
    assert "postgres" not in environment.parts({"DB_HOST": "elsewhere"})
    assert "postgres" not in environment.parts({"DATABASE_URL": "postgresql://elsewhere/x"})
    assert "simulator" not in environment.parts({"VAPI_API_KEY": "key"})


def test_secrets_are_made_once_and_kept_private(tmp_path):
    home = tmp_path / "home"
    first = environment.kept_secrets(home)
    assert environment.kept_secrets(home) == first
    assert all(len(value) >= 32 for value in first.values())
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600


def test_a_given_secret_wins_over_the_kept_one(tmp_path):
    kept = environment.kept_secrets(tmp_path / "home")
    env = environment.service_environment({"JWT_SECRET": "mine"}, kept, environment.parts({}))
    assert env["JWT_SECRET"] == "mine"
    assert env["CALL_SIGNING_SECRET"] == kept["CALL_SIGNING_SECRET"]


def test_a_damaged_secrets_file_is_named(tmp_path):
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(DevkitError, match=r"secrets\.json is not valid JSON"):
        environment.kept_secrets(tmp_path)


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1"])
def test_a_bad_port_is_refused(port):
    with pytest.raises(DevkitError, match="not a port number"):
        environment.gateway_port({"PORT": port})


def test_the_environment_wins_over_the_dotenv_file_and_empty_counts_as_absent(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\nNATS_URL=\nVAPI_API_KEY='from file'\n")
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.delenv("NATS_URL", raising=False)
    env = environment.given(tmp_path)
    assert (env["LOG_LEVEL"], env["VAPI_API_KEY"]) == ("ERROR", "from file")
    assert "NATS_URL" not in env


def test_settings_of_a_run_that_is_over_are_not_used(tmp_path):
    (tmp_path / "lock").touch()
    environment.write_running(tmp_path, {"NATS_URL": "nats://x y"}, {"NATS_URL"})
    assert environment.running(tmp_path) is None


async def test_settings_of_a_run_are_found_while_it_lives(tmp_path):
    from boostedcalls.devkit.folder import locked

    async with locked(tmp_path, "run"):
        environment.write_running(tmp_path, {"NATS_URL": "nats://x y", "AWS_KEY": "theirs"}, {"NATS_URL"})
        assert environment.running(tmp_path) == {"NATS_URL": "nats://x y"}
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600


def test_a_json_line_is_shown_as_text_and_anything_else_as_it_is(capsys):
    take = Console().sink("calls")
    take(json.dumps({"event": "placed", "level": "info", "timestamp": "2026-11-22T10:00:01Z", "call_id": 7}))
    take("Traceback: plain")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "calls      | 10:00:01 info    placed call_id=7"
    assert second == "calls      | Traceback: plain"


async def test_a_process_is_given_the_login_of_its_own_role_and_no_other(tmp_path):
    async with Stack(tmp_path, **SERVERS_ONLY) as stack:
        passwords = {name: value for name, value in stack.env.items() if name in new_database_passwords()}
        assert len(set(passwords.values())) == 3
        for name in ("gateway", "contacts", "calls", "webhooks", "simulator"):
            env = stack.environment(name)
            own = {f"DB_{name.upper()}_PASSWORD"} & passwords.keys()
            assert env.keys() & passwords.keys() == own
            assert "@" not in env["DATABASE_URL"]
            assert stack.environment(name, owner=True)["DATABASE_URL"] == stack.database_url


def test_kept_passwords_are_for_the_embedded_database_alone(tmp_path):
    kept = environment.kept_secrets(tmp_path / "home")
    names = new_database_passwords().keys()
    assert names <= kept.keys()
    for given, wanted in (({}, set(names)), ({"DB_HOST": "elsewhere"}, set())):
        env = environment.service_environment(given, kept, environment.parts(given))
        assert env.keys() & names == wanted
    mine = {"DB_HOST": "elsewhere", "DB_CALLS_PASSWORD": "mine"}
    assert environment.service_environment(mine, kept, environment.parts(mine))["DB_CALLS_PASSWORD"] == "mine"
