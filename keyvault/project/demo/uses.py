"""How a consumer uses each of the four providers. One ``step`` is one request."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import uuid4

from keyvault.crypto.secret import Secret
from keyvault.project.demo.wire import Answer, Wire

_PIXEL: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d"
    "49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@dataclass(frozen=True)
class Held:
    """A key as Keyturn delivered it."""

    version: int
    secret: Secret
    header: str
    scheme: str
    base_url: str

    def headers(self) -> dict[str, str]:
        """The credential of a request to the provider."""
        text = self.secret.expose()
        return {self.header: f"{self.scheme} {text}" if self.scheme else text}


@dataclass(frozen=True)
class Seen:
    """What became of one request. ``outcome`` is a counter of the usage report."""

    outcome: str
    status: int
    version: int
    credential: str = "key"
    opened: int = 0
    closed: int = 0

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def key_refused(self) -> bool:
        """The provider does not accept the key itself."""
        return self.outcome == "auth_invalid" and self.credential == "key"


def outcome_of(answer: Answer | None, *, of_job: bool = False) -> str:
    """The counter for an answer to a request that carried a credential; None: there was no answer."""
    if answer is None:
        return "timeout"
    if answer.status < 400:
        return "ok"
    if answer.status == 401:
        return "auth_invalid"
    if answer.status == 404 and of_job:
        return "not_found_job"
    if answer.status == 429:
        return "rate_limited"
    return "server_error" if answer.status >= 500 else "client_error"


class Use(ABC):
    """One instance's work at one provider."""

    slug: ClassVar[str]

    def __init__(self) -> None:
        self._wire: Wire | None = None
        self._base_url = ""

    @abstractmethod
    def step(self, held: Held) -> Seen:
        """Make the next request with the key that is held."""

    def moved(self) -> list[int]:
        """Another version is held now: give up what belongs to the one before. Returns, for each job
        given up, the version that it was opened with."""
        return []

    def _send(
        self, held: Held, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer | None:
        if self._wire is None or self._base_url != held.base_url:
            self._wire, self._base_url = Wire(held.base_url), held.base_url
        try:
            return self._wire.send(method, path, headers, body)
        except OSError:
            return None

    def _seen(self, answer: Answer | None, version: int, **more: Any) -> Seen:
        outcome = outcome_of(answer, of_job=more.pop("of_job", False))
        return Seen(outcome, answer.status if answer else 0, version, **more)


class BackgroundEraseUse(Use):
    """An image goes in, an image comes out; nothing is kept."""

    slug: ClassVar[str] = "backgrounderase"

    def step(self, held: Held) -> Seen:
        kind, body = multipart({}, "image_file", "photo.png")
        headers = {**held.headers(), "Content-Type": kind}
        return self._seen(self._send(held, "POST", "/v2", headers, body), held.version)


@dataclass
class _Job:
    id: str
    version: int


class _JobUse(Use):
    """A job is created, then asked for until it is complete. It belongs to the key that made it."""

    def __init__(self) -> None:
        super().__init__()
        self._job: _Job | None = None

    @abstractmethod
    def create_request(self) -> tuple[str, str, bytes]:
        """Path, content type and body."""

    @abstractmethod
    def poll_path(self, job_id: str) -> str: ...

    def step(self, held: Held) -> Seen:
        return self._create(held) if self._job is None else self._poll(held, self._job)

    def moved(self) -> list[int]:
        job, self._job = self._job, None
        return [job.version] if job is not None else []

    def _create(self, held: Held) -> Seen:
        path, kind, body = self.create_request()
        answer = self._send(held, "POST", path, {**held.headers(), "Content-Type": kind}, body)
        if answer is not None and answer.status in (201, 202):
            self._job = _Job(str(answer.json()["job_id"]), held.version)
            return self._seen(answer, held.version, opened=1)
        return self._seen(answer, held.version)

    def _poll(self, held: Held, job: _Job) -> Seen:
        answer = self._send(held, "GET", self.poll_path(job.id), held.headers())
        gone = answer is not None and answer.status == 404
        if gone or (answer is not None and answer.json().get("status") == "completed"):
            self._job = None
            return self._seen(answer, held.version, of_job=True, closed=1)
        return self._seen(answer, held.version, of_job=True)


class RemovitUse(_JobUse):
    """Upload by URL, then poll the status."""

    slug: ClassVar[str] = "removit"

    def create_request(self) -> tuple[str, str, bytes]:
        return "/api/v1/upload", "application/json", b'{"file_url": "https://images.example/shoe.jpg"}'

    def poll_path(self, job_id: str) -> str:
        return f"/api/v1/status?job_id={job_id}"


class RemoveBGVideoUse(_JobUse):
    """Upload a video, then poll the job."""

    slug: ClassVar[str] = "removebgvideo"

    def create_request(self) -> tuple[str, str, bytes]:
        return "/v1/jobs", *multipart({}, "file", "clip.mp4")

    def poll_path(self, job_id: str) -> str:
        return f"/v1/jobs/{job_id}"


@dataclass
class _Token:
    secret: Secret
    version: int  # of the key that it was minted with
    ends: float  # time.monotonic()


@dataclass
class _File:
    path: str
    version: int
    done: bool = False  # processed, and can be fetched


class BackgroundCutUse(Use):
    """Upload, process and fetch a file: mostly with an access token, every third file with the key itself.

    A token is used until it ends, also when another version of the key has come in the meantime: that is
    why a provider with such tokens needs a longer proof of quiet. Files belong to the key behind a token.
    """

    slug: ClassVar[str] = "backgroundcut"
    PATHS: Final = ["/v3/file-ops/*", "/v3/tools/*", "/v3/files/*"]

    def __init__(self, token_seconds: int) -> None:
        super().__init__()
        self._token_seconds = token_seconds
        self._token: _Token | None = None
        self._file: _File | None = None
        self._files = 0

    def step(self, held: Held) -> Seen:
        direct = self._files % 3 == 2
        token = None if direct else self._usable_token()
        if token is None and not direct:
            return self._mint(held)
        version = held.version if token is None else token.version
        credential = "key" if token is None else "access_token"
        headers = held.headers() if token is None else {"Authorization": f"AccessToken {token.secret.expose()}"}
        return self._next(held, headers, version, credential)

    def moved(self) -> list[int]:
        """Only a file in the making is given up; a token goes on until it ends."""
        if self._file is None or (self._token is not None and self._token.version == self._file.version):
            return []
        file, self._file = self._file, None
        return [file.version]

    def _usable_token(self) -> _Token | None:
        """A token that still covers the next request, and belongs to the same version as the open file."""
        token, file = self._token, self._file
        # A whole file fits into what is left, so that no file is left behind when the token ends.
        needed = 1.0 if file is None else 0.2
        if token is None or token.ends - time.monotonic() < needed:
            return None
        return token if file is None or file.version == token.version else None

    def _mint(self, held: Held) -> Seen:
        import json

        lost = self.moved() if self._file is not None and self._file.version != held.version else []
        body = json.dumps({"paths": self.PATHS, "expires_in": self._token_seconds}).encode()
        headers = {**held.headers(), "Content-Type": "application/json"}
        begun = time.monotonic()
        answer = self._send(held, "POST", "/v3/auth/access-token/", headers, body)
        if answer is not None and answer.status == 200:
            secret = Secret(str(answer.json()["access_token"]))
            self._token = _Token(secret, held.version, begun + self._token_seconds)
        return self._seen(answer, held.version, closed=len(lost))

    def _next(self, held: Held, headers: dict[str, str], version: int, credential: str) -> Seen:
        raise AssertionError
