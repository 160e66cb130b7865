"""Freezing processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from boostedcalls.devkit.procs import frozen

_BUSY = """
import threading
for _ in range(8):
    threading.Thread(target=lambda: [sum(range(1000)) for _ in iter(int, 1)], daemon=True).start()
print("busy", flush=True)
threading.Event().wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are seen through /proc")
def test_every_thread_of_a_frozen_process_stands_still():
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"busy\n"
            for _ in range(20):
                with frozen(process.pid):
                    found = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
                    assert {each.rpartition(")")[2].split()[0] for each in found} == {"T"}
                    assert len(found) == 9
        finally:
            process.kill()
