"""Provider events -> calls: one transaction a batch. What it raises decides the message's fate (common/bus/consume)."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from pydantic import ValidationError

from boostedcalls.calls import matching
from boostedcalls.calls.dispatch import Deps
from boostedcalls.common.bus import Delivery
from boostedcalls.common.context import caller
from boostedcalls.common.db import SERVICE, Connection, transaction
from boostedcalls.common.errors import Poison
from boostedcalls.common.events import ProviderEvent

# Also those that said nothing of a call: what stands here needs no further thought (audit.py).
_SETTLED = """
    INSERT INTO calls.settled (sequences)
    SELECT range_agg(int8range(sequence, sequence, '[]')) FROM unnest($1::bigint[]) AS sequence
"""


def _arrival(delivery: Delivery) -> matching.Arrival:
    try:
        # orjson makes a float of a number that it could not write again as an integer.
        return matching.Arrival(delivery.sequence, ProviderEvent.model_validate(orjson.loads(delivery.data)))
    except orjson.JSONDecodeError as error:
        raise Poison("not a provider event: no JSON") from error
    except ValidationError as error:
        raise Poison(f"not a provider event: {error.error_count()} faults") from error


async def apply_batch(deps: Deps, deliveries: Sequence[Delivery]) -> None:
    """Join a batch of provider events into their calls. Raises Poison for what is no provider event, Unavailable when
    the database is away."""
    async with transaction(deps.pool, SERVICE) as connection:
        tally = await join_batch(connection, deps, deliveries)
    tally.count()
    deps.relay.wake()


async def join_batch(connection: Connection, deps: Deps, deliveries: Sequence[Delivery]) -> matching.Tally:
    """`apply_batch` in the caller's transaction; the tally is to be counted once that is committed."""
    arrivals = [_arrival(delivery) for delivery in deliveries]
    traceparent = caller(traceparent=deliveries[-1].headers.get("traceparent")).traceparent
    await connection.execute(_SETTLED, [delivery.sequence for delivery in deliveries])
    return await matching.apply(connection, arrivals, deps.settings, deps.secret, traceparent)
