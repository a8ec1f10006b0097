"""The threads that delivery works on: handlers are synchronous, the event loop never waits for a database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache, partial
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import connections

P = ParamSpec("P")
R = TypeVar("R")


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=settings.KEYTURN_WEB_THREADS, thread_name_prefix="delivery")


def _tidy() -> None:
    """Drop a broken connection, and give a pooled one back.

    A connection to SQLite is a file that stays open: opening it for each request would cost more than
    the request.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor != "sqlite" or connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()


def _call(work: Callable[[], R]) -> R:
    _tidy()
    try:
        return work()
    finally:
        _tidy()


async def run(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a handler on one of ``KEYTURN_WEB_THREADS`` threads."""
    # The context carries the request id into the thread, for log lines and audit events.
    context = copy_context()
    task = partial(context.run, _call, partial(work, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_pool(), task)


def shut_down() -> None:
    """Let the running handlers finish, then end the threads."""
    _pool().shutdown(wait=True)
    _pool.cache_clear()
