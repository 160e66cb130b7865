"""What we are measured beside does what it claims: four webhooks of a call, and its end is to be seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from bench.bodies import templates
from bench.contender import Contender
from bench.data import PASSWORD, DataSet, call_id, conversations, email, live_call_id, live_provider_id, user_id
from bench.peers.start import PEERS

DATA = DataSet(calls=200, users=2, contacts=10, live=2)
RINGING, IN_PROGRESS, ENDED, REPORT = range(4)


@asynccontextmanager
async def running(name: str, folder: Path, **options: Any) -> AsyncGenerator[tuple[Contender, httpx2.AsyncClient]]:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(PEERS[name](folder, DATA, nats_sync="always", **options))
        client = httpx2.AsyncClient(base_url=peer.url, timeout=20, trust_env=False)
        yield peer, await stack.enter_async_context(client)


async def tell(peer: Contender, http: httpx2.AsyncClient, *events: int, secret: str = "") -> None:
    for event in events:
        headers = {"x-vapi-secret": secret or peer.secret, "content-type": "application/json"}
        answer = await http.post("/api/calls/webhook/", content=templates().of(event, 0), headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"ok": True})


async def log_in(http: httpx2.AsyncClient, user: int) -> None:
    answer = await http.post("/api/token/", json={"username": email(user), "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    http.headers["Authorization"] = f"Bearer {answer.json()['access']}"


async def seen(http: httpx2.AsyncClient, path: str) -> Any:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_reported(status: str, transcript: str | None) -> bool:
    return status == "completed" and transcript in {each.transcript for each in conversations()}


@pytest.mark.parametrize("name", ["django", "django-persistent", "sqlalchemy"])
async def test_webhooks_show_over_rest(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path) as (peer, http):
        refused = await http.post("/api/calls/webhook/", json={"message": {}}, headers={"x-vapi-secret": "wrong"})
        assert refused.status_code == 401
        assert (await http.get("/api/calls/")).status_code == 401
        await log_in(http, 0)
        path = f"/api/calls/{live_call_id(0)}/"

        for event, status in ((RINGING, "ringing"), (IN_PROGRESS, "in-progress"), (ENDED, "completed")):
            await tell(peer, http, event)
            assert (await seen(http, path))["status"] == status
        await tell(peer, http, REPORT, RINGING, IN_PROGRESS)

        call = await seen(http, path)
        assert is_reported(call["status"], call["transcript"])
        assert call["metadata"]["cost"] == 0.04
        assert call["duration_seconds"] == 25
        assert call["analysis"]["successEvaluation"] == "true"

        page = await seen(http, "/api/calls/?limit=2")
        assert [page["total"], page["page"], page["limit"]] == [102, 1, 2]
        assert [item["id"] for item in page["data"]] == [str(live_call_id(1)), str(live_call_id(0))]
        assert set(page["data"][0]["contact"]) == {"id", "name", "phone"}
        rows = DATA.call_rows(datetime.now(UTC))
        failed = sum(row.user_id == user_id(0) and row.status == "failed" for row in rows)
        assert (await seen(http, "/api/calls/?status=failed"))["total"] == failed
        assert await seen(http, "/api/calls/pending-count/") == {"count": 1}
        assert len(await seen(http, "/api/contacts/")) == 5
        stats = await seen(http, "/api/calls/stats/")
        assert [card["value"] for card in stats["cards"]][1:] == ["102", str(failed), "5"]
        assert len(stats["lineChart"]["points"]) == 14
        assert stats["lineChart"]["points"][-1]["y"] >= 1

        await log_in(http, 1)
        assert (await http.get(path)).status_code == 404
        assert (await seen(http, f"/api/calls/{call_id(1)}/"))["status"] == "completed"


async def test_faststream_applies_webhooks(tmp_path: Path) -> None:
    async with running("faststream", tmp_path) as (peer, http):
        await tell(peer, http, RINGING, IN_PROGRESS, ENDED, REPORT, RINGING)
        connection = await asyncpg.connect(peer.database_url)
        try:
            for _ in range(200):
                row = await connection.fetchrow(
                    "SELECT status, transcript, cost FROM calls WHERE vapi_call_id = $1", live_provider_id(0)
                )
                if row["transcript"]:
                    break
                await asyncio.sleep(0.05)
        finally:
            await connection.close()
        assert is_reported(row["status"], row["transcript"])
        assert float(row["cost"]) == 0.04


@pytest.mark.parametrize("name", ["floor-publish", "floor-constant"])
async def test_floors_answer(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path) as (peer, http):
        await tell(peer, http, RINGING, IN_PROGRESS, ENDED, REPORT)
