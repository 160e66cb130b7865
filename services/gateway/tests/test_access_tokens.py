"""How an access token is carried, and how long it is good. What is no token of ours: test_jwt_attacks.py."""

from datetime import timedelta
from time import time
from uuid import uuid4

import pytest

from boostedcalls.common.errors import ServiceError
from boostedcalls.gateway import auth
from boostedcalls.gateway.keyring import Ring, secret_key

PATH = "/api/calls/pending-count/"
SECRET = "the-secret-of-this-module-long-enough"


def signed(gateway):
    return gateway.bearer()["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_good_token_is_taken_whatever_the_case_of_its_scheme(gateway, client, scheme):
    answer = await client.get(PATH, headers={"Authorization": f"{scheme} {signed(gateway)}"})
    gateway.is_problem(answer, 503, "unavailable")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dXNlcjpwYXNz", "{token}", "Token {token}", "Bearer\t{token}"])
async def test_header_without_a_bearer_token_is_refused(gateway, client, header):
    gateway.is_problem(
        await client.get(PATH, headers={"Authorization": header.format(token=signed(gateway))}), 401, "token_invalid"
    )


async def test_missing_header_is_refused(gateway, client):
    gateway.is_problem(await client.get(PATH), 401, "token_invalid")


async def test_token_in_the_query_is_not_looked_at(gateway, client):
    gateway.is_problem(await client.get(PATH, params={"token": signed(gateway)}), 401, "token_invalid")


async def test_good_token_is_verified_once_and_refused_as_soon_as_it_has_expired(monkeypatch):
    ring, user_id, session_id = Ring(secret_key(SECRET)), uuid4(), uuid4()
    token = auth.issue_access(ring, user_id, session_id, timedelta(minutes=15))
    for _ in range(3):
        access = auth.read_access(ring, token)
        assert (access.user_id, access.session) == (user_id, str(session_id))
    assert ring.read.cache_info()[:2] == (2, 1)
    for seconds, good in [(15 * 60 - 1, True), (15 * 60 + 4, True), (15 * 60 + 6, False)]:
        monkeypatch.setattr(auth, "time", lambda seconds=seconds: time() + seconds)
        if good:
            assert auth.read_access(ring, token).user_id == user_id
        else:
            with pytest.raises(ServiceError, match="token_invalid") as caught:
                auth.read_access(ring, token)
            assert caught.value.detail == "The token has expired"


async def test_remembered_token_is_good_for_its_own_ring_only():
    ring = Ring(secret_key(SECRET))
    token = auth.issue_access(ring, uuid4(), uuid4(), timedelta(minutes=15))
    auth.read_access(ring, token)
    with pytest.raises(ServiceError, match="token_invalid"):
        auth.read_access(Ring(secret_key(SECRET + "x")), token)
    with pytest.raises(ServiceError, match="token_invalid"):
        auth.read_access(ring, token + "x")


async def test_token_with_two_spaces_before_it_is_taken_and_with_other_white_space_not(gateway, client):
    token = signed(gateway)
    answer = await client.get(PATH, headers={"Authorization": f"Bearer  {token}"})
    gateway.is_problem(answer, 503, "unavailable")
    for space in (b"\xa0", b"\x85"):
        answer = await client.get(PATH, headers={"Authorization": b"Bearer " + space + token.encode()})
        gateway.is_problem(answer, 401, "token_invalid")
