"""The provider's HTTP API, as far as we use it. Reference: Vapi's published OpenAPI document.

`POST /call` has no idempotency key, and repeating it rings the person again. So `create_call` sends exactly one request
on a fresh connection, follows no redirect, retries nothing, and tells apart what certainly was not sent, what was
refused, and what is unclear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2 as httpx

from boostedcalls.calls.settings import ProviderSettings
from boostedcalls.common import lenient_json
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import rfc3339

log = get_logger(__name__)

Json = Mapping[str, Any]

_LIST_LIMIT = 1000
_CONNECT = 3.0
_QUERY = 5.0


@dataclass(frozen=True, slots=True)
class Placed:
    """The provider accepted the call; `call` is its call object."""

    call: Json


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider said no: nothing was or will be dialled. `message` is fit for a person."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Limited:
    """429: most likely nothing was dialled. `after` in seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the request left this machine."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """The request, or a part of it, left; whether somebody's telephone rings is not known."""

    reason: str


CreateOutcome = Placed | Refused | Limited | NotSent | Unclear


class ProviderError(Exception):
    """A question to the provider failed. `status` is its HTTP status, None when there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def _message(response: httpx.Response) -> str:
    """The provider's own words, from its error body {"message": str | [str], ...}."""
    try:
        found = lenient_json.loads(response.content).get("message")
    except (ValueError, AttributeError):
        found = None
    if isinstance(found, list):
        found = "; ".join(str(part) for part in cast("list[Any]", found))
    return str(found or f"HTTP {response.status_code}").replace("\x00", "")[:500]


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(float(response.headers.get("Retry-After", "1")), 0.5), 30.0)
    except ValueError:
        return 1.0


class Vapi:
    """A client bound to one account. Open it with `open_vapi`."""

    def __init__(self, settings: ProviderSettings, dialling: httpx.AsyncClient, asking: httpx.AsyncClient) -> None:
        self._dialling = dialling
        self._asking = asking
        self._auth = {"Authorization": f"Bearer {settings.vapi_api_key.get_secret_value()}"}
        self._base = settings.vapi_base_url
        self._hosts = settings.vapi_control_hosts
        self._budget = _CONNECT + 5 + settings.dispatch_read_timeout

    async def create_call(self, body: Json) -> CreateOutcome:
        """Send one `POST /call`. Never raises but for cancellation."""
        try:
            async with asyncio.timeout(self._budget):
                response = await self._dialling.post(f"{self._base}/call", json=dict(body), headers=self._auth)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            return NotSent(type(error).__name__)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            return Unclear(type(error).__name__)
        status = response.status_code
        if status == 429:
            return Limited(_retry_after(response))
        if 400 <= status < 500 and status not in {408, 409}:
            return Refused(status, _message(response))
        if status not in {200, 201}:
            return Unclear(f"HTTP {status}")
        try:
            call = lenient_json.loads(response.content)
        except ValueError:
            return Unclear("an answer that is no JSON")
        if not isinstance(call, dict) or not isinstance(cast("Json", call).get("id"), str):
            return Unclear("an answer without a call id")
        return Placed(cast("Json", call))

    async def _get(self, path: str, params: Mapping[str, str | int] | None = None, timeout: float = _QUERY) -> Any:
        try:
            async with asyncio.timeout(timeout):
                response = await self._asking.get(f"{self._base}{path}", params=params, headers=self._auth)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise ProviderError(f"no answer ({type(error).__name__})") from error
        if response.status_code != 200:
            raise ProviderError(_message(response), response.status_code)
        try:
            return lenient_json.loads(response.content)
        except ValueError:
            raise ProviderError("an answer that is no JSON", 200) from None

    async def get_call(self, provider_call_id: str, timeout: float = _QUERY) -> Json:
        """The provider's call object. Raises ProviderError, with status 404 when it does not know the call."""
        found = await self._get(f"/call/{provider_call_id}", timeout=timeout)
        if not isinstance(found, dict) or not isinstance(cast("Json", found).get("id"), str):
            raise ProviderError("an answer that is no call", 200)
        return cast("Json", found)

    async def list_calls(self, since: datetime, until: datetime) -> list[Json]:
        """All calls created in [since, until]. The API has no cursor: a full page means that the window is halved.
        Raises ProviderError."""
        params = {
            "createdAtGe": rfc3339(since, "milliseconds"),
            "createdAtLe": rfc3339(until, "milliseconds"),
            "limit": _LIST_LIMIT,
        }
        found = await self._get("/call", params)
        if not isinstance(found, list):
            raise ProviderError("an answer that is no list", 200)
        calls = [cast("Json", call) for call in cast("list[Any]", found) if isinstance(call, dict)]
        if len(calls) < _LIST_LIMIT or until - since < timedelta(milliseconds=10):
            return calls
        middle = since + (until - since) / 2
        return await self.list_calls(since, middle) + await self.list_calls(middle, until)

    def may_control(self, url: str) -> bool:
        """Whether a control URL points to the provider: https at an allowed host, or the API's own origin."""
        try:
            parts = urlsplit(url)
            base = urlsplit(self._base)
            if parts.username or parts.password:
                return False
            if (parts.scheme, parts.hostname, parts.port) == (base.scheme, base.hostname, base.port):
                return True
            host = parts.hostname or ""
            allowed = any(host == name.lstrip(".") or (name[0] == "." and host.endswith(name)) for name in self._hosts)
            return parts.scheme == "https" and parts.port in {None, 443} and allowed
        except ValueError:
            return False

    async def end_call(self, control_url: str) -> None:
        """Hang up a live call. The URL is a capability: our key is not sent along. Raises ProviderError."""
        if not self.may_control(control_url):
            raise ProviderError("the call has no control URL of the provider's", 409)
        try:
            async with asyncio.timeout(_QUERY):
                response = await self._dialling.post(control_url, json={"type": "end-call"})
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise ProviderError(f"no answer ({type(error).__name__})") from error
        if response.status_code >= 300:
            raise ProviderError(_message(response), response.status_code)


async def open_vapi(stack: AsyncExitStack, settings: ProviderSettings) -> Vapi:
    """The client; it closes with the stack. Nothing connects yet."""
    # A pooled connection that the other side has just closed would make a dial's outcome unclear: one each.
    dialling = httpx.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        transport=httpx.AsyncHTTPTransport(retries=0, limits=httpx.Limits(max_keepalive_connections=0)),
        timeout=httpx.Timeout(connect=_CONNECT, write=5, read=settings.dispatch_read_timeout, pool=1),
    )
    asking = httpx.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(_QUERY, connect=_CONNECT),
        # More than the looks of a job: whoever reads or cancels a call does not wait behind them.
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20),
    )
    await stack.enter_async_context(dialling)
    await stack.enter_async_context(asking)
    return Vapi(settings, dialling, asking)
