"""A program for the tests of the server: the real server and the real front, and small answers behind them.

``python -m tests.integration.server_program PLAN`` with a JSON object: the fields of ``Plan``, ``journal`` (a
file that gets one line for every request that was begun) and ``body_seconds``. Consumer paths are

    /v1/keys/quick/dev/    answered at once
    /v1/keys/slow/dev/     answered after as many milliseconds as the query says
    /v1/keys/wait/dev/     answered when the process is told to stop, or after ten minutes
    /v1/keys/large/dev/    as many bytes as the query says
    /v1/keys/grow/dev/     takes as many MiB of memory as the query says, for good

and every other path answers on a thread, with what a WSGI application sees of the caller.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

from a2wsgi import WSGIMiddleware

from keyvault.project.front import Application, Front, Receive, Scope, Send
from keyvault.project.proxies import Proxies, parse_networks
from keyvault.project.server import Plan, Server


class Answers:
    """In place of delivery."""

    def __init__(self, journal: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._stopping = asyncio.Event()
        self._memory: list[bytearray] = []

    def handles(self, path: str) -> bool:
        return path.startswith("/v1/keys/")

    async def stop(self) -> None:
        self._stopping.set()

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        os.write(self._journal, f"{os.getpid()} {scope['request_id']}\n".encode())
        kind, query = scope["path"].split("/")[3], scope["query_string"].decode()
        body = (await receive())["body"] or f"{os.getpid()}".encode()
        if kind == "slow":
            await asyncio.sleep(int(query) / 1000)
        elif kind == "wait":
            async with asyncio.timeout(600):
                await self._stopping.wait()
        elif kind == "large":
            body = b"x" * int(query)
        elif kind == "grow":
            self._memory.append(bytearray(os.urandom(1024) * 1024 * int(query)))
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", scope["request_id"].encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """In place of Django."""
    seen = {
        name: text
        for name, text in environ.items()
        if name in ("REMOTE_ADDR", "wsgi.url_scheme") or "FORWARDED" in name
    }
    text = json.dumps(seen).encode()
    pieces = [b" " * 4096] * (int(environ["QUERY_STRING"] or 0) // 4096)
    start_response("200 OK", [("Content-Length", str(len(text) + 4096 * len(pieces)))])
    return [text, *pieces]


def main(plan: dict[str, Any]) -> None:
    answers = Answers(plan.pop("journal"))
    networks = parse_networks(plan.pop("proxies", ()))
    front = Front(
        answers,
        cast(Application, WSGIMiddleware(page, workers=2, send_queue_size=0)),  # type: ignore[arg-type]
        lambda host: True,
        proxies=Proxies(networks) if networks else None,
        body_seconds=plan.pop("body_seconds", 10),
        on_stop=[answers.stop],
    )
    Server(Plan(host="127.0.0.1", **plan)).run(lambda: front)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
