"""Binds a trial's process to its launcher, so that no crash or `kill -9` leaves an orphan.

Two mechanisms, because neither is enough alone. The kernel's parent-death signal only follows the
direct parent, which is the fork server and not the launcher; the thread that waits for the
launcher only runs while this process is healthy.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_launcher() -> None:
    """Kill this process group as soon as the launcher is gone, also by `kill -9`."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "not started by multiprocessing"

    def watch() -> None:
        # Signals must reach the main thread, which they wake from a blocking call.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        connection.wait([launcher.sentinel])  # readable when the launcher's end of it is closed
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()
    die_with_parent()


def die_with_parent() -> None:
    """Request SIGKILL from the kernel when the parent process ends (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
