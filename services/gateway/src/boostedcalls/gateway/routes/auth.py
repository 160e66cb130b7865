"""Logging in, staying logged in, logging out, and (where the operator allows it) signing up."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from boostedcalls.common.errors import problem
from boostedcalls.common.messages.base import Answer, Email, Model, no_nul
from boostedcalls.gateway.address import client_address
from boostedcalls.gateway.auth import issue_access
from boostedcalls.gateway.deps import Deps, caller_of, deps_of
from boostedcalls.gateway.forward import json_response
from boostedcalls.gateway.login import check_password
from boostedcalls.gateway.passwords import MAX_BYTES, MIN_BYTES
from boostedcalls.gateway.problems import BODY, errors
from boostedcalls.gateway.routing import open_router, user_router
from boostedcalls.gateway.sessions import Reused, Session, close_session, open_session, rotate
from boostedcalls.gateway.users import change_password, find_user, get_user, insert_user, replace_hash

router = open_router("Authentication")
user_routes = user_router("Authentication")

_NO_STORE = {"Cache-Control": "no-store"}
_FAULTS = (*BODY, "unavailable", "internal_error")


def _bounded(password: str) -> str:
    if len(password.encode()) > MAX_BYTES:
        raise ValueError(f"must not be longer than {MAX_BYTES} bytes")
    return password


def _strong(password: str) -> str:
    if len(password.encode()) < MIN_BYTES:
        raise ValueError(f"must have at least {MIN_BYTES} bytes")
    return password


Username = Annotated[str, Field(min_length=1, max_length=254), AfterValidator(no_nul)]
Password = Annotated[str, Field(min_length=1, max_length=MAX_BYTES), AfterValidator(no_nul), AfterValidator(_bounded)]
NewPassword = Annotated[Password, AfterValidator(_strong)]
RefreshToken = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(no_nul)]


class Login(Model):
    username: Username = Field(description="The e-mail address, in any case", examples=["user@example.com"])
    password: Password = Field(examples=["your-password"])


class Refresh(Model):
    refresh: RefreshToken = Field(examples=["k3Jx0c7mGf9w1Yb6uVh2sQ8zTn4rLd5pAeXoRiMyWqE"])


class Tokens(Answer):
    access: str = Field(description="A JWT for the header `Authorization: Bearer`; good for 15 minutes")
    refresh: str = Field(description="Good for one refresh")


class Signup(Model):
    email: Email = Field(examples=["user@example.com"])
    password: NewPassword = Field(description="8 to 1024 bytes", examples=["your-password"])


class PasswordChange(Model):
    current_password: Password = Field(examples=["your-password"])
    new_password: NewPassword = Field(description="8 to 1024 bytes", examples=["your-next-password"])


class Account(Answer):
    id: UUID
    email: str


def _lifetime(deps: Deps) -> timedelta:
    return timedelta(days=deps.settings.refresh_token_days)


def _tokens(deps: Deps, session: Session) -> Response:
    lifetime = timedelta(minutes=deps.settings.access_token_minutes)
    access = issue_access(deps.keys.ring, session.user_id, session.id, lifetime)
    body = Tokens(access=access, refresh=session.refresh).model_dump_json().encode()
    return json_response(body, headers=_NO_STORE)


@router.post(
    "/api/token/",
    summary="Log in",
    response_model=Tokens,
    responses=errors(*_FAULTS, "credentials_invalid", "too_many_tries"),
)
async def create_token(request: Request, login: Login) -> Response:
    """The same answer, after the same time, for a wrong password and for an unknown user. After some wrong passwords
    each further try has to wait, up to a quarter of an hour: 429, with `Retry-After`. Of more than a hundred sessions
    of a user the one ends that was not refreshed for longest."""
    deps = deps_of(request)
    user = await check_password(request, login.username, await find_user(deps.pool, login.username), login.password)
    if deps.passwords.outdated(user.password_hash):
        await replace_hash(deps.pool, user, await deps.passwords.hash(login.password))
    session = await open_session(deps.pool, user, _lifetime(deps))
    deps.revocations.add(session.ended)
    return _tokens(deps, session)


@router.post(
    "/api/token/refresh/",
    summary="Refresh an expired access token",
    response_model=Tokens,
    responses=errors(*_FAULTS, "token_invalid", "rate_limited"),
)
async def refresh_token(request: Request, body: Refresh) -> Response:
    """Answers a new pair. A refresh token is good for one use. For ten seconds, and until the new one is used, a repeat
    is answered the same refresh token; any other second use ends the session for both parties. A session may be
    refreshed sixty times within a minute; then 429, with `Retry-After`."""
    deps = deps_of(request)
    try:
        session = await rotate(deps.pool, body.refresh, _lifetime(deps))
    except Reused as reused:
        deps.revocations.add([reused.session_id])
        raise problem("token_invalid", "The refresh token is unknown, expired or used") from None
    return _tokens(deps, session)


@router.post(
    "/api/auth/signup",
    status_code=201,
    summary="Sign up",
    response_model=Account,
    responses=errors(*_FAULTS, "not_found", "email_taken", "too_many_tries"),
)
async def signup(request: Request, body: Signup) -> Response:
    """Only where the operator allows it (`SIGNUP_ENABLED`); elsewhere there is nothing at this address."""
    deps = deps_of(request)
    await deps.throttle.signup(client_address(request))
    user = await insert_user(deps.pool, body.email, await deps.passwords.hash(body.password))
    return json_response(Account(id=user.id, email=user.email).model_dump_json().encode(), 201)


@router.post("/api/auth/logout", status_code=204, summary="Log out", responses=errors(*_FAULTS))
async def logout(request: Request, body: Refresh) -> Response:
    """Ends the session of the refresh token, if it has not ended already; its access tokens end within two seconds."""
    deps = deps_of(request)
    deps.revocations.add(await close_session(deps.pool, body.refresh))
    return Response(status_code=204)


@user_routes.post(
    "/api/auth/password",
    status_code=204,
    summary="Change the password",
    responses=errors(*_FAULTS, "token_invalid", "credentials_invalid", "too_many_tries"),
)
async def change_own_password(request: Request, body: PasswordChange) -> Response:
    """Ends every session of the user, this one too: log in again with the new password."""
    deps = deps_of(request)
    found = await get_user(deps.pool, caller_of(request).user)
    user = await check_password(request, found.email if found else "", found, body.current_password)
    ended = await change_password(deps.pool, user, await deps.passwords.hash(body.new_password))
    if ended is None:
        raise problem("credentials_invalid")
    deps.revocations.add(ended)
    return Response(status_code=204)
