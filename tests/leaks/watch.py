"""Watches the whole suite for leaks: every secret that a test makes is a canary.

Whatever becomes a ``Secret`` is remembered. From then on it may stand in no line of a log, as it is written,
and in no parameter of an SQL statement: not in a column, not in a query. What is found fails the test.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest
import structlog
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from keyvault.crypto.secret import Secret

LEAST: Final = 16  # characters; a shorter text may be a word
_WORD: Final = re.compile(rf"[^\s\"'\\,;:&?()<>{{}}\[\]|]{{{LEAST},}}")
_PARTS: Final = re.compile(rf"[A-Za-z0-9_.~+-]{{{LEAST},}}")


class Watch:
    """``known``: the secrets of this process. ``found``: where one was seen, without the secret."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.found: list[str] = []
        self.looked = 0
        self.lines: logging.Handler = logging.NullHandler()

    def listen(self) -> None:
        """Hear every record from now on, also after a test that configured logging anew."""
        root = logging.getLogger()
        if self.lines not in root.handlers:
            root.addHandler(self.lines)

    def remember(self, text: str) -> None:
        if len(text) >= LEAST and any(character.isdigit() for character in text):
            self.known.add(text)

    def look(self, text: str, where: str) -> None:
        """Note it if one of the words of this text is a secret."""
        self.looked += 1
        if len(text) < LEAST:
            return
        if text in self.known or any(
            word in self.known for shape in (_WORD, _PARTS) for word in shape.findall(text)
        ):
            self.found.append(where)

    def look_into(self, value: object, where: str) -> None:
        if isinstance(value, str):
            self.look(value, where)
        elif isinstance(value, bytes | bytearray | memoryview):
            self.look(bytes(value).decode("latin-1"), where)
        elif isinstance(value, Mapping):
            for inner in value.values():
                self.look_into(inner, where)
        elif isinstance(value, Sequence):
            for inner in value:
                self.look_into(inner, where)
        elif type(value).__name__ in ("Jsonb", "Json"):
            self.look(str(getattr(value, "obj", "")), where)


class _Lines(logging.Handler):
    """Every record in the words in which production would write it."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        told = settings.LOGGING["formatters"]["json"]
        self.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=told["foreign_pre_chain"], processors=told["processors"]
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.look(self.format(record), f"the log of {record.name}")


@contextmanager
def watching() -> Iterator[Watch]:
    watch, make = Watch(), Secret.__init__

    def made(self: Secret, text: str) -> None:
        make(self, text)
        watch.remember(text)

    def statement(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]
    ) -> Any:
        watch.look_into(params, sql[:90])
        return execute(sql, params, many, context)

    def connected(connection: BaseDatabaseWrapper, **_: object) -> None:
        if statement not in connection.execute_wrappers:
            connection.execute_wrappers.append(statement)

    watch.lines = _Lines(watch)
    connection_created.connect(connected, weak=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Secret, "__init__", made)
        yield watch
    connection_created.disconnect(connected)
    logging.getLogger().removeHandler(watch.lines)
