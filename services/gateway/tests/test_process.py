"""The process and its commands, run as an operator runs them."""

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from contextlib import asynccontextmanager
from importlib import resources
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.gateway.segment import decode

PYTHON = [sys.executable, "-m", "boostedcalls.gateway"]
PASSWORD = "a good password"


@pytest.fixture
def environment(dsn, nats_server, tmp_path):
    """Nothing of the developer's own environment, and no `.env`."""
    return {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "DATABASE_URL": dsn,
        "NATS_URL": nats_server.url,
        "JWT_SECRET": "a-jwt-secret-of-more-than-32-bytes",
        "VAPI_WEBHOOK_SECRET": "a-webhook-secret",
        "HOST": "127.0.0.1",
        "PORT": "0",
    }


@asynccontextmanager
async def process(environment, *arguments, prefix=()):
    found = await asyncio.create_subprocess_exec(
        *prefix,
        *PYTHON,
        *arguments,
        env=environment,
        cwd=environment["HOME"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield found
    finally:
        if found.returncode is None:
            found.kill()
        await found.communicate()


async def run(environment, *arguments):
    async with process(environment, *arguments) as found:
        out, err = await found.communicate()
        return found.returncode, out.decode(), err.decode()


async def until(found, event):
    """The log line with this event."""
    async for line in found.stderr:
        entry = json.loads(line)
        if entry["event"] == event:
            return entry
    raise AssertionError(f"the process ended without {event}")


async def log_in(dsn_user, password, gateway):
    return await gateway.client.post("/api/token/", json={"username": dsn_user, "password": password})


async def test_process_serves_and_ends_in_order_at_sigterm(environment):
    async with process(environment) as found:
        address = (await until(found, "listening"))["address"]
        await until(found, "ready")
        canary = "canary-3f1d2f0c"
        async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
            assert (await client.get("/readyz")).json() == {"nats": True, "database": True}
            path = f"/api/contacts/{uuid4()}"
            answer = await client.get(path, params={"q": canary}, headers={"Authorization": f"Bearer {canary}"})
            assert answer.status_code == 401
            body = {"username": f"{canary}@example.com", "password": canary}
            assert (await client.post("/api/token/", json=body)).status_code == 401
        found.send_signal(signal.SIGTERM)
        _, err = await found.communicate()
        assert found.returncode == 0
        lines = [json.loads(line) for line in err.decode().splitlines()]
        requests = [line for line in lines if line["event"] == "request"]
        assert [(line["method"], line["route"], line["status"]) for line in requests] == [
            ("GET", "/readyz", 200),
            ("GET", "/api/contacts/{contact_id}/", 401),
            ("POST", "/api/token/", 401),
        ]
        assert requests[1]["request_id"] == answer.headers["x-request-id"]
        assert all(line["ms"] >= 0 for line in requests)
        assert canary not in err.decode()
        assert lines[-1]["event"] == "stopping"


async def test_request_at_hand_is_answered_before_the_process_ends(environment, nats_server, silent_peer):
    async with process(environment) as found, silent_peer(nats_server.url, INGEST_WEBHOOK) as asked:
        address = (await until(found, "listening"))["address"]
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
            headers = {"x-vapi-secret": environment["VAPI_WEBHOOK_SECRET"]}
            waiting = asyncio.create_task(client.post("/api/calls/webhook/", content=b"{}", headers=headers))
            await asked.wait()
            found.send_signal(signal.SIGTERM)
            assert (await waiting).status_code == 503
        assert await found.wait() == 0


async def test_webhook_at_hand_is_in_the_spool_before_the_process_ends(environment, nats_server, silent_peer, tmp_path):
    environment = {**environment, "SPOOL_DIR": str(tmp_path / "spool")}
    async with process(environment) as found, silent_peer(nats_server.url, INGEST_WEBHOOK) as asked:
        address = (await until(found, "listening"))["address"]
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
            headers = {"x-vapi-secret": environment["VAPI_WEBHOOK_SECRET"]}
            waiting = asyncio.create_task(client.post("/api/calls/webhook/", content=b"at hand", headers=headers))
            await asked.wait()
            found.send_signal(signal.SIGTERM)
            assert (await waiting).headers["x-stored"] == "spool"
        assert await found.wait() == 0
    [segment] = (tmp_path / "spool").iterdir()
    assert [record.body for record in decode(segment.read_bytes()).records] == [b"at hand"]


async def test_taken_port_is_one_clear_line(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = await run({**environment, "PORT": str(port)})
    assert code == 1
    (line,) = err.splitlines()
    assert f"port {port} on 127.0.0.1" in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"JWT_SECRET": ""}, "JWT_SECRET: is missing"),
        ({"JWT_SECRET": "short"}, "JWT_SECRET: needs at least 32 bytes"),
        (
            {"VAPI_WEBHOOK_SECRET": ""},
            "VAPI_WEBHOOK_SECRET: is missing, and neither is there VAPI_WEBHOOK_HMAC_SECRET or",
        ),
        ({"VAPI_WEBHOOK_SECRET": "short"}, "VAPI_WEBHOOK_SECRET: needs at least 16 bytes"),
        ({"VAPI_WEBHOOK_SECRET_PREVIOUS": "short"}, "VAPI_WEBHOOK_SECRET_PREVIOUS: needs at least 16 bytes"),
        ({"VAPI_WEBHOOK_HMAC_SECRET": "short"}, "VAPI_WEBHOOK_HMAC_SECRET: needs at least 16 bytes"),
        (
            {"VAPI_WEBHOOK_HMAC_SECRET": "not base64 at all", "VAPI_WEBHOOK_HMAC_SECRET_IS_BASE64": "true"},
            "VAPI_WEBHOOK_HMAC_SECRET: is not base64",
        ),
        ({"VAPI_WEBHOOK_HMAC_ALGORITHM": "md5"}, "VAPI_WEBHOOK_HMAC_ALGORITHM: "),
        ({"VAPI_WEBHOOK_HMAC_SIGNATURE_HEADER": "x: y"}, "VAPI_WEBHOOK_HMAC_SIGNATURE_HEADER: "),
        ({"VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{timestamp}"}, "VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT: needs {body}, once"),
        ({"VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{timestamp}{body}"}, "needs something between two placeholders"),
        ({"VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{time}.{body}"}, "knows no {time}"),
        (
            {"VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{svix-id}.{body}"},
            "has {svix-id}, which needs VAPI_WEBHOOK_HMAC_MESSAGE_ID_HEADER",
        ),
        ({"VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{url}.{body}"}, "has {url}, which needs VAPI_WEBHOOK_URL"),
        ({"STANDARD_WEBHOOKS_SECRET": "whsec_!!"}, "STANDARD_WEBHOOKS_SECRET: is not base64"),
        ({"STANDARD_WEBHOOKS_SECRET": "whsec_c2hvcnQ="}, "STANDARD_WEBHOOKS_SECRET: needs at least 24 bytes in base64"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS: '*' is no origin"),
        ({"CORS_ORIGINS": "https://a.example,null"}, "CORS_ORIGINS: 'null' is no origin"),
        ({"CORS_ORIGINS": "https://a.example/"}, "CORS_ORIGINS: 'https://a.example/' is no origin"),
        ({"CORS_ORIGINS": "https://*.example"}, "CORS_ORIGINS: "),
        ({"CORS_ORIGINS": "ftp://a.example"}, "CORS_ORIGINS: "),
        ({"OPERATIONS_PORT": "eighty"}, "OPERATIONS_PORT: "),
        ({"PORT": "eighty"}, "PORT: "),
    ],
)
async def test_bad_setting_is_one_clear_line(environment, changes, says):
    code, _, err = await run({**environment, **changes})
    assert code == 2
    (line,) = err.splitlines()
    assert says in line
    for secret in ("short", "whsec", "at all"):
        assert secret not in line.replace(says, "")


