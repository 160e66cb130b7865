"""Placing a call: at most once, then reconcile (docs/adr/0002).

The claim is committed before the first byte leaves, and a claimed call without a provider id is never posted again:
what became of it is found out by listing the provider's calls. Only an attempt that certainly sent nothing gives its
claim back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID

from prometheus_client import Counter

from boostedcalls.calls import matching, reports, schedule, signing, store
from boostedcalls.calls.payload import create_call_body
from boostedcalls.calls.settings import CallsSettings, ProviderSettings
from boostedcalls.calls.state import Fact, Source, timeline_entry
from boostedcalls.calls.vapi import Json, Limited, NotSent, Placed, ProviderError, Refused, Unclear, Vapi
from boostedcalls.common.context import Caller
from boostedcalls.common.db import SERVICE, Pool, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.calls import CallStatus
from boostedcalls.common.outbox import Relay
from boostedcalls.common.redact import redact

log = get_logger(__name__)

DIALS = Counter("boostedcalls_dials_total", "Requests to place a call, by what became of them", ["outcome"])

# A process that was stopped between its claim and its request must not dial when it wakes up.
_CLAIM_FRESH = 2.0
_MAX_LIMITED = 3
_CLOCK_SKEW = timedelta(seconds=120)
_ADOPT_TRIES = 8


@dataclass(frozen=True, slots=True)
class Deps:
    """What the calls service works with."""

    pool: Pool
    vapi: Vapi
    relay: Relay
    settings: CallsSettings
    provider: ProviderSettings

    @property
    def secret(self) -> bytes:
        return self.provider.call_signing_secret.get_secret_value().encode()


async def change(deps: Deps, who: Caller, call_id: UUID, learned: store.Change) -> store.Row:
    """Join what was learned into one call, in a transaction of its own; `learned.row` is read anew under the lock.
    Raises Unavailable when the database is away."""
    late = False
    async with transaction(deps.pool, SERVICE) as connection:
        (learned.row,) = await store.lock(connection, [call_id])
        if learned.provider_call_id:
            if learned.row["provider_call_id"] not in {None, learned.provider_call_id}:
                # What is said of another call at the provider must not change this one.
                matching.CONFLICTS.inc()
                log.error("placed_twice", call_id=str(call_id), provider_call_id=learned.provider_call_id)
                return learned.row
            late = matching.given_up(learned.row)
            await matching.unpark(connection, [learned])
        (row,) = await store.write(connection, [learned], deps.settings, who.traceparent)
    if late:
        matching.LATE.inc()
    deps.relay.wake()
    return row


async def _adopt(deps: Deps, who: Caller, row: store.Row, call: Json, fact: Fact) -> store.Row | None:
    """Record that the provider has the call, and return its row; tried for a while, since nothing else knows the
    provider's id yet. None when the database stayed away: then the sweep finds the call again."""
    learned = store.Change(row, [fact], provider_call_id=str(call["id"]), control_url=control_url(call))
    for attempt in range(_ADOPT_TRIES):
        try:
            adopted = await change(deps, who, row["id"], learned)
            break
        except Unavailable as error:
            log.warning("adoption_waits", call_id=str(row["id"]), reason=str(error))
            await asyncio.sleep(min(0.5 * 2**attempt, 10))
    else:
        log.error("adoption_left_to_reconcile", call_id=str(row["id"]), provider_call_id=str(call["id"]))
        return None
    if adopted["hang_up_wanted"]:
        await hang_up(deps, adopted)
    return adopted


