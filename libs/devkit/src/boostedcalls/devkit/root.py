"""Running Postgres as root: the server refuses uid 0, so it gets another uid and one capability.

The child becomes `nobody` and keeps only CAP_DAC_OVERRIDE (the right to pass by file modes) as an ambient capability.
So it reaches its binaries and its data wherever they are, below a /root of mode 700 too, and nothing needs to be
copied, moved or opened up. The other ways were worse: a user namespace is forbidden in a default Docker container,
and a copy in a world-readable folder costs 40 MB, leaves the checkout's folder, and a /tmp is emptied at reboot.
Where ambient capabilities do not exist (gVisor) the uid alone is dropped: that works where `nobody` can reach the
folders, so those of our own making let others pass.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from collections.abc import Callable

_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


def unprivileged_uid() -> int | None:
    """The uid that stands in for root; None when this process is not root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def drop_root() -> Callable[[], None] | None:
    """What a child has to do before exec to stop being root; None when this process is not root."""
    uid = unprivileged_uid()
    if uid is None:
        return None
    gid = pwd.getpwuid(uid).pw_gid
    # Everything is prepared here: between fork and exec nothing should be loaded.
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    linux = sys.platform == "linux"
    bit = 1 << _CAP_DAC_OVERRIDE
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)

    def run() -> None:
        if linux:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
            # Postgres asks access(2) about its binaries, which looks at capabilities only with this bit.
            libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        if linux and libc.capset(header, data) == 0:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)

    return run
