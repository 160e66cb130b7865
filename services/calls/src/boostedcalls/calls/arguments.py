"""The arguments of the calls service's commands."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from uuid import UUID

from boostedcalls.calls.dead_letters import ORIGINS

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Parser(argparse.ArgumentParser):
    """One line for a fault; `--help` says the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def moment(text: str) -> datetime:
    """A time as in RFC 3339 (UTC where no zone is named), or how long ago it was: 30m, 2h, 7d."""
    try:
        if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"neither a time (2026-11-22T10:30:00Z) nor an age (2h): {text!r}") from None


def places(text: str) -> tuple[tuple[int, int], ...]:
    """Places in a stream: `12`, `12-20`, `3,12-20`."""
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last:
            raise argparse.ArgumentTypeError(f"neither a number from 1 on nor a range (12-20): {part!r}")
        found.append((first, last))
    return tuple(found)


def rate(text: str) -> float:
    try:
        if 0 < (found := float(text)) <= 10_000:
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")


def as_uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def read_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line. Leaves with exit code 2 and one line when it is wrong."""
    parser = _Parser(prog="python -m boostedcalls.calls", description="Without a command: serve.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the schema calls up to date")
    commands.add_parser("sync-stale", help="ask the provider about every call without news")
    commands.add_parser(
        "audit",
        help="count the provider's events that are applied, dead-lettered, pending; fails when one is none of it",
    )
    letters = commands.add_parser("dead-letters", help="what could not be handled", allow_abbrev=False)
    actions = letters.add_subparsers(dest="action", metavar="list|replay", required=True)
    shown = actions.add_parser("list", help="a line for each, without its body", allow_abbrev=False)
    shown.add_argument("--json", action="store_true", help="a JSON object for each")
    again = actions.add_parser("replay", help="send their messages once more", allow_abbrev=False)
    again.add_argument("--dry-run", action="store_true", help="only say what would be done")
    again.add_argument("--again", action="store_true", help="also what was replayed before")
    again.add_argument("--rate", type=rate, default=50.0, metavar="N", help="so many a second (50)")
    for command in (shown, again):
        _add_filters(command)
    arguments = parser.parse_args(given)
    if arguments.command == "dead-letters" and arguments.action == "replay" and not _chosen(arguments):
        again.error("say which: --since, --until, --call, --sequence, --origin or --all")
    return arguments


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--since", type=moment, metavar="TIME", help="from then on: 2026-11-22T10:30:00Z, or 2h")
    command.add_argument("--until", type=moment, metavar="TIME", help="up to then")
    command.add_argument("--call", metavar="ID", help="of this call: our id, or the provider's")
    command.add_argument("--sequence", type=places, default=(), metavar="N", help="places in DLQ: 12, or 3,12-20")
    command.add_argument("--origin", choices=ORIGINS, help="where they came from")
    command.add_argument("--all", action="store_true", help="all of them")


def _chosen(arguments: argparse.Namespace) -> bool:
    given = (arguments.since, arguments.until, arguments.call, arguments.sequence, arguments.origin, arguments.all)
    return any(given)