async def test_operations_have_a_port_of_their_own_where_they_are_given_one(environment):
    changes = {"OPERATIONS_HOST": "127.0.0.1", "OPERATIONS_PORT": "0", "VAPI_WEBHOOK_SECRET": ""}
    changes |= {"STANDARD_WEBHOOKS_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    async with process({**environment, **changes}) as found:
        public = (await until(found, "listening"))["address"]
        aside = (await until(found, "listening"))["address"]
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"http://{public}/metrics")).status_code == 404
            assert "boostedcalls_http_request_seconds" in (await client.get(f"http://{aside}/metrics")).text
        found.send_signal(signal.SIGTERM)
        assert await found.wait() == 0


async def test_signature_without_a_time_is_warned_of(environment):
    changes = {"VAPI_WEBHOOK_HMAC_SECRET": "a-secret-of-16-bytes", "VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT": "{body}"}
    async with process({**environment, **changes}) as found:
        assert (await until(found, "signature_without_time"))["level"] == "warning"


async def test_user_added_on_the_command_line_can_log_in(gateway, environment):
    email = f"User-{uuid4()}@Example.com"
    code, out, err = await run(environment, "user", "add", email, "--password", PASSWORD)
    assert (code, err) == (0, "")
    assert email.lower() in out
    assert PASSWORD not in out
    assert (await log_in(email.lower(), PASSWORD, gateway)).status_code == 200


