"""`python -m boostedcalls.devkit`: `run [--with-parent]`, or `exec SERVICE ARGUMENTS…` with the running settings."""

from __future__ import annotations

import signal
import sys

from boostedcalls.devkit.child import die_with_parent
from boostedcalls.devkit.run import command, run


def main(arguments: list[str]) -> int:
    match arguments:
        case [] | ["run"]:
            return run()
        case ["run", "--with-parent"]:
            # `make` may be killed instead of us.
            die_with_parent(signal.SIGTERM)
            return run()
        case ["exec", service, *rest]:
            return command(service, *rest)
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2


sys.exit(main(sys.argv[1:]))
