"""Commands for keys and for users who come from elsewhere, and what the process says about its secrets, run as an
operator runs them."""

import asyncio
import json
import os
import sys
from uuid import uuid4

import pytest

PBKDF2 = "pbkdf2_sha256$20000$abcdefgh$bgSbMY9YCwjgw4A4xA1caVX0c71htkylLaHx/+R8azk="
ARGON2 = "$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHQ$Mw2ZGeGQVtDVdUHA8K7j1k1oXkYKSdkl5W0oVZlkYqg"
GOOD = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


@pytest.fixture
def environment(dsn, nats_server, tmp_path):
    """Nothing of the developer's own environment, and no `.env`."""
    return {
        **{"PATH": os.defpath, "HOME": str(tmp_path), "DATABASE_URL": dsn, "NATS_URL": nats_server.url},
        **{"JWT_SECRET": GOOD, "VAPI_WEBHOOK_SECRET": "a-webhook-secret", "HOST": "127.0.0.1", "PORT": "0"},
    }


async def start(environment, *arguments):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "boostedcalls.gateway", *arguments),
        env=environment,
        cwd=environment["HOME"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(environment, *arguments, said=b""):
    found = await start(environment, *arguments)
    out, err = await found.communicate(said)
    return found.returncode, out.decode(), err.decode()


async def test_users_of_a_csv_file_are_added_once_and_bad_lines_are_named(gateway, environment, tmp_path):
    name = uuid4().hex
    lines = [
        "email,hash",
        f"First-{name}@Example.com,{PBKDF2}",
        f'second-{name}@example.com,"{ARGON2}"',
        f"third-{name}@example.com,{ARGON2}",
        "",
        f"fourth-{name}@example.com,md5$secret-of-theirs",
        f"no address,{PBKDF2}",
        f"fifth-{name}@example.com",
    ]
    (tmp_path / "users.csv").write_text("\n".join(lines))
    code, out, err = await run(environment, "user", "import", "users.csv")
    assert (code, out) == (1, "3 added, 0 there already, 4 refused\n")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 1", "line 6", "line 7", "line 8"]
    assert "secret-of-theirs" not in err
    login = {"username": f"first-{name}@example.com", "password": "correct horse"}
    assert (await gateway.client.post("/api/token/", json=login)).status_code == 200
    good = "\n".join(lines[1:4]).encode()
    code, out, err = await run(environment, "user", "import", "-", said=good)
    assert (code, out, err) == (0, "0 added, 3 there already, 0 refused\n", "")
    # Who has logged in here meanwhile keeps the newer hash.
    assert (await gateway.client.post("/api/token/", json=login)).status_code == 200


@pytest.mark.parametrize(
    ("name", "content"), [("none.csv", None), ("latin.csv", b"\xff\xfe,x"), ("nul.csv", b"a\x00,b")]
)
async def test_file_that_cannot_be_imported_is_one_clear_line(environment, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = await run(environment, "user", "import", name)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


async def test_keys_are_made_listed_and_used_by_a_gateway_without_a_secret(environment, tmp_path):
    environment = {**environment, "JWT_SECRET": "", "JWT_KEYS_FILE": str(tmp_path / "keys.json")}
    code, out, err = await run(environment, "keys", "add", "--alg", "EdDSA")
    assert (code, err) == (0, "")
    key = json.loads((tmp_path / "keys.json").read_text())["keys"][0]
    assert key["kid"] in out
    code, out, err = await run(environment, "keys", "list")
    assert (code, out, err) == (0, f"{key['kid']}  EdDSA  signs\n", "")
    code, _, err = await run(environment, "keys", "retire", key["kid"])
    assert (code, len(err.splitlines())) == (1, 1)
    assert "let another sign first" in err
    gateway = await start(environment)
    try:
        async for line in gateway.stderr:
            assert key["d"] not in line.decode()
            if json.loads(line)["event"] == "ready":
                break
        else:
            raise AssertionError("it did not start")
    finally:
        gateway.terminate()
        await gateway.communicate()
    assert gateway.returncode == 0


async def test_keys_without_a_file_are_one_clear_line(environment):
    code, _, err = await run(environment, "keys", "list")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "JWT_KEYS_FILE: is missing" in err


WEAK = {"keys": [{"kty": "oct", "alg": "HS256", "kid": "a", "k": "YWJj"}], "sign": "a"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"JWT_SECRET": ""}, "JWT_SECRET: is missing; make one with: openssl rand -hex 32"),
        ({"JWT_SECRET": "x" * 31}, "JWT_SECRET: needs at least 32 bytes"),
        ({"JWT_SECRET": "a" * 64}, "JWT_SECRET: is too easy to guess"),
        ({"JWT_SECRET": "abcabcabc" * 8}, "JWT_SECRET: is too easy to guess"),
        ({"JWT_SECRET": "12345671234567123456712345671234567"}, "JWT_SECRET: is too easy to guess"),
        ({"VAPI_WEBHOOK_SECRET": ""}, "VAPI_WEBHOOK_SECRET: is missing"),
        ({"JWT_KEYS_FILE": "none.json"}, "JWT_KEYS_FILE: none.json: No such file"),
        ({"JWT_KEYS_FILE": "none.json", "JWT_SECRET": ""}, "JWT_KEYS_FILE: none.json: No such file"),
        ({"JWT_KEYS_FILE": "broken.json"}, "JWT_KEYS_FILE: broken.json: is not JSON"),
        ({"JWT_KEYS_FILE": "weak.json"}, "JWT_KEYS_FILE: weak.json: key 1: k needs at least 32 bytes"),
        ({"JWT_KEYS_FILE": "empty.json"}, "JWT_KEYS_FILE: empty.json: "),
        ({"ACCESS_TOKEN_MINUTES": "61"}, "ACCESS_TOKEN_MINUTES: "),
    ],
)
async def test_weak_or_missing_secret_is_one_clear_line_and_exit_code_2(environment, tmp_path, changes, says):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "weak.json").write_text(json.dumps(WEAK))
    (tmp_path / "empty.json").write_text('{"keys": []}')
    code, out, err = await run({**environment, **changes})
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
    for secret in (value for name, value in changes.items() if "SECRET" in name and value):
        assert secret not in line


async def test_demo_secrets_are_taken_with_a_warning_for_each(environment):
    demo = {
        "JWT_SECRET": "demo-only-jwt-secret-of-at-least-32-bytes",
        "VAPI_WEBHOOK_SECRET": "demo-only-webhook-secret",
    }
    gateway = await start({**environment, **demo})
    warned = []
    try:
        async for line in gateway.stderr:
            entry = json.loads(line)
            if entry["event"] == "demo_secret":
                warned.append(entry["setting"])
            assert "demo-only-" not in line.decode()
            if entry["event"] == "ready":
                break
    finally:
        gateway.terminate()
        await gateway.communicate()
    assert sorted(warned) == sorted(demo)
