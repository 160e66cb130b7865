"""What `make run` starts: ready with a working curl line, started again, stopped in order, killed without a trace."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from boostedcalls.devkit.procs import alive, descendants, until_gone

CHECKOUT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


class Running:
    """A supervisor with a home of its own."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path, env: dict[str, str]) -> None:
        self.process = process
        self.output = output
        self.env = env

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.env['PORT']}"

    @property
    def curl(self) -> str:
        return next(line for line in self.text.splitlines() if line.startswith("curl "))

    async def says(self, pattern: str, timeout: float = 60) -> None:
        async with asyncio.timeout(timeout):
            while not re.search(pattern, self.text):
                assert self.process.returncode is None, self.text
                await asyncio.sleep(0.05)

    async def end(self, number: int) -> int:
        """Send a signal; return the exit code. Nothing of it may be left."""
        family = descendants(self.process.pid)
        self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), 60)
        assert await until_gone(family) == set()
        return code


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        # It was one of the short-lived ones.
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(home: Path, port: int) -> dict[str, str]:
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return env | {"BOOSTEDCALLS_HOME": str(home), "PORT": str(port)}


async def devkit(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Run a devkit command to its end, in an empty folder: exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "boostedcalls.devkit",
        *arguments,
        env=env,
        cwd=Path(env["BOOSTEDCALLS_HOME"]).parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@asynccontextmanager
async def running(home: Path, port: int | None = None, **variables: str):
    env = environment(home, port or free_port()) | variables
    output = home.parent / f"{home.name}.out"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "boostedcalls.devkit", "run", env=env, cwd=home.parent, stdout=file, stderr=file
        )
    run = Running(process, output, env)
    try:
        await run.says("Ctrl-C stops everything")
        yield run
    finally:
        if process.returncode is None:
            await run.end(signal.SIGKILL)


async def paste(line: str) -> dict:
    """Run a line as a person would: in a shell."""
    shell = await asyncio.create_subprocess_exec("sh", "-c", line, stdout=asyncio.subprocess.PIPE)
    output, _ = await shell.communicate()
    return json.loads(output)


async def test_the_printed_curl_line_places_a_call_and_a_second_start_keeps_it(tmp_path):
    home = tmp_path / "home"
    async with running(home) as run:
        placed = await paste(run.curl)
        assert (placed["contact"]["name"], placed["contact"]["phone"]) == ("Ada Answers", "+12025550100")
        assert await run.end(signal.SIGINT) == 0
        first = run.curl
    async with running(home, int(run.env["PORT"])) as run:
        assert run.curl == first
        async with httpx2.AsyncClient(base_url=run.url) as client:
            login = {"username": "demo@example.com", "password": "demo-password-1"}
            token = (await client.post("/api/token/", json=login)).json()["access"]
            client.headers["Authorization"] = f"Bearer {token}"
            assert [call["id"] for call in (await client.get("/api/calls/")).json()["data"]] == [placed["id"]]
            assert len((await client.get("/api/contacts/")).json()) == 6
            assert len((await client.get("/api/scripts/")).json()) == 1
        assert await run.end(signal.SIGTERM) == 0
    assert not (home / "env").exists()


async def test_two_at_once_do_not_meet_and_kill_9_leaves_nothing_of_the_one_and_all_of_the_other(tmp_path):
    async with running(tmp_path / "a") as first, running(tmp_path / "b") as second:
        assert (await paste(first.curl))["contact_id"] in first.curl
        assert (await paste(second.curl))["contact_id"] in second.curl
        others = descendants(second.process.pid)
        assert await first.end(signal.SIGKILL) == -signal.SIGKILL
        assert all(alive(pid) for pid in others)
        assert (await paste(second.curl))["contact_id"] in second.curl


async def test_a_service_that_dies_is_started_again_and_it_is_said(tmp_path):
    async with running(tmp_path / "home") as run:
        for pid in descendants(run.process.pid):
            if "boostedcalls.contacts" in command_line(pid):
                os.kill(pid, signal.SIGKILL)
        await run.says("contacts was killed by SIGKILL; starting it again")
        await run.says("contacts is back")
        assert "contact_id" in await paste(run.curl)


async def log_in(run: Running) -> int:
    async with httpx2.AsyncClient(base_url=run.url) as client:
        login = {"username": "demo@example.com", "password": "demo-password-1"}
        return (await client.post("/api/token/", json=login)).status_code


async def test_the_demo_login_is_shut_while_calls_are_real_and_open_again_with_the_simulator(tmp_path):
    home = tmp_path / "home"
    async with running(home) as run:
        assert await log_in(run) == 200
        await run.end(signal.SIGTERM)
    # A key that leads nowhere: nothing is called here.
    real = {"VAPI_API_KEY": "key", "VAPI_BASE_URL": "http://127.0.0.1:9"}
    async with running(home, **real) as run:
        assert "CALLS ARE REAL" in run.text
        assert "demo-password-1" not in run.text
        assert await log_in(run) == 401
        await run.end(signal.SIGTERM)
    async with running(home) as run:
        assert await log_in(run) == 200


