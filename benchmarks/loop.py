"""The load where wrk is missing: ``python -m benchmarks.loop PORT WORKLOAD CONNECTIONS SECONDS [PLACE]``.

One event loop with raw sockets. It prints what load.lua prints.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import cast

from benchmarks.load import Pattern, decode

ERRORS = ("connect", "read", "write", "timeout", "status")


class Tally:
    """What all connections saw."""

    def __init__(self) -> None:
        self.times: list[float] = []  # seconds
        self.errors = dict.fromkeys(ERRORS, 0)

    def report(self, seconds: float) -> str:
        times = sorted(self.times) or [0.0]
        told = {
            "requests": len(self.times),
            "microseconds": round(seconds * 1e6),
            "p50": round(times[len(times) // 2] * 1e6),
            "p99": round(times[int(len(times) * 0.99)] * 1e6),
            "slowest": round(times[-1] * 1e6),
            "errors": self.errors,
        }
        return json.dumps(told)


class Caller(asyncio.Protocol):
    """One kept-alive connection that asks again as soon as it was answered."""

    def __init__(self, choose: Callable[[], bytes], tally: Tally) -> None:
        self._choose = choose
        self._tally = tally
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._buffer = b""
        self._sent = time.perf_counter()
        self._transport.write(self._choose())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or len(self._buffer) < end + 4 + content_length(self._buffer[:end]):
            return
        self._tally.times.append(time.perf_counter() - self._sent)
        if not self._buffer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 3")):
            self._tally.errors["status"] += 1
        if not self.stopped:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopped:
            self._tally.errors["read"] += 1

    def stop(self) -> None:
        self.stopped = True
        if self._transport is not None:
            self._transport.abort()


def content_length(head: bytes) -> int:
    """The length that an answer's head announces; 0 without one."""
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    return int(lowered[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


def at_random(patterns: list[Pattern]) -> Callable[[], bytes]:
    pick, number = random.choice, random.randint

    def choose() -> bytes:
        one = pick(patterns)
        return filled(one, number(one.first, one.last)) if one.first <= one.last else one.before

    return choose


def in_order(patterns: list[Pattern], place: int) -> Callable[[], bytes]:
    """One after the other, from ``place`` on, and again from the start."""
    places = count(place)

    def choose() -> bytes:
        turn, index = divmod(next(places), len(patterns))
        one = patterns[index]
        if one.first > one.last:
            return one.before
        return filled(one, one.first + turn % (one.last - one.first + 1))

    return choose


def filled(one: Pattern, number: int) -> bytes:
    return b"%b%d%b" % (one.before, number, one.after)


async def load(port: int, choose: Callable[[], bytes], connections: int, seconds: float) -> str:
    tally = Tally()
    running = asyncio.get_running_loop()
    callers = [Caller(choose, tally) for _ in range(connections)]
    started = time.perf_counter()
    for caller in callers:
        await running.create_connection(lambda caller=caller: caller, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    for caller in callers:
        caller.stop()
    return tally.report(elapsed)


def main(arguments: list[str]) -> int:
    port, workload, connections, seconds, *place = arguments
    patterns = decode(Path(workload).read_bytes())
    choose = in_order(patterns, int(place[0])) if place else at_random(patterns)
    print(asyncio.run(load(int(port), choose, int(connections), float(seconds))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
