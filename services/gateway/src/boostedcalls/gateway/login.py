"""Whether a password is the user's: the one door for logging in and for whatever asks for the password again."""

from __future__ import annotations

from starlette.requests import Request

from boostedcalls.common.errors import problem
from boostedcalls.gateway.address import client_address
from boostedcalls.gateway.deps import deps_of
from boostedcalls.gateway.users import User


async def check_password(request: Request, username: str, user: User | None, password: str) -> User:
    """The user, if the password is theirs. Raises ServiceError credentials_invalid; too_many_tries, before anything is
    looked at, after several wrong ones; and Unavailable.

    `username` is what was asked for; `user` is None where nobody has that name, which takes as long and is answered the
    same.
    """
    deps = deps_of(request)
    async with deps.throttle.login(username, client_address(request)):
        right = await deps.passwords.verify(password, user.password_hash if user else None)
        if user is None or not right:
            raise problem("credentials_invalid")
    return user
