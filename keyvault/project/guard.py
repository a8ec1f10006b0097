"""A child process that does not outlive its parent. Linux tells the child; elsewhere it asks.

Without this, ``kill -9`` of the supervisor would leave a web server and a scheduler running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_ASK_EVERY_SECONDS = 1.0


def die_with_parent(parent: int | None = None, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Arrange that this process gets ``with_signal`` when its parent ends, however that happens.

    ``parent`` is the pid that the parent told us; if it is gone already, this process ends here.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=_ask, args=(expected, with_signal), daemon=True, name="parent-watch").start()
    # The parent may have ended between our start and the line above: then no signal will come.
    if os.getppid() != expected:
        raise SystemExit("The parent process is gone.")


def _ask(expected: int, with_signal: signal.Signals) -> None:
    while os.getppid() == expected:
        time.sleep(_ASK_EVERY_SECONDS)
    os.kill(os.getpid(), with_signal)
