"""A client for consumers: get a key, watch it change, run a program with it. Standard library only.

The address and the token come from ``KEYTURN_URL`` and ``KEYTURN_TOKEN``; the instance name from
``KEYTURN_INSTANCE``, else the host name. Exit codes of the commands built on this:

====  ==========================================================================
0     done
2     wrong usage, or ``KEYTURN_URL`` / ``KEYTURN_TOKEN`` missing
3     the token is not accepted, or may not do this (401, 403)
4     no such key for this token, or no active version (404, 410); a signer that the key set does not name
5     not reachable, overloaded or failing after all attempts (network, 429, 5xx)
6     any other answer that is not a success
7     an evidence file that was changed, or that another key signed
====  ==========================================================================
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Final, NoReturn

ATTEMPTS: Final = 4
TIMEOUT: Final = 10.0  # seconds for an ordinary answer
WATCH_SECONDS: Final = 30  # how long one long poll lasts
LONGEST_WAIT: Final = 30.0  # seconds between two attempts, whatever Retry-After says
MAX_ANSWER: Final = 1024 * 1024
TRY_AGAIN: Final = frozenset({429, 500, 502, 503, 504})

USAGE, NOT_ALLOWED, NOT_FOUND, UNAVAILABLE, UNEXPECTED, NOT_GENUINE = 2, 3, 4, 5, 6, 7
KEY_SET: Final = "/v1/.well-known/jwks.json"


class ClientError(Exception):
    """It did not work. ``exit_code`` is that of the table above; the text never holds a secret."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Answer:
    """``status`` is 200 or 304; a 304 has an empty body."""

    status: int
    body: bytes
    etag: str

    def document(self) -> dict[str, Any]:
        parsed = json.loads(self.body)
        if not isinstance(parsed, dict):
            raise ClientError("The server's answer is not a JSON object.", UNEXPECTED)
        return parsed


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Following one would carry the token to another address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Client:
    """One consumer instance's view of Keyturn. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        instance: str | None = None,
        attempts: int = ATTEMPTS,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError("KEYTURN_URL must be an http or https address.", USAGE)
        if not token.strip():
            raise ClientError("KEYTURN_TOKEN is not set.", USAGE)
        self._base = url.rstrip("/")
        self._token = token
        self._instance = instance or socket.gethostname()
        self._attempts = attempts
        self._wait = wait
        self._opener = urllib.request.build_opener(_NoRedirects)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Client:
        return cls(
            environ.get("KEYTURN_URL", "http://127.0.0.1:8000"),
            environ.get("KEYTURN_TOKEN", ""),
            instance=environ.get("KEYTURN_INSTANCE"),
        )

    def get(
        self, service: str, environment: str, *, version: str = "", form: str = "json", etag: str = ""
    ) -> Answer:
        """One delivery. ``form`` is ``json``, ``raw`` or ``env``. Raises ``ClientError``.

        Without ``version`` the server chooses by the weight of a running rotation, as it should for whoever
        wants to use the key; naming one (``current``, ``pending``, ``previous`` or a number) needs a grant.
        """
        query = {"instance": self._instance}
        if version:
            query["version"] = version
        if form != "json":
            query["format"] = form
        return self._ask(_path(service, environment), query, etag=etag, timeout=TIMEOUT)

    def secret(self, service: str, environment: str) -> str:
        """The key itself, for this instance."""
        key = self.get(service, environment).document().get("key")
        if not isinstance(key, str):
            raise ClientError("The server's answer has no key.", UNEXPECTED)
        return key

    def watch(self, service: str, environment: str) -> Iterator[Answer]:
        """Every version of the key from now on, the present one first. Ends only by an error."""
        answer = self.get(service, environment)
        while True:
            yield answer
            answer = self._next(service, environment, answer.etag)

    def _next(self, service: str, environment: str, etag: str) -> Answer:
        query = {"instance": self._instance, "etag": etag, "timeout": str(WATCH_SECONDS)}
        while True:
            path = f"{_path(service, environment)}watch/"
            answer = self._ask(path, query, etag=etag, timeout=WATCH_SECONDS + TIMEOUT)
            if answer.status != 304 and answer.etag != etag:
                return answer

    def _ask(self, path: str, query: Mapping[str, str], *, etag: str, timeout: float) -> Answer:
        url = f"{self._base}{path}?{urllib.parse.urlencode(query)}"
        headers = {"X-API-Key": self._token, "Accept": "application/json", "User-Agent": "keyturn"}
        if etag:
            headers["If-None-Match"] = etag
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  (the scheme was checked)
        return _exchange(
            self._opener, request, self._base, timeout=timeout, attempts=self._attempts, wait=self._wait
        )


def _exchange(
    opener: urllib.request.OpenerDirector,
    request: urllib.request.Request,
    where: str,
    *,
    timeout: float,
    attempts: int,
    wait: Callable[[float], None],
) -> Answer:
    """Ask until there is an answer worth having. Raises ``ClientError``, which names ``where``."""
    for attempt in range(1, attempts + 1):
        last = attempt == attempts
        try:
            with opener.open(request, timeout=timeout) as response:
                return Answer(response.status, response.read(MAX_ANSWER), response.headers.get("ETag", ""))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 304:
                    etag = request.get_header("If-none-match", "")
                    return Answer(304, b"", error.headers.get("ETag", etag))
                if last or error.code not in TRY_AGAIN:
                    _refuse(error)
                delay = _delay(attempt, error.headers.get("Retry-After"))
        except OSError as error:
            if last:
                raise ClientError(f"{where} cannot be reached: {_reason(error)}.", UNAVAILABLE) from error
            delay = _delay(attempt, None)
        wait(delay)
    raise ClientError("No attempt was allowed.", USAGE)


def _path(service: str, environment: str) -> str:
    return f"/v1/keys/{urllib.parse.quote(service, safe='')}/{urllib.parse.quote(environment, safe='')}/"


def _delay(attempt: int, retry_after: str | None) -> float:
    """Seconds: what the server asks for, else growing with full jitter."""
    if retry_after is not None and retry_after.isdecimal():
        return min(LONGEST_WAIT, float(retry_after))
    # Spread out, so that a thousand instances do not come back in the same moment.
    return random.uniform(0.1, min(LONGEST_WAIT, 0.5 * 2 ** (attempt - 1)))  # noqa: S311


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return "timed out" if isinstance(error, TimeoutError) else type(error).__name__


def _refuse(error: urllib.error.HTTPError) -> NoReturn:
    """Raise what an error answer means, with the server's own words and the request id."""
    body = error.read(MAX_ANSWER)
    try:
        told = json.loads(body)["error"]
        text = f"{told['message']} ({told['code']}, request {told['request_id']})"
    except (ValueError, KeyError, TypeError):
        text = f"The server answered with status {error.code}."
    exit_code = UNAVAILABLE if error.code in TRY_AGAIN else _EXIT_CODES.get(error.code, UNEXPECTED)
    raise ClientError(text, exit_code) from None