def control_url(call: Json) -> str | None:
    """The URL to control a live call by; some documents wrap it in angle brackets."""
    monitor = call.get("monitor")
    url = monitor.get("controlUrl") if isinstance(monitor, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return url.strip("<> ") if isinstance(url, str) and url else None


async def hang_up(deps: Deps, row: store.Row) -> bool:
    """Ask the provider to end a call; False when it did not accept that (a sync will try again)."""
    if not row["control_url"]:
        return False
    try:
        await deps.vapi.end_call(row["control_url"])
    except ProviderError as error:
        log.warning("hang_up_failed", call_id=str(row["id"]), reason=str(error))
        return False
    log.info("hung_up", call_id=str(row["id"]))
    return True


async def dispatch(deps: Deps, who: Caller, call_id: UUID, attempts: int = 100) -> store.Row | None:
    """Place the call if it is still there to be placed; up to `attempts` times where nothing was sent, until the call
    is overdue. Returns the row in which the outcome was recorded, None while that is unclear. Raises Unavailable when
    the database is away."""
    limited = 0
    for attempt in range(attempts):
        row = await _claim(deps, who, call_id)
        if row is None:
            return None
        outcome = await deps.vapi.create_call(create_call_body(row, deps.provider))
        DIALS.labels(type(outcome).__name__.lower()).inc()
        match outcome:
            case NotSent(reason):
                log.warning("call_not_sent", call_id=str(call_id), reason=reason)
                wait = min(0.5 * 2**attempt, 8) * random.uniform(0.5, 1)  # noqa: S311
            case Limited(after):
                limited += 1
                if limited > _MAX_LIMITED or await reconcile(deps, who, row) is not False:
                    return None
                wait = after
            case _:
                return await _record(deps, who, row, outcome)
        async with transaction(deps.pool, SERVICE) as connection:
            await store.release(connection, row, wait + 5)
        if attempt + 1 < attempts:
            await asyncio.sleep(wait)
    return None


async def _claim(deps: Deps, who: Caller, call_id: UUID) -> store.Row | None:
    """Claim the call, committed; None when it is not ours to send."""
    async with transaction(deps.pool, SERVICE) as connection:
        started = monotonic()
        row = await store.claim(connection, call_id, deps.settings)
    if row is None:
        await _give_up_if_overdue(deps, who, call_id)
        return None
    if monotonic() - started > _CLAIM_FRESH:
        DIALS.labels("claim_stale").inc()
        # Nothing was sent under this claim, and nothing will be.
        async with transaction(deps.pool, SERVICE) as connection:
            await store.release(connection, row, again_in=0)
        return None
    return row


async def _record(deps: Deps, who: Caller, row: store.Row, outcome: Placed | Refused | Unclear) -> store.Row | None:
    call_id = str(row["id"])
    match outcome:
        case Placed(call):
            log.info("call_placed", call_id=call_id, provider_call_id=call["id"])
            return await _adopt(deps, who, row, call, reports.create_answer(call, datetime.now(UTC)))
        case Refused(status, message):
            log.warning("call_refused", call_id=call_id, status=status)
            return await _fail(deps, who, row, "rejected", message)
        case Unclear(reason):
            log.warning("call_unclear", call_id=call_id, reason=reason)
            detail = {"outcome": "unclear", "reason": reason}
            line = timeline_entry(row["id"], "dispatch", "dispatch", datetime.now(UTC), None, detail)
            await change(deps, who, row["id"], store.Change(row, entries=[line]))
            # A first look at once: often the call is there already. The sweep's looks follow in any case.
            await reconcile(deps, who, row)
            return None


async def _fail(deps: Deps, who: Caller, row: store.Row, code: str, message: str) -> store.Row:
    verdict = Fact(
        Source.OURS, datetime.now(UTC), CallStatus.FAILED, error_code=code, error_message=message[:2000] or None
    )
    return await change(deps, who, row["id"], store.Change(row, [verdict], dispatch_closed=True))


async def _give_up_if_overdue(deps: Deps, who: Caller, call_id: UUID) -> None:
    """A call that nobody could place in time is not placed later, when nobody expects it any more."""
    async with reading(deps.pool, SERVICE) as connection:
        record = await connection.fetchrow("SELECT * FROM calls.calls WHERE id = $1", call_id)
    if record is None or record["dispatch_started_at"] or record["dispatch_closed"] or record["provider_call_id"]:
        return
    age = datetime.now(UTC) - record["created_at"]
    if record["status"] == CallStatus.PENDING and age.total_seconds() >= deps.settings.dispatch_deadline:
        await _fail(deps, who, dict(record), "not_placed", "The provider could not be reached; nobody was called.")


async def reconcile(deps: Deps, who: Caller, row: store.Row) -> bool | None:
    """Look for the call at the provider, by the id we gave it. True: found and adopted. False: it was not in the list.
    None: the list could not be read."""
    since = row["dispatch_started_at"] - _CLOCK_SKEW
    until = row["dispatch_started_at"] + timedelta(seconds=30) + _CLOCK_SKEW
    try:
        listed = await deps.vapi.list_calls(since, until)
    except ProviderError as error:
        log.warning("list_failed", call_id=str(row["id"]), reason=str(error))
        return None
    # By id: a call on the edge of two windows of the listing is in both.
    found = {call["id"]: call for call in listed if _is_ours(deps, row, call)}
    ours = sorted(found.values(), key=lambda call: str(call.get("createdAt")))
    if not ours:
        return False
    if len(ours) > 1:
        log.error("placed_twice", call_id=str(row["id"]), provider_call_ids=[call["id"] for call in ours])
        matching.CONFLICTS.inc()
    log.info("call_found", call_id=str(row["id"]), provider_call_id=ours[0]["id"])
    await _adopt(deps, who, row, ours[0], reports.snapshot(redact(dict(ours[0])), datetime.now(UTC)))
    return True


def _is_ours(deps: Deps, row: store.Row, call: Json) -> bool:
    if not isinstance(call.get("id"), str):
        return False
    claim = signing.claimed_call(call)
    if claim is not None and claim[0] == row["id"]:
        return signing.verified(deps.secret, claim[1], row["id"], row["user_id"])
    return call.get("name") == str(row["id"])


async def reconcile_step(deps: Deps, who: Caller, row: store.Row) -> bool:
    """One look of the sweep for a call whose placing is unclear; the last empty one ends it as `not_placed`. False when
    the provider could not be asked, so that the look does not count (but not for longer than a call may take)."""
    found = await reconcile(deps, who, row)
    if found is None and schedule.too_old(row, deps.settings, datetime.now(UTC)):
        await _fail(deps, who, row, "timed_out", "The provider could not be asked whether it placed the call.")
    if found is False and row["checks"] + 1 >= len(deps.settings.reconcile_steps):
        log.warning("not_placed", call_id=str(row["id"]))
        await _fail(deps, who, row, "not_placed", "The provider has no such call; it is safe to place it anew.")
    return found is not None
