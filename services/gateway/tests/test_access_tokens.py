"""What counts as an access token: one that we signed, for this, not yet expired. Nothing else gets past the door."""

import base64
import json
from datetime import UTC, datetime, timedelta
from time import time
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio

from boostedcalls.common.errors import ServiceError
from boostedcalls.gateway import auth

PATH = "/api/calls/pending-count/"
SECRET = "the-secret-of-this-module-long-enough-for-every-algorithm-of-the-family"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(running, dsn, nats_server):
    async with running(dsn, nats_server.url, jwt_secret=SECRET) as found:
        yield found


def claims(**changes):
    now = datetime.now(UTC)
    found = {
        "iss": "boostedcalls",
        "aud": "boostedcalls",
        "typ": "access",
        "sub": str(uuid4()),
        "jti": str(uuid4()),
        "iat": now,
        "exp": now + timedelta(minutes=5),
    }
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def signed(secret=SECRET, algorithm="HS256", headers=None, **changes):
    return jwt.encode(claims(**changes), secret, algorithm=algorithm, headers=headers)


def segment(value):
    return base64.urlsafe_b64encode(json.dumps(value, default=str).encode()).rstrip(b"=").decode()


def unsigned(algorithm):
    body = claims()
    body |= {"iat": int(body["iat"].timestamp()), "exp": int(body["exp"].timestamp())}
    return f"{segment({'alg': algorithm, 'typ': 'JWT'})}.{segment(body)}."


ATTACKS = {
    "other secret": lambda: signed("another-secret-of-more-than-32-bytes!"),
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("None"),
    "alg HS256 without signature": lambda: unsigned("HS256"),
    "HS384": lambda: signed(algorithm="HS384"),
    "HS512": lambda: signed(algorithm="HS512"),
    "critical header": lambda: signed(headers={"crit": ["b64"], "b64": False}),
    "expired": lambda: signed(exp=datetime.now(UTC) - timedelta(minutes=1)),
    "issued in the future": lambda: signed(iat=datetime.now(UTC) + timedelta(minutes=1)),
    "not valid yet": lambda: signed(nbf=datetime.now(UTC) + timedelta(minutes=1)),
    "wrong audience": lambda: signed(aud="somebody"),
    "audience in a list": lambda: signed(aud=["boostedcalls", "somebody"]),
    "wrong issuer": lambda: signed(iss="somebody"),
    "wrong type": lambda: signed(typ="refresh"),
    "subject that is no id": lambda: signed(sub="admin"),
    "subject that is a number": lambda: signed(sub=1),
    "expiry that is a text": lambda: signed(exp="tomorrow"),
    **{f"without {name}": (lambda name=name: signed(**{name: None})) for name in claims()},
    "changed payload": lambda: signed().replace(".", ".e30", 1),
    "three empty segments": lambda: "..",
    "no segments": lambda: "token",
    "deep header": lambda: base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.x",
    "header that is no object": lambda: "W10.e30.x",
    "huge": lambda: "a" * 20_000,
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_token_that_is_not_ours_is_refused(gateway, client, attack):
    answer = await client.get(PATH, headers={"Authorization": f"Bearer {ATTACKS[attack]()}"})
    gateway.is_problem(answer, 401, "token_invalid")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_good_token_is_taken_whatever_the_case_of_its_scheme(gateway, client, scheme):
    answer = await client.get(PATH, headers={"Authorization": f"{scheme} {signed()}"})
    gateway.is_problem(answer, 503, "unavailable")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dXNlcjpwYXNz", "{token}", "Token {token}", "Bearer\t{token}"])
async def test_header_without_a_bearer_token_is_refused(gateway, client, header):
    gateway.is_problem(
        await client.get(PATH, headers={"Authorization": header.format(token=signed())}), 401, "token_invalid"
    )


async def test_missing_header_is_refused(gateway, client):
    gateway.is_problem(await client.get(PATH), 401, "token_invalid")


async def test_token_in_the_query_is_not_looked_at(gateway, client):
    gateway.is_problem(await client.get(PATH, params={"token": signed()}), 401, "token_invalid")


async def test_good_token_is_verified_once_and_refused_as_soon_as_it_has_expired(monkeypatch):
    user_id = uuid4()
    token = auth.issue_access(SECRET, user_id, timedelta(minutes=15))
    before = auth._verified.cache_info()
    assert [auth.read_access(SECRET, token) for _ in range(3)] == [user_id] * 3
    after = auth._verified.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
    for seconds, good in [(15 * 60 - 1, True), (15 * 60 + 4, True), (15 * 60 + 6, False)]:
        monkeypatch.setattr(auth, "time", lambda seconds=seconds: time() + seconds)
        if good:
            assert auth.read_access(SECRET, token) == user_id
        else:
            with pytest.raises(ServiceError, match="token_invalid") as caught:
                auth.read_access(SECRET, token)
            assert caught.value.detail == "The token has expired"


async def test_remembered_token_is_good_for_its_own_secret_only():
    token = auth.issue_access(SECRET, uuid4(), timedelta(minutes=15))
    auth.read_access(SECRET, token)
    with pytest.raises(ServiceError, match="token_invalid"):
        auth.read_access(SECRET + "x", token)
    with pytest.raises(ServiceError, match="token_invalid"):
        auth.read_access(SECRET, token + "x")


async def test_tokens_that_are_remembered_are_bounded_and_none_is_one_that_was_refused():
    before = auth._verified.cache_info()
    for attack in ATTACKS.values():
        with pytest.raises(ServiceError):
            auth.read_access(SECRET, attack())
    assert auth._verified.cache_info().currsize == before.currsize
    assert before.maxsize is not None


async def test_refresh_token_does_not_work_as_access_token(gateway, client):
    user = await gateway.add_user()
    tokens = (await client.post("/api/token/", json={"username": user.email, "password": "correct horse"})).json()
    answer = await client.get(PATH, headers={"Authorization": f"Bearer {tokens['refresh']}"})
    gateway.is_problem(answer, 401, "token_invalid")
