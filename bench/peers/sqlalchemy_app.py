"""FastAPI with SQLAlchemy 2 (async, on asyncpg): one uvicorn process (uvloop, httptools), no messaging.

Webhooks are applied in the request: the row is locked, updated and committed. Tuned where its documents say how:
statements over mapped columns instead of sessions and objects (a quarter less CPU time for a webhook), reads in
AUTOCOMMIT (no BEGIN and ROLLBACK around one SELECT), orjson for answers and JSON columns, a pool that is never pinged.
It has the index (user, created_at DESC) that its lists want. Counts are counted and stats are aggregated.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import jwt
import orjson
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from sqlalchemy import Date, Row, Select, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench.peers import dashboard, vapi
from bench.peers.tables import Call, Contact, Login

_CONNECTIONS = 20
_JWT_SECRET, _WEBHOOK_SECRET = os.environ["JWT_SECRET"], os.environ["VAPI_WEBHOOK_SECRET"]
hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
_ITEM = (
    Call.id,
    Call.status,
    Call.transcript,
    Call.summary,
    Call.started_at,
    Call.ended_at,
    Call.duration_seconds,
    Call.created_at,
)


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    engine = create_async_engine(
        os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=_CONNECTIONS,
        max_overflow=0,
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
    )
    app.state.reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    app.state.engine = engine
    yield
    await engine.dispose()


app = FastAPI(lifespan=_lifespan)


def _answer(value: Any) -> Response:
    # asyncpg's UUIDs are of a class of their own, which orjson does not know.
    return Response(orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z), media_type="application/json")


async def _reading(request: Request) -> AsyncGenerator[AsyncConnection]:
    async with request.app.state.reading.connect() as connection:
        yield connection


def _user(authorization: Annotated[str, Header()] = "") -> UUID:
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), _JWT_SECRET, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        raise HTTPException(401, "token_invalid") from None
    return UUID(claims["sub"])


Reading = Annotated[AsyncConnection, Depends(_reading)]
UserId = Annotated[UUID, Depends(_user)]


def _matches(password: str, password_hash: str) -> bool:
    try:
        return hasher.verify(password_hash, password)
    except VerificationError:
        return False


@app.post("/api/token/")
async def token(request: Request, connection: Reading) -> Response:
    body = orjson.loads(await request.body())
    found = (
        await connection.execute(select(Login.id, Login.password).where(Login.email == body["username"]))
    ).one_or_none()
    if found is None or not await asyncio.to_thread(_matches, body["password"], found.password):
        raise HTTPException(401, "wrong credentials")
    now = datetime.now(UTC)
    claims = {"sub": str(found.id), "iat": now}
    access = jwt.encode({**claims, "exp": now + timedelta(days=1)}, _JWT_SECRET, algorithm="HS256")
    refresh = jwt.encode({**claims, "exp": now + timedelta(days=7), "use": "refresh"}, _JWT_SECRET, algorithm="HS256")
    return _answer({"access": access, "refresh": refresh})


def _item(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "contact": {"id": row.contact_id, "name": row.contact_name, "phone": row.contact_phone},
        "status": row.status,
        "transcript": row.transcript,
        "summary": row.summary,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "duration_seconds": row.duration_seconds,
        "created_at": row.created_at,
    }


def _with_contact(*more: Any) -> Select[Any]:
    contact = (Contact.id.label("contact_id"), Contact.name.label("contact_name"), Contact.phone.label("contact_phone"))
    return select(*_ITEM, *contact, *more).join(Contact, Contact.id == Call.contact_id)


@app.get("/api/calls/")
async def calls(
    connection: Reading,
    user: UserId,
    page: Annotated[int, Query(ge=1)] = 1,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Annotated[list[str] | None, Query()] = None,
) -> Response:
    which = [Call.user_id == user, *([Call.status.in_(status)] if status else [])]
    total = await connection.scalar(select(func.count()).select_from(Call).where(*which))
    newest = _with_contact().where(*which).order_by(Call.created_at.desc())
    rows = await connection.execute(newest.limit(limit).offset((page - 1) * limit))
    return _answer({"total": total, "page": page, "limit": limit, "data": [_item(row) for row in rows]})


@app.get("/api/calls/pending-count/")
async def pending_count(connection: Reading, user: UserId) -> Response:
    active = select(func.count()).select_from(Call).where(Call.user_id == user, Call.status.in_(vapi.ACTIVE))
    return _answer({"count": await connection.scalar(active)})


@app.get("/api/calls/stats/")
async def stats(connection: Reading, user: UserId) -> Response:
    failed = func.count().filter(Call.status == "failed")
    total = select(func.coalesce(func.sum(Call.cost), Decimal(0)), func.count(), failed).where(Call.user_id == user)
    spent, made, lost = (await connection.execute(total)).one()
    contacts = await connection.scalar(select(func.count()).select_from(Contact).where(Contact.user_id == user))
    day = cast(func.timezone("UTC", Call.created_at), Date)
    since = datetime.combine(dashboard.first_day(), datetime.min.time(), UTC)
    daily = await connection.execute(
        select(day, func.count())
        .where(Call.user_id == user, Call.status == "completed", Call.created_at >= since)
        .group_by(day)
    )
    completed: dict[date, int] = {row[0]: row[1] for row in daily}
    return _answer(dashboard.answer(spent, made, lost, contacts or 0, completed))


@app.post("/api/calls/webhook/")
async def webhook(request: Request, x_vapi_secret: Annotated[str, Header()] = "") -> Response:
    if not hmac.compare_digest(x_vapi_secret, _WEBHOOK_SECRET):
        raise HTTPException(401, "webhook_auth_failed")
    message = orjson.loads(await request.body())["message"]
    if call_id := vapi.call_id_of(message):
        which = Call.vapi_call_id == call_id
        async with request.app.state.engine.begin() as connection:
            status = await connection.scalar(select(Call.status).where(which).with_for_update())
            if status is not None and (changes := vapi.changes(status, message)):
                await connection.execute(update(Call).where(which).values(changes))
    return _answer({"ok": True})


@app.get("/api/calls/{call_id}/")
async def one_call(call_id: UUID, connection: Reading, user: UserId) -> Response:
    more = (Call.vapi_call_id, Call.analysis, Call.messages, Call.recording_url, Call.cost)
    given = Call.request_metadata.label("given")
    contact = (Contact.email, Contact.details.label("details"), Contact.created_at.label("contact_created_at"))
    wanted = _with_contact(*more, given, *contact).where(Call.user_id == user, Call.id == call_id)
    found = await connection.execute(wanted)
    row = found.one_or_none()
    if row is None:
        raise HTTPException(404, "call_not_found")
    cost = None if row.cost is None else float(row.cost)
    added = {"recordingUrl": row.recording_url, "messages": row.messages, "cost": cost}
    item = _item(row)
    item["contact"] |= {"email": row.email, "metadata": row.details, "created_at": row.contact_created_at}
    metadata = row.given | {name: value for name, value in added.items() if value is not None}
    return _answer({**item, "vapi_call_id": row.vapi_call_id, "analysis": row.analysis, "metadata": metadata})


@app.get("/api/contacts/")
async def contacts(connection: Reading, user: UserId) -> Response:
    columns = (Contact.id, Contact.name, Contact.phone, Contact.email, Contact.details, Contact.created_at)
    rows = await connection.execute(select(*columns).where(Contact.user_id == user).order_by(Contact.created_at))
    names = ("id", "name", "phone", "email", "metadata", "created_at")
    return _answer([dict(zip(names, row, strict=True)) for row in rows])


@app.get("/healthz")
async def healthz() -> Response:
    return _answer({"ok": True})
