"""What every process of ours does first: leave no core file, and end with its parent.

Without the second, ``kill -9`` of the supervisor would leave a web server and a scheduler running.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_ASK_EVERY_SECONDS = 1.0


def leave_no_core() -> None:
    """Keep the memory of this process, and of those that it forks, out of files and from other processes.

    The limit alone is not enough: the kernel does not ask it where core files go to a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and _prctl(_PR_SET_DUMPABLE, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")


def may_dump_core() -> bool:
    """Whether a crash of this process may leave its memory somewhere."""
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
        return True
    return sys.platform == "linux" and _prctl(_PR_GET_DUMPABLE) != 0


def _prctl(option: int, argument: int = 0) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0))


def die_with_parent(parent: int | None = None, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Arrange that this process gets ``with_signal`` when its parent ends, however that happens.

    ``parent`` is the pid that the parent told us; if it is gone already, this process ends here.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        if _prctl(_PR_SET_PDEATHSIG, int(with_signal)) != 0:
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
