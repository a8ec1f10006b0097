"""A process that hits one subject as fast as it can: ``python -m tests.integration.limit_hammer …``.

It says "ready", begins at a line on its standard input, and writes every number it was given (8 bytes each)
to a file at once, so that they are known whenever it is killed.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from keyvault.limits.cells import Cells
from keyvault.limits.limiter import Limiter
from keyvault.limits.redis_counter import RedisCounter

NOW = datetime(2026, 5, 4, 10, 0, 15, tzinfo=UTC)
NUMBER = struct.Struct("=q")
CELLS = 64
# Where Redis is meant to answer: a machine on which it has to wait for the processor is no slow Redis.
PATIENT = 60.0  # seconds
TOGETHER = 50  # hits of one turn of an event loop


def read_numbers(path: Path) -> list[int]:
    """The numbers that a process got; of one killed while writing, the whole ones."""
    content = path.read_bytes()
    return [number for (number,) in NUMBER.iter_unpack(content[: len(content) // 8 * 8])]


def in_threads(threads: int, hits: int, hit: Callable[[], int], tell: Callable[[int], None]) -> None:
    def run() -> None:
        for _ in range(hits):
            tell(hit())

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


async def on_a_loop(limiter: Limiter, subject: bytes, hits: int, tell: Callable[[int], None]) -> None:
    for _ in range(hits // TOGETHER):
        for number in await asyncio.gather(*(limiter.hit_async(subject, NOW) for _ in range(TOGETHER))):
            tell(number)
    await limiter.aclose()


def main(cells: str, url: str, subject_hex: str, threads: str, hits: str, numbers: str) -> None:
    """With ``url`` the hits are counted in Redis, by an event loop as well as by the threads."""
    subject = bytes.fromhex(subject_hex)
    limiter = Limiter(Cells(Path(cells), CELLS), RedisCounter(url, PATIENT) if url else None)
    output = os.open(numbers, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(number: int) -> None:
        os.write(output, NUMBER.pack(number))

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    in_threads(int(threads), int(hits), lambda: limiter.hit(subject, NOW), tell)
    if url:
        asyncio.run(on_a_loop(limiter, subject, int(hits), tell))
    else:
        limiter.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
