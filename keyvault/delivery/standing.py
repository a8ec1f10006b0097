"""Decisions that stand: what is asked in the same words again is answered in the same way, until something
that the decision rests on changes or its time is over. Then it is decided from the start.

Every request is still counted, recorded and confirmed for itself. An answer is kept sealed, under a key that
exists in this process only and ends with the keyring that it was made for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.crypto.keyring import Keys
from keyvault.delivery.answer import Answer, Headers
from keyvault.delivery.cache import View
from keyvault.delivery.limit import Tally
from keyvault.delivery.records import Dependent, JobsRecord, Record
from keyvault.delivery.rows import Row

_KEY_BITS: Final = 256
_NONCE_SIZE: Final = 12


class Standing(Dependent):
    """One decision that stands. Subclasses know the row; whatever they need lies close together in memory.

    ``until`` is when something of it expires.
    """

    __slots__ = ("content_type", "headers", "sealed", "status", "until", "used")

    def __init__(self, view: View, ends: Iterable[datetime | None]) -> None:
        super().__init__()
        self.used: tuple[Record, ...] = tuple(view.used)
        self.until = min((end for end in ends if end is not None), default=None)
        self.status = 0
        self.content_type = self.sealed = b""
        self.headers: Headers = ()

    def again(self, now: datetime, request_id: str, tally: Tally) -> Row:
        """Return the row, with whom to count noted in ``tally``. Raises what makes it another answer."""
        raise NotImplementedError


class Decided(NamedTuple):
    """What a decision comes to: the answer, what must be durable before it leaves, and what may stand."""

    answer: Answer
    row: Row | None = None
    standing: Standing | None = None


class Standings:
    """By the words of the request; the oldest make room for new ones."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_words: dict[bytes, Standing] = {}
        self._keys: Keys | None = None
        self._cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))

    def __len__(self) -> int:
        return len(self._by_words)

    def find(self, words: bytes, keys: Keys, now: datetime) -> Standing | None:
        if keys is not self._keys:
            self._start_over(keys)
        found = self._by_words.get(words)
        if found is None:
            return None
        if found.stale or (found.until is not None and found.until <= now):
            self._forget(words)
            return None
        found.asked = True
        return found

    def answer(self, words: bytes, found: Standing) -> Answer:
        """The answer that was kept under these words."""
        sealed = found.sealed
        body = self._cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], words)
        return Answer(found.status, body, found.content_type, found.headers)

    def keep(self, words: bytes, standing: Standing, answer: Answer, keys: Keys) -> None:
        """Keep a decision and its answer, unless it depends on time: open jobs mean less as they age."""
        if keys is not self._keys or any(
            record.stale or isinstance(record, JobsRecord) for record in standing.used
        ):
            return
        nonce = os.urandom(_NONCE_SIZE)
        standing.sealed = nonce + self._cipher.encrypt(nonce, answer.body, words)
        standing.status, standing.content_type = answer.status, answer.content_type
        standing.headers = answer.headers
        self._forget(words)
        self._by_words[words] = standing
        for record in standing.used:
            record.add(standing)
        if len(self._by_words) > self._capacity:
            self._forget(next(iter(self._by_words)))

    def _forget(self, words: bytes) -> None:
        standing = self._by_words.pop(words, None)
        if standing is not None:
            for record in standing.used:
                record.remove(standing)

    def _start_over(self, keys: Keys) -> None:
        for words in tuple(self._by_words):
            self._forget(words)
        self._cipher = AESGCM(AESGCM.generate_key(_KEY_BITS))
        self._keys = keys
