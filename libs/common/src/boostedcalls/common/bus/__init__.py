"""The bus: requests, answers, durable publishing and consuming over NATS. Nothing else imports nats-py."""

# ruff: noqa: E402

import sys

# nats-py loads aiohttp, where the simulator has brought it along, for WebSockets, which nobody here speaks: 12 MB of
# memory. A module that is None cannot be imported.
_hidden = "aiohttp" not in sys.modules
if _hidden:
    sys.modules["aiohttp"] = None  # pyright: ignore[reportArgumentType]
import nats.aio.client as _  # pyright: ignore[reportUnusedImport]  # noqa: F401

if _hidden:
    del sys.modules["aiohttp"]

from boostedcalls.common.bus.batch import publish_all
from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.consume import Delivery, consume, dead_letter
from boostedcalls.common.bus.opening import connect
from boostedcalls.common.bus.outgoing import Outgoing, event_message
from boostedcalls.common.bus.rpc import Endpoint, endpoint, serve
from boostedcalls.common.bus.settings import NatsSettings
from boostedcalls.common.bus.streams import ensure_streams, wait_for_streams

__all__ = [
    "Bus",
    "Delivery",
    "Endpoint",
    "NatsSettings",
    "Outgoing",
    "connect",
    "consume",
    "dead_letter",
    "endpoint",
    "ensure_streams",
    "event_message",
    "publish_all",
    "serve",
    "wait_for_streams",
]
