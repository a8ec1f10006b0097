"""The processes that ``keyturn serve`` starts: ``python -m keyvault.project.children prepare|web|worker``."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

from keyvault.project.guard import die_with_parent, leave_no_core

WORKER_THREADS = 4


def _begin() -> None:
    # What we write is for us alone, and a core file would hold plaintext.
    os.umask(0o077)
    leave_no_core()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
    parent = os.environ.pop("KEYTURN_PARENT", "")
    if parent:
        die_with_parent(int(parent))


def prepare() -> None:
    """Bring the installation up to date; print the set-up link while nobody can sign in."""
    import django

    django.setup()
    _prepare_data()
    _collect_static()


def _prepare_data() -> None:
    from keyvault.crypto.errors import KeyringError
    from keyvault.project import installation
    from keyvault.services import quarantine

    try:
        installation.prepare()
    except KeyringError as error:
        sys.exit(f"keyturn: {error}")
    if quarantine.everything() is not None:
        sys.stderr.write(
            "The database was restored from a backup: nothing is delivered. Run: keyturn restore_reconcile\n"
        )
    link = installation.setup_link()
    if link is not None:
        sys.stdout.write("\nOpen this link to make the first administrator. It works once, for 24 hours:\n")
        sys.stdout.write(f"\n  {link.expose()}\n\n")
        sys.stdout.flush()


def _collect_static() -> None:
    from keyvault.project import installation

    installation.collect_static()


def web() -> None:
    """The HTTP server. Its worker processes are forked from here, with everything imported.

    With ``KEYTURN_PREPARED_FD`` it prepares the installation first, in processes of their own, because
    nothing that was opened here may reach a worker process; then it writes a byte there.
    """
    # Most of the start is imports, and what they make is there to stay.
    gc.disable()
    import django

    django.setup()
    prepared = os.environ.pop("KEYTURN_PREPARED_FD", "")
    preparing = [_forked(_prepare_data), _forked(_collect_static)] if prepared else []
    from django.conf import settings

    importlib.import_module(settings.ROOT_URLCONF)
    from keyvault.project.server import Plan, Server

    for process in preparing:
        process.join()
    if any(process.exitcode for process in preparing):
        raise SystemExit(1)
    if prepared:
        os.write(int(prepared), b"\n")
        os.close(int(prepared))
    # It looks at the static files once, when it is imported.
    from keyvault.project.asgi import application

    gc.enable()
    plan = Plan.from_environment(
        connections=settings.KEYTURN_MAX_CONNECTIONS,
        header_seconds=settings.KEYTURN_HEADER_TIMEOUT,
        lifetime=settings.KEYTURN_WORKER_LIFETIME,
        max_rss=settings.KEYTURN_WORKER_MAX_RSS,
    )
    Server(plan).run(lambda: application)


def _forked(work: Callable[[], None]) -> ForkProcess:
    """Start it in a fork of this process that does not outlive it."""
    parent = os.getpid()

    def run() -> None:
        die_with_parent(parent)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


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
    code: int | None = app.start(
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
    raise SystemExit(code)  # so that whoever started it knows a failure from an end


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
