"""Log lines as another process writes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, logging, sys
from boostedcalls.common.logs import get_logger, setup_logs
setup_logs("test")
text = json.loads(sys.argv[1])
get_logger("x").info("said", text=text)
logging.getLogger("library").warning(text)
"""


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x07\r\n{}", "a\x7fb", "\x9b31m\x85\x80", "a\u2028b\u2029c", "é\u200b ü", "\ud800\x9b"]
)
def test_text_that_tells_a_terminal_something_stays_inside_its_line(text):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(text)], capture_output=True, check=True, timeout=60
    )
    ours, library = done.stderr.splitlines()
    assert (json.loads(ours)["text"], json.loads(library)["event"]) == (text, text)
    assert [
        line for line in (ours, library) for sign in line.decode() if not sign.isprintable() and sign != "\u200b"
    ] == []
