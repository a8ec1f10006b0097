"""How a consumer uses BackgroundCut: a key mints short-lived access tokens, and those do most of the work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from keyvault.crypto.secret import Secret
from keyvault.project.demo.uses import Held, Seen, Use, multipart
from keyvault.project.demo.wire import Answer

MINT: Final = "/v3/auth/access-token/"
_MARGIN: Final = 2.0  # seconds that a token must have left, so that it does not run out on its way
PATHS: Final = ("/v3/file-ops/*", "/v3/tools/*", "/v3/files/*")


@dataclass(frozen=True)
class _Token:
    secret: Secret
    version: int  # of the key that it was minted with
    ends: float  # on the clock of the use

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"AccessToken {self.secret.expose()}"}


class _RanOut(Exception):
    """The token was over when the provider looked at it, however long it had left when it was sent."""


@dataclass
class _File:
    version: int
    direct: bool  # made with the key itself, not with a token
    source: str = ""
    result: str = ""


@dataclass(frozen=True)
class _Page:
    """A result that somebody looks at in a browser, with the token that he was handed."""

    path: str
    token: _Token


class BackgroundCutUse(Use):
    """Upload, process and fetch a file with an access token; every third file with the key itself.

    Files belong to the key behind the token, so an open file counts as an open job. The last finished
    one is looked at for as long as its token lives, also when another version of the key has come in
    the meantime: that is why a provider with such tokens needs a longer proof of quiet.
    """

    slug: ClassVar[str] = "backgroundcut"

    def __init__(self, token_seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._token_seconds = token_seconds
        self._clock = clock
        self._token: _Token | None = None
        self._file: _File | None = None
        self._page: _Page | None = None
        self._files = self._steps = 0

    def step(self, held: Held) -> Seen:
        self._steps += 1
        try:
            return self._next(held)
        except _RanOut:
            # On a machine that is slow; nothing was done, and the next step does it with another token.
            self._token = self._page = None
            return self._mint(held)

    def _next(self, held: Held) -> Seen:
        if self._page is not None and self._steps % 4 == 0 and self._lives(self._page.token, _MARGIN):
            return self._look(held, self._page)
        if self._direct():
            return self._work(held, None)
        token = self._token
        # A whole file should fit into what is left of a token before it is begun.
        needed = _MARGIN if self._file else min(2 * _MARGIN, self._token_seconds / 2)
        if token is None or token.version != held.version or not self._lives(token, needed):
            return self._mint(held)
        return self._work(held, token)

    @property
    def busy(self) -> bool:
        return self._file is not None

    def give_up(self) -> list[int]:
        file, self._file = self._file, None
        return [file.version] if file is not None else []

    def _direct(self) -> bool:
        return self._file.direct if self._file else self._files % 3 == 2

    def _lives(self, token: _Token, seconds: float) -> bool:
        return token.ends - self._clock() > seconds

    def _ask(
        self,
        held: Held,
        token: _Token | None,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "",
    ) -> Answer | None:
        """With the token, or None: with the key itself. Raises ``_RanOut``."""
        headers = held.headers() if token is None else token.headers()
        answer = self._send(held, method, path, {**headers, "Content-Type": kind} if kind else headers, body)
        refused = answer is not None and answer.status == 401
        if refused and token is not None and not self._lives(token, 0.0):
            raise _RanOut
        return answer

    def _look(self, held: Held, page: _Page) -> Seen:
        answer = self._ask(held, page.token, "GET", f"/v3/files/{page.path}")
        return self._seen(answer, page.token.version, credential="access_token")

    def _mint(self, held: Held) -> Seen:
        begun = self._clock()
        body = json.dumps({"paths": PATHS, "expires_in": self._token_seconds}).encode()
        answer = self._ask(held, None, "POST", MINT, body, "application/json")
        if answer is not None and answer.status == 200:
            secret = Secret(str(answer.json()["access_token"]))
            self._token = _Token(secret, held.version, begun + self._token_seconds)
        return self._seen(answer, held.version)

    def _work(self, held: Held, token: _Token | None) -> Seen:
        """The next request for the file in hand, or the first one for a new file."""
        file = self._file
        if file is None:
            return self._upload(held, token)
        if not file.result:
            return self._process(held, token, file)
        answer = self._ask(held, token, "GET", f"/v3/files/{file.result}")
        self._file = None
        self._files += 1
        if token is not None and answer is not None and answer.status == 200:
            self._page = _Page(file.result, token)
        return self._of(held, token, answer, job_version=file.version, closed=1)

    def _of(self, held: Held, token: _Token | None, answer: Answer | None, **more: int) -> Seen:
        """What was seen of a request with this token, or with the key."""
        version, credential = (held.version, "key") if token is None else (token.version, "access_token")
        return self._seen(answer, version, credential=credential, **more)

    def _upload(self, held: Held, token: _Token | None) -> Seen:
        kind, body = multipart({"upload_path": "shop"}, "files", "photo.png")
        answer = self._ask(held, token, "POST", "/v3/file-ops/upload/", body, kind)
        if answer is None or answer.status != 200:
            return self._of(held, token, answer)
        seen = self._of(held, token, answer, opened=1)
        self._file = _File(seen.version, token is None, source=str(answer.json()["file_paths"][0]))
        return seen

    def _process(self, held: Held, token: _Token | None, file: _File) -> Seen:
        result = f"{file.source}.cut.png"
        wanted = {"input_file_path": file.source, "output_variants": [{"output_file_path": result}]}
        body = json.dumps(wanted).encode()
        answer = self._ask(held, token, "POST", "/v3/tools/ai/remove-bg/process/", body, "application/json")
        if answer is not None and answer.status == 200:
            file.result = result
        elif answer is not None and answer.status == 404:
            self._file = None
            return self._of(held, token, answer, job_version=file.version, closed=1)
        return self._of(held, token, answer, job_version=file.version)