async def test_user_that_exists_is_left_as_it_is(gateway, environment):
    email = f"user-{uuid4()}@example.com"
    await run(environment, "user", "add", email, "--password", PASSWORD)
    code, out, err = await run(environment, "user", "add", email.upper(), "--password", "another password")
    assert (code, out) == (1, "")
    assert "already" in err
    code, out, _ = await run(environment, "user", "add", email, "--password", "another password", "--if-missing")
    assert code == 0
    assert "exists" in out
    assert (await log_in(email, PASSWORD, gateway)).status_code == 200


@pytest.mark.parametrize(
    ("email", "password"), [("no address", PASSWORD), ("user@example.com", "short"), ("user@example.com", "x" * 1025)]
)
async def test_user_that_cannot_be_is_one_clear_line(environment, email, password):
    code, out, err = await run(environment, "user", "add", email, "--password", password)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert password not in err


async def ask_for_password(environment, email, answers):
    """Run `user add` on a terminal, answering its questions; everything that the terminal showed."""
    # As a shell starts it: where the tests run in the background, Ctrl-C is ignored, and that is inherited.
    default = "signal.signal(signal.SIGINT, signal.SIG_DFL)"
    spawn = f"import pty, signal, sys; {default}; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    terminal = [sys.executable, "-c", spawn]
    async with process(environment, "user", "add", email, prefix=terminal) as found:
        shown = b""
        for question, answer in zip((b"Password: ", b"Once more: "), answers, strict=False):
            shown += await found.stdout.readuntil(question)
            found.stdin.write(answer.encode() + b"\n")
        shown += await found.stdout.read()
        return await found.wait(), shown.decode()


async def test_password_is_asked_for_without_echo(gateway, environment):
    email = f"user-{uuid4()}@example.com"
    code, shown = await ask_for_password(environment, email, [PASSWORD, PASSWORD])
    assert (code, PASSWORD in shown) == (0, False), shown
    assert (await log_in(email, PASSWORD, gateway)).status_code == 200


async def test_two_passwords_that_differ_add_nobody(gateway, environment):
    email = f"user-{uuid4()}@example.com"
    code, shown = await ask_for_password(environment, email, [PASSWORD, "another password"])
    assert code == 1
    assert "differ" in shown
    assert (await log_in(email, PASSWORD, gateway)).status_code == 401


async def test_ctrl_c_at_the_password_prompt_ends_at_once_and_adds_nobody(environment):
    code, shown = await ask_for_password(environment, f"user-{uuid4()}@example.com", ["\x03"])
    assert (code, "no password given" in shown, "Traceback" in shown) == (130, True, False), shown