async def test_a_password_with_dollar_signs_reaches_the_user_as_it_was_typed(tmp_path):
    async with running(tmp_path / "home") as run:
        made = await asyncio.create_subprocess_exec(
            "make", "user", "EMAIL=pw@example.com", "PASSWORD=pa$$word-1 $x 'y\"", env=run.env, cwd=CHECKOUT
        )
        assert await made.wait() == 0
        async with httpx2.AsyncClient(base_url=run.url) as client:
            login = {"username": "pw@example.com", "password": "pa$$word-1 $x 'y\""}
            assert (await client.post("/api/token/", json=login)).status_code == 200


async def test_password_given_to_make_in_the_environment_is_in_no_command_line(tmp_path):
    secret = "never-shown-password-1"
    async with running(tmp_path / "home") as run:
        seen = set()
        for command in ("user", "password"):
            made = await asyncio.create_subprocess_exec(
                "make", command, "EMAIL=quiet@example.com", env={**run.env, "PASSWORD": secret}, cwd=CHECKOUT
            )
            ended = asyncio.create_task(made.wait())
            while not ended.done():
                seen |= {command_line(pid) for pid in (made.pid, *descendants(made.pid))}
                await asyncio.wait([ended], timeout=0.01)
            assert await ended == 0
        # Looked at often enough to have seen the command itself.
        assert any("quiet@example.com" in line and "boostedcalls" in line for line in seen)
        assert not [line for line in seen if secret in line]
        async with httpx2.AsyncClient(base_url=run.url) as client:
            login = {"username": "quiet@example.com", "password": secret}
            assert (await client.post("/api/token/", json=login)).status_code == 200


async def make(env, *arguments):
    """Run make; its exit code and what it printed."""
    found = await asyncio.create_subprocess_exec(
        "make", *arguments, env=env, cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await found.communicate()
    return found.returncode, output.decode()


async def test_password_and_keys_are_changed_with_make_while_it_runs(tmp_path):
    home, path = tmp_path / "home", tmp_path / "keys.json"
    env = environment(home, free_port())
    assert (await make(env, "keys"))[0] != 0
    keys = {"JWT_KEYS_FILE": str(path)}
    code, output = await make({**env, **keys}, "keys", "ARGS=add --alg EdDSA")
    assert code == 0, output
    async with running(home, **keys) as run:
        code, output = await make(run.env, "password", "EMAIL=demo@example.com", "PASSWORD=pa$$word-1 $x 'y\"")
        assert (code, "sessions ended" in output) == (0, True), output
        async with httpx2.AsyncClient(base_url=run.url) as client:
            login = {"username": "demo@example.com", "password": "pa$$word-1 $x 'y\""}
            tokens = (await client.post("/api/token/", json=login)).json()
            headers = {"Authorization": f"Bearer {tokens['access']}"}
            assert (await client.get("/api/contacts/", headers=headers)).status_code == 200
        code, output = await make(run.env, "keys", "ARGS=add")
        assert (code, len(json.loads(path.read_text())["keys"])) == (0, 2), output


async def test_commands_without_a_running_system_and_without_a_database_say_so(tmp_path):
    code, output = await devkit("exec", "contacts", "migrate", env=environment(tmp_path / "home", free_port()))
    assert (code, output.count("\n")) == (1, 1)
    assert "set DATABASE_URL" in output


async def test_commands_reach_the_servers_of_the_running_one(tmp_path):
    async with running(tmp_path / "home") as run:
        arguments = ("exec", "gateway", "user", "add", "second@example.com", "--password", "a-long-password-2")
        assert (await devkit(*arguments, env=run.env))[0] == 0
        login = {"username": "second@example.com", "password": "a-long-password-2"}
        async with httpx2.AsyncClient(base_url=run.url) as client:
            assert (await client.post("/api/token/", json=login)).status_code == 200
        assert (await devkit("exec", "calls", "sync-stale", env=run.env))[0] == 0
        assert (await devkit("exec", "contacts", "migrate", env=run.env))[0] == 0


async def test_a_taken_port_and_a_taken_home_are_said_in_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output = await devkit("run", env=environment(tmp_path / "home", port))
    assert (code, output) == (1, f"port {port} is taken; choose another one with PORT={port + 1}\n")
    async with running(tmp_path / "home") as run:
        code, output = await devkit("run", env={**run.env, "PORT": str(free_port())})
        assert (code, output.count("\n")) == (1, 1)
        assert "in use by another instance" in output


async def test_servers_named_in_the_environment_are_used(tmp_path, nats_server, database):
    home = tmp_path / "home"
    env = environment(home, free_port()) | {"NATS_URL": nats_server.url, "DATABASE_URL": await database()}
    output = tmp_path / "out"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "boostedcalls.devkit", env=env, cwd=tmp_path, stdout=file, stderr=file
        )
    run = Running(process, output, env)
    try:
        await run.says("Ctrl-C stops everything")
        assert "contact_id" in await paste(run.curl)
        assert not (home / "nats").exists()
        assert not (home / "postgres").exists()
    finally:
        assert await run.end(signal.SIGTERM) == 0
