"""Keys of access tokens: published, signed with, retired, while gateways run and tokens of three keys are about."""

import asyncio
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from time import time
from uuid import uuid4

import jwt
import pytest

from boostedcalls.gateway import keyring
from boostedcalls.gateway.auth import issue_access
from boostedcalls.gateway.jws import encode
from boostedcalls.gateway.keyfile import add_key, list_keys, retire_key, sign_with
from boostedcalls.gateway.keyring import Keyring, KeysError, ring_of, secret_key

PATH = "/api/calls/pending-count/"
SECRET = "test-jwt-secret-of-more-than-32-bytes"
LATER = timedelta(minutes=5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def kids(path):
    return [key["kid"] for key in json.loads(path.read_text())["keys"]]


def signing(path):
    return json.loads(path.read_text())["sign"]


def age(path, seconds):
    """Let everything that the file says have happened so long ago."""
    found = json.loads(path.read_text())
    for key in found["keys"]:
        for name in ("iat", "signed_until"):
            if name in key:
                key[name] -= seconds
    path.write_text(json.dumps(found))


async def good(gateway, token):
    answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (401, 503)
    return answer.status_code == 503


async def log_in(gateway, user):
    answer = await gateway.client.post("/api/token/", json={"username": user.email, "password": gateway.password})
    return answer.json()["access"]


async def agree(gateways, sign, known):
    """Wait until every gateway signs with that key and knows those."""
    for gateway in gateways:
        for _ in range(600):
            ring = gateway.deps.keys.ring
            if ring.signing.kid == sign and {key.kid for key in ring.keys} == set(known):
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError(f"{gateway.url} signs with {ring.signing.kid}, knows {ring.keys}")


async def test_keys_rotate_over_two_running_gateways_with_three_keys_live(
    running, dsn, nats_server, path, monkeypatch, attacks
):
    monkeypatch.setattr(keyring, "EVERY", 0.05)
    add_key(path, "HS256")
    async with (
        running(dsn, nats_server.url, jwt_secret=None, jwt_keys_file=path) as first,
        running(dsn, nats_server.url, jwt_secret=None, jwt_keys_file=path) as second,
    ):
        gateways = (first, second)
        user = await first.add_user()
        tokens = {signing(path): await log_in(first, user)}
        for algorithm in ("EdDSA", "HS256"):
            add_key(path, algorithm)
            new = kids(path)[-1]
            await agree(gateways, signing(path), kids(path))
            # Published, and not signed with before every gateway knows it.
            with pytest.raises(KeysError, match="too new"):
                sign_with(path, new, 15)
            age(path, 10)
            sign_with(path, new, 15)
            await agree(gateways, new, kids(path))
            tokens[new] = await log_in(second, user)
        assert [jwt.get_unverified_header(token)["kid"] for token in tokens.values()] == kids(path)
        assert [jwt.get_unverified_header(token)["alg"] for token in tokens.values()] == ["HS256", "EdDSA", "HS256"]
        for gateway in gateways:
            assert [await good(gateway, token) for token in tokens.values()] == [True] * 3
        oldest, middle, newest = tokens
        with pytest.raises(KeysError, match="let another sign first"):
            retire_key(path, newest, 15)
        with pytest.raises(KeysError, match="may still be good"):
            retire_key(path, oldest, 15)
        age(path, 15 * 60 + 30)
        for kid in (oldest, middle):
            retire_key(path, kid, 15)
            await agree(gateways, newest, kids(path))
        # They were remembered as good a moment ago, and have not expired.
        for gateway in gateways:
            assert [await good(gateway, token) for token in tokens.values()] == [False, False, True]
        attacks("JWT: key that was retired", 4)


async def test_secret_is_good_beside_the_file_but_does_not_sign(running, dsn, nats_server, path):
    add_key(path, "EdDSA")
    async with running(dsn, nats_server.url, jwt_keys_file=path) as gateway:
        old = keyring.Ring(secret_key(gateway.jwt_secret)).issue(uuid4(), uuid4(), int(time()), 60)
        assert await good(gateway, old)
        assert jwt.get_unverified_header(await log_in(gateway, await gateway.add_user()))["alg"] == "EdDSA"


def test_demo_secret_is_no_key_beside_a_file(path):
    add_key(path, "HS256")
    secret = "demo-only-jwt-secret-of-at-least-32-bytes"
    assert [key.kid for key in ring_of(path, secret).keys] == kids(path)
    assert secret_key(SECRET).kid in [key.kid for key in ring_of(path, SECRET).keys]


def test_file_that_breaks_or_vanishes_leaves_the_keys_of_before_and_says_so_once(path, capfd):
    add_key(path, "HS256")
    text = path.read_text()
    keys = Keyring(None, path)
    ring = keys.ring
    token = issue_access(ring, uuid4(), uuid4(), LATER)
    for broken in ("", "{", '{"keys": []}', text.replace('"k"', '"x"'), None):
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        keys.look()
        assert keys.ring is ring
        assert ring.read(token)
    path.write_text(text)
    keys.look()
    assert keys.ring is ring
    logged = "".join(capfd.readouterr())
    assert (logged.count("key_file_unusable"), logged.count("key_file_usable_again")) == (1, 1)
    assert json.loads(text)["keys"][0]["k"] not in logged
    add_key(path, "HS256")
    keys.look()
    assert len(keys.ring.keys) == 2


def test_file_whose_keys_are_the_same_keeps_what_is_remembered(path):
    add_key(path, "EdDSA")
    keys = Keyring(None, path)
    ring = keys.ring
    path.write_text(path.read_text() + "\n")
    keys.look()
    assert keys.ring is ring


def test_same_kid_with_another_key_is_another_ring(path):
    add_key(path, "HS256")
    keys = Keyring(None, path)
    token = issue_access(keys.ring, uuid4(), uuid4(), LATER)
    found = json.loads(path.read_text())
    found["keys"][0]["k"] = encode(os.urandom(32))
    path.write_text(json.dumps(found))
    keys.look()
    with pytest.raises(ValueError, match="not signed by us"):
        keys.ring.read(token)


OCT = {"kty": "oct", "alg": "HS256", "kid": "a", "k": encode(bytes(range(32)))}
OKP = {
    **{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "b"},
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}


def broken_sets():
    keys = {"keys": [OCT, OKP], "sign": "a"}
    yield "no JSON", "not JSON"
    yield "[]", "no key set"
    yield {"keys": {}}, "no key set"
    yield {"keys": [1], "sign": "a"}, "no key set"
    yield {**keys, "sign": "c"}, '"sign" is not'
    yield {**keys, "sign": None}, '"sign" is not'
    yield {"keys": [], "sign": "a"}, '"sign" is not'
    yield {**keys, "keys": [OCT, {**OKP, "kid": "a"}]}, "key 2: there are two with the kid a"
    for changes, says in [
        ({"k": encode(b"short")}, "key 1: k needs at least 32 bytes"),
        ({"k": encode(b"a" * 64)}, "key 1: k is too easy to guess"),
        ({"k": "not base64url!"}, "key 1: k must be base64url"),
        ({"k": OCT["k"] + "="}, "key 1: k must be base64url"),
        ({"k": 1}, "key 1: k must be base64url"),
        ({"alg": "HS512"}, "key 1: only oct with HS256"),
        ({"alg": "none"}, "key 1: only oct with HS256"),
        ({"kty": "RSA"}, "key 1: only oct with HS256"),
        ({"kid": None}, "key 1: its kid must be"),
        ({"kid": "../a"}, "key 1: its kid must be"),
        ({"kid": "a" * 65}, "key 1: its kid must be"),
        ({"kid": "a\n"}, "key 1: its kid must be"),
    ]:
        yield {**keys, "keys": [{**OCT, **changes}]}, says
    for changes, says in [
        ({"d": encode(b"x" * 31)}, "key 1: d must have 32 bytes"),
        ({"d": encode(b"x" * 32)}, "key 1: d is too easy to guess"),
        ({"d": None}, "key 1: d must be base64url"),
        ({"x": encode(bytes(32))}, "key 1: x is not the public key of d"),
        ({"crv": "Ed448"}, "key 1: only oct with HS256"),
        ({"alg": "HS256"}, "key 1: only oct with HS256"),
    ]:
        yield {"keys": [{**OKP, **changes}], "sign": "b"}, says
    yield "[" * 5000, "not JSON"
    yield " " * 70_000, "larger than"


@pytest.mark.parametrize(("content", "says"), list(broken_sets()))
def test_key_file_that_cannot_be_used_says_why_in_one_line_without_its_secrets(path, content, says):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(KeysError) as caught:
        ring_of(path)
    text = str(caught.value)
    assert says in text
    assert "\n" not in text
    assert OCT["k"] not in text
    assert OKP["d"] not in text
    before = path.read_bytes()
    with pytest.raises(KeysError):
        add_key(path, "HS256")
    assert path.read_bytes() == before


def test_list_shows_the_keys_and_no_secret(path):
    path.write_text(json.dumps({"keys": [OCT, OKP], "sign": "a"}))
    assert list_keys(path) == "a  HS256  signs\nb  EdDSA  is good for verifying"


def test_file_is_for_its_owner_only_and_nothing_is_left_beside_it(path):
    add_key(path, "HS256")
    path.chmod(0o644)
    add_key(path, "EdDSA")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_editors_at_the_same_time_lose_nothing(path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: add_key(path, "HS256"), range(24)))
    assert len(set(kids(path))) == 24
    assert ring_of(path).signing.kid == kids(path)[0]


def test_key_that_leaked_is_replaced_at_once_when_asked(path):
    add_key(path, "HS256")
    leaked = signing(path)
    add_key(path, "HS256")
    new = kids(path)[-1]
    sign_with(path, new, 15, now=True)
    assert "signs already" in sign_with(path, new, 15)
    retire_key(path, leaked, 15, now=True)
    assert kids(path) == [new]
    for edit in (sign_with, retire_key):
        with pytest.raises(KeysError, match="no key unknown"):
            edit(path, "unknown", 15)


def test_folder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(KeysError, match="No such file"):
        add_key(tmp_path / "none" / "keys.json", "HS256")