_EXIT_CODES: Final = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 410: NOT_FOUND}


def key_set(
    source: str, *, attempts: int = ATTEMPTS, wait: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """The public keys of an installation, from an address or a file. No token is sent.

    Raises ``ClientError``.
    """
    if urllib.parse.urlsplit(source).scheme in ("http", "https"):
        request = urllib.request.Request(source, headers={"User-Agent": "keyturn"})  # noqa: S310  (as checked)
        opener = urllib.request.build_opener(_NoRedirects)
        answer = _exchange(opener, request, source, timeout=TIMEOUT, attempts=attempts, wait=wait)
        body = answer.body
    else:
        body = read_file(source)
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClientError(f"{source} is no key set.", USAGE)
    return found


def read_file(path: str) -> bytes:
    """What is in a file. Raises ``ClientError``."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.", USAGE) from error


@dataclass(frozen=True)
class Binding:
    """A key and the environment variable that a program finds it in."""

    service: str
    environment: str
    variable: str


def parse_binding(text: str) -> Binding:
    """``SERVICE:ENVIRONMENT:VARIABLE``. Raises ``ClientError``."""
    parts = text.split(":")
    if len(parts) != 3 or not all(parts):
        raise ClientError("Write each key as SERVICE:ENVIRONMENT:VARIABLE.", USAGE)
    variable = parts[2]
    if not variable.isidentifier() or not variable.isascii():
        raise ClientError(f"{variable!r} is not a name for an environment variable.", USAGE)
    return Binding(*parts)


def run(client: Client, bindings: Sequence[Binding], command: Sequence[str]) -> NoReturn:
    """Become the command, with each key in its variable. Our own token is not passed on."""
    environment = {name: text for name, text in os.environ.items() if name != "KEYTURN_TOKEN"}
    for binding in bindings:
        environment[binding.variable] = client.secret(binding.service, binding.environment)
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606  (no shell is wanted)
    except OSError as error:
        raise ClientError(f"{command[0]} cannot be run: {error.strerror}.", USAGE) from error
