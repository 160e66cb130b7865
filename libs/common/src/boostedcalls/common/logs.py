"""Logs: one JSON object a line on stderr (or plain text on a terminal), with the request's ids bound to every line."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

_SHOWN_DIGITS = 4


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def setup_logs(service: str, level: str = "INFO") -> None:
    """Send our own lines and those of libraries through one renderer. Call once, before anything logs."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("event"),
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their request lines would carry query strings; our own access line does not.
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "uvicorn.access", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # With a trace at each try while the database is away; db.py says it once.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes an event name and fields: `log.info("call_placed", call_id=…)`."""
    return structlog.stdlib.get_logger(name)


def mask_phone(phone: str) -> str:
    """A phone number fit for a log: `+12025550100` becomes `+•••••••0100`."""
    return "+" + "•" * max(len(phone) - 1 - _SHOWN_DIGITS, 0) + phone[-_SHOWN_DIGITS:]
