"""Logs: one JSON object a line on stderr (or plain text on a terminal), with the request's ids bound to every line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

_SHOWN_DIGITS = 4
# Members of a line that may quote what somebody sent us.
_QUOTING = ("exception", "error", "reason", "detail")
# What a fault's text quotes of the data that it is about: asyncpg and Postgres, pydantic; tokens and numbers anywhere.
_QUOTES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), "[token]"),
    (re.compile(r"(Key \([^)]*\)=)\((?s:.*?)\)(?= already exists| is | conflicts)"), r"\1(…)"),
    (re.compile(r"(Failing row contains )\((?s:.*?)\)\.$", re.MULTILINE), r"\1(…)."),
    (re.compile(r"(invalid input for query argument \$\d+: ).*?( \([^()]*\))?$", re.MULTILINE), r"\1…\2"),
    (re.compile(r"(invalid input syntax for [\w ]+: )\"(?s:.*?)\"$", re.MULTILINE), r"\1…"),
    (re.compile(r"input_value=.*?(, input_type=)"), r"input_value=…\1"),
)
_PHONE = re.compile(r"\+\d{7,15}\b")
_STDERR = 2
# In UTF-8: DEL, the controls beyond ASCII, and Unicode's line and paragraph ends.
_TELLING = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")


class _Lines:
    """Writes each line at once, past Python's logging, which makes it cost eight times as much. A log that cannot be
    written (a full disk, a pipe whose reader is gone) is no reason to fail at what was being logged."""

    def msg(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(_STDERR, line)

    debug = info = warning = error = critical = exception = msg


def _dumps(event: Any, **_: Any) -> bytes:
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half an emoji, a number beyond 64 bits: a line is often written where something failed, and must not fail too.
        line = json.dumps(event, default=str).encode() + b"\n"
    # JSON lets them stand as they are; a terminal obeys the ones and a reader ends the line at the others.
    return line if line.isascii() and b"\x7f" not in line else _TELLING.sub(_escaped, line)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def scrub(text: str) -> str:
    """The text of a fault without the data that it quotes: people's words and numbers, tokens."""
    for shape, instead in _QUOTES:
        text = shape.sub(instead, text)
    return _PHONE.sub(lambda match: mask_phone(match[0]), text)


def _scrubbed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in _QUOTING:
        if isinstance(value := event.get(name), str):
            event[name] = scrub(value)
    return event


def _foreign_scrubbed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["event"] = scrub(str(event["event"]))
    return event


def _as_text(_: Any, __: str, line: Any) -> str:
    return line.decode().rstrip("\n")


def setup_logs(service: str, level: str = "INFO") -> None:
    """Send our own lines and those of libraries to stderr, in one form. Call once, before anything logs."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    to_people = sys.stderr.isatty()
    rendered: list[Any] = (
        [_scrubbed, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if to_people
        else [structlog.processors.format_exc_info, _scrubbed, structlog.processors.JSONRenderer(serializer=_dumps)]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr) if to_people else lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    as_text: list[Any] = [] if to_people else [_as_text]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _foreign_scrubbed,
                *rendered,
                *as_text,
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
