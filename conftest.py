"""For the tests of every member."""

from __future__ import annotations

import structlog


def pytest_configure() -> None:
    """What tests log themselves shows traces as they are: `rich`, which comes with schemathesis, takes a tenth of a
    second to paint each."""
    defaults = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*defaults[:-1], plain])
