"""Load on a web server: connections that ask again and again, and every answer kept with its times."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.integration.plain_http import Connection, End, Exchange
from tests.integration.processes import DEADLINE


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a key. ``about`` is whatever the test wants to find it by."""

    about: str
    path: str
    token: str
    headers: tuple[str, ...] = ()


@dataclass(slots=True)
class Answer:
    """``started`` and ``ended`` are of the monotonic clock, before the first and after the last byte."""

    question: Question
    request_id: str
    started: float
    ended: float
    exchange: Exchange

    @property
    def whole(self) -> bool:
        return self.exchange.end is End.WHOLE

    @property
    def status(self) -> int:
        return self.exchange.status

    @property
    def json(self) -> Any:
        return json.loads(self.exchange.body)

    @property
    def code(self) -> str:
        """The code of an error, else ""."""
        return str(self.json["error"]["code"]) if self.status >= 400 else ""


@dataclass
class Load:
    """Use it as a context: inside, ``connections`` keep asking what ``ask`` says, in a thread."""

    port: int
    ask: Callable[[int], Question]
    connections: int = 16
    answers: list[Answer] = field(default_factory=list)
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    whole: int = 0  # answers that came completely
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _enough: bool = False
    _failure: BaseException | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let every connection finish its request."""
        assert self._thread is not None
        self._enough = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "a request is never answered"
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._failure = error

    async def _run(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(self.connections)))

    async def _connection(self) -> None:
        connection = Connection(self.port)
        while not self._enough:
            number = next(self._numbers)
            question, request_id = self.ask(number), f"load-{self.name}-{number}"
            headers = (f"x-api-key: {question.token}", *question.headers)
            started = time.monotonic()
            exchange = await connection.ask(question.path, request_id=request_id, headers=headers)
            self.answers.append(Answer(question, request_id, started, time.monotonic(), exchange))
            self.whole += exchange.end is End.WHOLE
        await connection.close()

    # What came of it ---------------------------------------------------------------------------------

    def more(
        self,
        count: int,
        wanted: Callable[[Answer], bool] = lambda answer: answer.whole,
        *,
        since: float = 0.0,
    ) -> None:
        """Wait for so many more answers of this kind to requests that started after ``since``."""
        seen, found = len(self.answers), 0
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        while True:
            assert self._failure is None, self._failure
            fresh = self.answers[seen:]
            seen += len(fresh)
            found += sum(1 for answer in fresh if answer.started >= since and wanted(answer))
            if found >= count:
                return
            assert time.monotonic() < deadline, f"{found} of {count} more answers"
            pause.wait(0.005)

    def statuses(self) -> Counter[str]:
        """How often each status came; requests without a whole answer by how they ended."""
        return Counter(
            f"{answer.status} {answer.code}".strip() if answer.whole else answer.exchange.end.value
            for answer in self.answers
        )

    def with_key(self) -> set[str]:
        """The request ids of the keys that were received completely."""
        return {answer.request_id for answer in self.answers if answer.whole and answer.status == 200}