@pytest.mark.parametrize(("said", "code"), [(PASSWORD + "\n", 0), ("short\n", 1), ("", 1)])
async def test_password_is_read_as_one_line_where_there_is_no_terminal(environment, said, code):
    async with process(environment, "user", "add", f"user-{uuid4()}@example.com") as found:
        _, err = await found.communicate(said.encode())
        assert (found.returncode, len(err.splitlines())) == (code, code), err


async def test_changed_password_replaces_the_old_one_and_ends_sessions(gateway, environment):
    email = f"user-{uuid4()}@example.com"
    await run(environment, "user", "add", email, "--password", PASSWORD)
    session = (await log_in(email, PASSWORD, gateway)).json()
    code, out, err = await run(environment, "user", "password", email, "--password", "another password")
    assert (code, err) == (0, "")
    assert "sessions ended" in out
    assert (await log_in(email, PASSWORD, gateway)).status_code == 401
    assert (await log_in(email, "another password", gateway)).status_code == 200
    refreshed = await gateway.client.post("/api/token/refresh/", json={"refresh": session["refresh"]})
    assert refreshed.status_code == 401


async def test_password_of_an_unknown_user_is_one_clear_line_or_no_fault_if_asked_so(environment):
    email = f"user-{uuid4()}@example.com"
    code, _, err = await run(environment, "user", "password", email, "--password", PASSWORD)
    assert (code, err) == (1, f"{email}: no such user\n")
    assert (await run(environment, "user", "password", email, "--password", PASSWORD, "--if-exists"))[0] == 0


async def test_migrate_makes_the_schema_once(environment, database):
    dsn = await database()
    empty = {**environment, "DATABASE_URL": dsn}
    code, _, err = await run(empty, "user", "add", "user@example.com", "--password", PASSWORD)
    assert code == 1
    assert "migrate" in err
    files = sorted(path.name for path in (resources.files("boostedcalls.gateway") / "migrations").iterdir())
    assert (await run(empty, "migrate"))[:2] == (0, f"auth: {', '.join(files)}\n")
    assert (await run(empty, "migrate"))[:2] == (0, "auth: up to date\n")
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM auth.users") == 0
    await connection.close()


async def test_openapi_check_tells_an_old_file_from_a_new_one(environment, tmp_path):
    path = tmp_path / "openapi.json"
    assert (await run(environment, "openapi", "--check", "--path", str(path)))[0] == 1
    assert (await run(environment, "openapi", "--path", str(path)))[0] == 0
    assert (await run(environment, "openapi", "--check", "--path", str(path)))[0] == 0
    path.write_text(path.read_text().replace("Log in", "Log out", 1))
    code, _, err = await run(environment, "openapi", "--check", "--path", str(path))
    assert code == 1
    assert "out of date" in err


async def test_full_disk_is_503_and_one_line_and_it_is_over_when_there_is_room_again(environment, tmp_path):
    # No file of this process may grow: what a full disk looks like, for root too.
    environment = {**environment, "SPOOL_DIR": str(tmp_path / "spool")}
    async with process(environment) as found:
        address = (await until(found, "listening"))["address"]
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=30) as client:

            async def report(body):
                headers = {"x-vapi-secret": environment["VAPI_WEBHOOK_SECRET"]}
                return await client.post("/api/calls/webhook/", content=body, headers=headers)

            assert (await report(b"before")).headers["x-stored"] == "spool"
            resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
            for number in range(5):
                answer = await report(b"lost %d" % number)
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) > 0
            metrics = (await client.get("/metrics")).text
            assert 'boostedcalls_spool_refused_total{reason="failed"} 5.0' in metrics
            resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert (await report(b"after")).headers["x-stored"] == "spool"
        found.send_signal(signal.SIGTERM)
        _, err = await found.communicate()
    events = [json.loads(line)["event"] for line in err.decode().splitlines()]
    assert (events.count("spool_takes_nothing"), events.count("spool_takes_again")) == (1, 1)
    kept = [
        record.body for path in sorted((tmp_path / "spool").iterdir()) for record in decode(path.read_bytes()).records
    ]
    assert kept == [b"before", b"after"]
