"""The processes that ``keyturn serve`` starts: ``python -m keyvault.project.children prepare|web|worker``."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from keyvault.project.guard import die_with_parent

WORKER_THREADS = 4


def _begin() -> None:
    # What we write is for us alone, and a core file would hold plaintext.
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
    parent = os.environ.pop("KEYTURN_PARENT", "")
    if parent:
        die_with_parent(int(parent))


def prepare() -> None:
    """Bring the installation up to date; print the set-up link while nobody can sign in."""
    import django

    django.setup()
    from keyvault.project import installation

    installation.prepare()
    link = installation.setup_link()
    if link is not None:
        sys.stdout.write("\nOpen this link to make the first administrator. It works once, for 24 hours:\n")
        sys.stdout.write(f"\n  {link.expose()}\n\n")
        sys.stdout.flush()


def web() -> None:
    serve_web("keyvault.project.asgi:application")


def serve_web(application: str) -> None:
    """The HTTP server. Its worker processes import ``application``, written ``module:name``."""
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.log import LogLevels
    from granian.server import Server

    # The worker processes tie themselves to this one.
    os.environ["KEYTURN_SERVER_PID"] = str(os.getpid())
    Server(
        application,
        address=os.environ.get("KEYTURN_LISTEN_HOST", "127.0.0.1"),
        port=int(os.environ.get("KEYTURN_LISTEN_PORT", "8000")),
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        loop=Loops.asyncio,
        workers=int(os.environ.get("KEYTURN_WORKERS", "1")),
        websockets=False,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=10,
        log_level=LogLevels.warning,
    ).serve()


def worker() -> None:
    """A Celery worker with threads, and the scheduler in one more thread."""
    import django

    django.setup()
    from celery.beat import EmbeddedService, Scheduler, _Threaded
    from celery.signals import worker_ready, worker_shutting_down

    from keyvault.project.celery import app

    # In a thread, never ``worker -B``: that forks, and the fork survives kill -9 of the worker. Without
    # a schedule file: all entries are intervals, and a file can be torn by a kill.
    beat = EmbeddedService(app, thread=True, scheduler_cls=Scheduler)
    assert isinstance(beat, _Threaded)

    def start(**_: object) -> None:
        beat.start()
        # Not a whole interval after the start: who waits for readiness waits for this.
        app.send_task("rotation.tasks.tick")

    def stop(**_: object) -> None:
        beat.stop()

    worker_ready.connect(start, weak=False)
    worker_shutting_down.connect(stop, weak=False)
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            f"--concurrency={WORKER_THREADS}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=INFO",
        ]
    )


_ROLES = {"prepare": prepare, "web": web, "worker": worker}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in _ROLES:
        sys.stderr.write(f"usage: python -m keyvault.project.{Path(__file__).stem} {'|'.join(_ROLES)}\n")
        return 2
    _begin()
    _ROLES[arguments[0]]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
