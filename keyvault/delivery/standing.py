"""Decisions that stand: what is asked in the same words again is answered in the same way, until something
that the decision rests on changes or its time is over. Then it is decided from the start.

Only how to answer is kept. Every request is counted, opened, recorded and confirmed for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from keyvault.crypto.keyring import Keys
from keyvault.delivery.answer import Answer
from keyvault.delivery.cache import View
from keyvault.delivery.limit import Tally
from keyvault.delivery.records import JobsRecord, Record
from keyvault.delivery.rows import Row


class Decided(NamedTuple):
    """What a decision comes to: the answer, what must be durable before it leaves, and what will stand."""

    answer: Answer
    row: Row | None = None
    standing: Standing | None = None


Again = Callable[[datetime, str, Tally], Decided]


class Standing(NamedTuple):
    """How to answer ``again``, given the time, the request's id and its tally."""

    used: tuple[Record, ...]
    keys: Keys
    until: datetime | None
    again: Again


def standing(view: View, again: Again, ends: Iterable[datetime | None]) -> Standing | None:
    """What stands after a decision; ``ends`` are the times at which some of it is over.

    None where it depends on time in another way: open jobs lose their meaning as they age.
    """
    if any(isinstance(record, JobsRecord) for record in view.used):
        return None
    return Standing(
        tuple(view.used), view.keys, min((end for end in ends if end is not None), default=None), again
    )


class Standings:
    """By the words of the request; the oldest make room for new ones."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_words: dict[bytes, Standing] = {}

    def __len__(self) -> int:
        return len(self._by_words)

    def find(self, words: bytes, keys: Keys, now: datetime) -> Standing | None:
        found = self._by_words.get(words)
        if found is None:
            return None
        if found.keys is not keys or (found.until is not None and found.until <= now):
            del self._by_words[words]
            return None
        for record in found.used:
            if record.stale:
                del self._by_words[words]
                return None
            record.asked = True
        return found

    def keep(self, words: bytes, what: Standing) -> None:
        self._by_words[words] = what
        if len(self._by_words) > self._capacity:
            del self._by_words[next(iter(self._by_words))]
