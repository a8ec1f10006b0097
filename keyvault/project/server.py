"""The HTTP server of ``keyturn serve``: granian, and what the promises of Keyturn need around it.

1. **The listening sockets belong to the server process**, one for each worker process (the kernel shares
   the connections out). A worker that is replaced or killed leaves its queue of connections to its
   successor, and what is set on these sockets holds for every connection.
2. **A worker that is told to stop has a last call first**: for ``LAST_CALL_SECONDS`` it goes on as ever, but
   every answer says ``Connection: close``. Then granian stops accepting and closes idle connections, whoever
   only waits is answered, and the process ends when the last request in flight has its whole answer. Without
   the last call, a request that is on its way on an idle connection would meet a closed door.
3. **Worker processes are forked from a server process that has imported everything**: a new one answers
   within a fraction of a second, and all of them share that memory.

Linux only for 1 and 3; elsewhere granian's own ways are good enough for development.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, Final

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, TaskImpl
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from keyvault.project.front import Application, Front
from keyvault.project.guard import die_with_parent

LAST_CALL_SECONDS: Final = 1.0
DOOR_SECONDS: Final = 0.1  # that granian may take to stop accepting
# After this a worker is killed, with whatever it still does. Longer than any answer of ours takes: a request
# needs its header and its body in time, delivery answers within milliseconds, Django within seconds.
KILL_AFTER: Final = 30
BACKLOG: Final = 2048  # connections that wait for one worker; the kernel's somaxconn bounds it too
# Of one connection: request line and header must fit, and a body passes in such pieces.
BUFFER_BYTES: Final = 32 * 1024
# Almost everything is freed without the collector of cycles, and a full one takes 50 ms with a large cache:
# then every caller waits. So it looks seldom at what is young, and hardly ever at everything.
COLLECT_AFTER: Final = (10_000, 20, 100)
# What a process needs beside its connections: database, files, pipes.
_OTHER_FILES: Final = 256
_LEAST_LIFETIME: Final = 60  # granian's

Load = Callable[[], Application]


@dataclass(frozen=True)
class Plan:
    """What to serve with. ``lifetime`` in seconds and ``max_rss`` in MiB of a worker process; 0: no bound."""

    host: str
    port: int
    workers: int = 1
    connections: int = 8192  # of one worker process
    header_seconds: float = 10.0  # for a whole header, and for the next request on a connection
    stalled_seconds: int = 30  # an answer that is not taken, or a caller that is gone without a word
    lifetime: int = 0
    max_rss: int = 0
    rss_interval: int = 30  # seconds between two looks at the memory

    @classmethod
    def from_environment(cls, **limits: Any) -> Plan:
        """Where ``keyturn serve`` says that it listens, with these other fields."""
        return cls(
            host=os.environ.get("KEYTURN_LISTEN_HOST", "127.0.0.1"),
            port=int(os.environ.get("KEYTURN_LISTEN_PORT", "8000")),
            workers=int(os.environ.get("KEYTURN_WORKERS", "1")),
            **limits,
        )


class Server(MPServer):
    """Granian's server for one ``Plan``. ``serve`` returns when the process was told to stop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._listeners: list[socket.socket] = []
        super().__init__(
            "keyvault.project.asgi:application",
            address=plan.host,
            port=plan.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            loop=Loops.uvloop,
            # One thread of the server beside the one of Python: they take turns anyway.
            runtime_mode=RuntimeModes.st,
            task_impl=TaskImpl.asyncio,
            workers=plan.workers,
            websockets=False,
            backlog=BACKLOG,
            # Granian counts connections here, waiting ones too.
            backpressure=_connections(plan.connections),
            http1_settings=HTTP1Settings(
                header_read_timeout=int(plan.header_seconds * 1000), max_buffer_size=BUFFER_BYTES
            ),
            respawn_failed_workers=True,
            respawn_interval=0.5,
            rss_sample_interval=plan.rss_interval,
            workers_kill_timeout=KILL_AFTER,
            log_level=LogLevels.warning,
        )

    def run(self, load: Load) -> None:
        """Serve what ``load`` returns, called in every worker process. Only a ``Front`` has a last call."""
        if sys.platform == "linux":
            multiprocessing.set_start_method("fork", force=True)
            # What was imported is there for good: no collector need look at it, and so no page be copied.
            gc.freeze()
        self.serve(target_loader=partial(_enter, os.getpid(), load), wrap_loader=False)

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        # Only now: granian would warn of resets that our sockets have made impossible.
        self.workers_lifetime = _with_jitter(self._plan.lifetime)
        self.workers_rss = self._plan.max_rss * 1024 * 1024 or None
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]

    def _init_shared_socket(self) -> None:
        if sys.platform != "linux":
            super()._init_shared_socket()
            return
        self._sso = None
        self._listeners = [_listen(self._plan) for _ in range(self.workers)]

    def _drop_shared_socket(self) -> None:
        super()._drop_shared_socket()  # type: ignore[no-untyped-call]
        # The workers hold their own: they still take what is queued, and then nobody listens.
        for listener in self._listeners:
            listener.close()

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]
        if self._listeners:
            holder: Any = SocketHolder
            self._shd = holder(self._listeners[idx].fileno(), False, self.backlog)
            callback_loader = partial(_keep_one, self._listeners, idx, callback_loader)
        worker = super()._spawn_worker(idx, target, callback_loader)
        worker.is_alive = partial(_is_alive, worker.inner)  # type: ignore[method-assign]
        return worker


