"""For the tests of every member."""

from __future__ import annotations

import pytest
import structlog

# What takes longest, longest first: begun last, one of them would go on alone when all else is done.
_LONG = (
    *("test_chaos", "test_idempotency", "test_outages", "test_make_run", "test_scenarios", "test_every_await"),
    *("test_replicas", "test_bus_server_loss", "test_mechanisms", "test_text", "test_provider_outages"),
)


def pytest_configure() -> None:
    """What tests log themselves shows traces as they are: `rich`, which comes with schemathesis, takes a tenth of a
    second to paint each."""
    defaults = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*defaults[:-1], plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are handed out to the workers in this order (`--no-loadscope-reorder`)."""
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: (places.get(item.path.stem, len(places)), "/tests/security/" not in str(item.path)))
