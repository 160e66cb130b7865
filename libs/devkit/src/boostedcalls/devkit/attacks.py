"""Counts what the security tests try: a table of attack classes at the end of a pytest run.

The counts travel with the test reports, so they are complete under xdist too. docs/security.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

_PROPERTY = "attack"
Attacks = Callable[..., None]


@pytest.fixture
def attacks(record_property: Callable[[str, object], None]) -> Attacks:
    """`attacks("JWT: alg none", 12)` after trying twelve of a class; the count is 1 when it is left out."""

    def tried(kind: str, count: int = 1) -> None:
        record_property(_PROPERTY, (kind, count))

    return tried


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == _PROPERTY:
                        counts[value[0]] += value[1]
    if counts:
        terminalreporter.section("attack classes")
        width = max(map(len, counts))
        for kind, count in sorted(counts.items()):
            terminalreporter.write_line(f"{kind:<{width}}  {count:>9,}")
        terminalreporter.write_line(f"{'in all':<{width}}  {counts.total():>9,}")