def _is_alive(process: BaseProcess) -> bool:
    """Granian asks while another of its threads is taking note of the end; so ask the kernel too."""
    if not process.is_alive() or process.pid is None:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _listen(plan: Plan) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        plan.host, plan.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    for level, option, setting in (
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
        # What follows is inherited by every connection.
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, plan.stalled_seconds),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, plan.stalled_seconds // 3)),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, plan.stalled_seconds * 1000),
    ):
        listener.setsockopt(level, option, setting)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


def _connections(wanted: int) -> int:
    """How many connections one process may have, after raising the limit of open files as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - _OTHER_FILES))


def _with_jitter(lifetime: int) -> int | None:
    """Hosts that were started together do not replace their workers together."""
    if lifetime <= 0:
        return None
    return max(_LEAST_LIFETIME, int(lifetime * random.uniform(0.9, 1.1)))  # noqa: S311


# In a worker process ----------------------------------------------------------------------------------


def _keep_one(listeners: list[socket.socket], mine: int, load: Load) -> Application:
    for index, listener in enumerate(listeners):
        if index == mine:
            # From here on granian's: it closes what it was given by number.
            listener.detach()
        else:
            # A worker's queue must end with that worker, not with the last one that knows of it.
            listener.close()
    return load()


def _enter(server: int, load: Load) -> Application:
    # Until the event loop runs, the server's own handlers, which were inherited, would swallow these.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Nothing is lost: an answer leaves only after its record is durable.
    die_with_parent(server, with_signal=signal.SIGKILL)
    gc.set_threshold(*COLLECT_AFTER)
    application = load()
    if isinstance(application, Front):
        application.on_startup.append(partial(_await_the_end, application))
    return application


def _await_the_end(front: Front) -> None:
    """Put the last call before granian's own way to stop, which SIGINT still starts."""
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Task[None]] = []

    def told_to_stop() -> None:
        if not begun:
            begun.append(loop.create_task(_last_call(front)))

    loop.add_signal_handler(signal.SIGTERM, told_to_stop)


async def _last_call(front: Front) -> None:
    front.last_call()
    await asyncio.sleep(LAST_CALL_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
    # Long polls come back at once: not to this process, if it has closed its door by then.
    await asyncio.sleep(DOOR_SECONDS)
    front.stop()
