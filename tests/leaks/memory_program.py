"""A process that delivers one key, then another, and says what of both is left in its memory.

``python -m tests.leaks.memory_program`` reads one line of JSON: a list of ``[token, service, times]``, to be
asked for in this order. It writes the SHA-256 of every key that its memory holds, and how often; a process
that is told what to look for would find what it was told.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import django

SECRET = re.compile(rb"sk_[0-9a-f]{32}")


def remembered() -> Counter[str]:
    """Digests of what looks like a key anywhere in the memory of this process."""
    found: Counter[str] = Counter()
    for area in _areas():
        found.update(hashlib.sha256(match).hexdigest() for match in SECRET.findall(area))
    return found


def _areas() -> Iterator[bytes]:
    with open("/proc/self/maps", encoding="ascii") as file:
        lines = file.readlines()
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in lines:
            span, rights = line.split()[:2]
            start, end = (int(at, 16) for at in span.split("-"))
            if rights.startswith("r"):
                with suppress(OSError, OverflowError):  # the kernel's own pages cannot be read
                    memory.seek(start)
                    yield memory.read(end - start)


async def deliver(questions: list[tuple[str, str, int]]) -> None:
    # Models are importable only after Django is set up.
    from keyvault.crypto.secret import Secret
    from tests.integration.furniture import answered

    for token, service, times in questions:
        for _ in range(times):
            answer = await answered(Secret(token), service)
            assert answer.status == 200, answer


def main() -> None:
    django.setup()
    from tests.integration.furniture import serving

    questions = json.loads(sys.stdin.readline())

    async def story() -> Counter[str]:
        await deliver(questions)
        return remembered()

    sys.stdout.write(json.dumps(serving(story)) + "\n")


if __name__ == "__main__":
    main()
