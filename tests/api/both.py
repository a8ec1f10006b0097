"""Answers of both processes of a server: what must be true at once must be true in each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.api.wire import Reply

AT_ONCE = 8
LEAST = 24
SECONDS = 120
# A request id that the server makes starts with the mark of its process.
_MARK = 16


def of_both(ask: Callable[[], Reply]) -> list[Reply]:
    """At least 24 answers, some of each process. ``ask`` makes one request without an id of its own."""
    replies: list[Reply] = []
    deadline = time.monotonic() + SECONDS
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while len({reply.headers["x-request-id"][:_MARK] for reply in replies}) < 2:
            assert time.monotonic() < deadline, "one process answers everything"
            replies += pool.map(lambda _: ask(), range(LEAST))
    return replies
