"""Password hashes that Django made: they verify, and the first login replaces them. Made with Django 5.2."""

import asyncio
import base64
from uuid import uuid4

import pytest

from boostedcalls.gateway import legacy
from boostedcalls.gateway.users import find_user, insert_user

PASSWORD = "correct horse"
DEFAULT = "pbkdf2_sha256$1000000$uVQ3xqQ0GzYy5kTn9LwS2b$2hY/IZATxcwNJ98rn7kZvKE+2xshCFr4SzpbNJ7X50g="
OLD = "pbkdf2_sha256$20000$abcdefgh$bgSbMY9YCwjgw4A4xA1caVX0c71htkylLaHx/+R8azk="
UNICODE = "pbkdf2_sha256$1000$abcdefgh$I71PXP7vUXOhScbc1aQtYSCaKnLg+hScMD3pSHLjGCA="
ARGON2 = (
    "argon2$argon2id$v=19$m=102400,t=2,p=8$VXJQdDc5WFM5UlRoaU9nQzJPMGljag$RIP2tUaZeJU2VoPMhEP33xh9zQWsnrvR7waI89KamTQ"
)
SHA1 = "pbkdf2_sha1$1000000$Y9qbrKYKIP3z8eC08bucaq$EA9MYCMrWb3Z0Dm9TjJhEoJD7f0="
ARGON2I = "$argon2i$v=19$m=64,t=1,p=1$+FyLUx4BL+USv1jlMbJvGw$7Ntumnqh4Xd3ZHXhzfA9N8nCx9hyF+LyNBCzh0vYHtA"
DIGEST = OLD.rpartition("$")[2]


async def log_in(gateway, email, password=PASSWORD):
    return await gateway.client.post("/api/token/", json={"username": email, "password": password})


@pytest.mark.parametrize(
    ("stored", "password"), [(DEFAULT, PASSWORD), (OLD, PASSWORD), (UNICODE, "pässwörd ✓"), (ARGON2, PASSWORD)]
)
async def test_user_of_django_logs_in_with_the_same_password_and_is_hashed_anew(gateway, stored, password):
    user = await insert_user(gateway.deps.pool, f"user-{uuid4()}@example.com", legacy.importable(stored))
    gateway.is_problem(await log_in(gateway, user.email, password + "x"), 401, "credentials_invalid")
    assert (await find_user(gateway.deps.pool, user.email)).password_hash == user.password_hash
    assert (await log_in(gateway, user.email, password)).status_code == 200
    found = await find_user(gateway.deps.pool, user.email)
    assert found.password_hash.startswith("$argon2id$v=19$m=9216,t=4,p=1$")
    assert found.password_version == 0
    assert (await log_in(gateway, user.email, password)).status_code == 200


async def test_first_logins_at_the_same_time_all_succeed(gateway):
    user = await insert_user(gateway.deps.pool, f"user-{uuid4()}@example.com", OLD)
    answers = await asyncio.gather(*(log_in(gateway, user.email) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}


MALFORMED = [
    *("pbkdf2_sha256$", "pbkdf2_sha256$$$", f"pbkdf2_sha256$0$abcdefgh${DIGEST}", f"pbkdf2_sha256$-1$a${DIGEST}"),
    *(f"pbkdf2_sha256$5000001$a${DIGEST}", f"pbkdf2_sha256$99999999999999999999$a${DIGEST}", OLD[:-1], OLD + "="),
    *(f"pbkdf2_sha256$1e3$a${DIGEST}", f"pbkdf2_sha256$20000$${DIGEST}", f"pbkdf2_sha256$20000$a b${DIGEST}"),
    *(OLD.replace("$20000$", "$020000$"), OLD.replace("$20000$", "$٢٠٠٠٠$"), f"{OLD}\n", f"{OLD}$x"),
    OLD.rpartition("$")[0],
    f"pbkdf2_sha256$20000$abcdefgh${base64.b64encode(b'short').decode()}",
    f"pbkdf2_sha256$20000${'a' * 129}${DIGEST}",
]  # fmt: skip


@pytest.mark.parametrize("stored", MALFORMED)
async def test_malformed_hash_is_nobodys_and_cannot_be_imported(gateway, stored):
    assert not await gateway.deps.passwords.verify(PASSWORD, stored)
    assert not await gateway.deps.passwords.verify("", stored)
    with pytest.raises(ValueError, match="malformed"):
        legacy.importable(stored)


@pytest.mark.parametrize(
    "stored", ["", "plain", "!", SHA1, ARGON2I, "$2b$12$x", "scrypt$1$x$8$5$x", "argon2", "md5$a$b"]
)
def test_hash_of_another_kind_cannot_be_imported(stored):
    with pytest.raises(ValueError, match="neither argon2id nor pbkdf2_sha256"):
        legacy.importable(stored)


@pytest.mark.parametrize(("old", "new"), [("m=102400", "m=4194304"), ("t=2", "t=100"), ("p=8", "p=64")])
def test_hash_that_would_cost_too_much_cannot_be_imported(old, new):
    with pytest.raises(ValueError, match="cost too much"):
        legacy.importable(ARGON2.replace(old, new))
