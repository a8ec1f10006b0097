"""How a consumer uses each of the four providers. One ``step`` is one request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
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
    """What became of one request. ``outcome`` is a counter of the usage report; ``job_version`` is the
    version that opened the job which was asked for, where there is one."""

    outcome: str
    status: int
    version: int
    credential: str = "key"
    opened: int = 0
    closed: int = 0
    job_version: int | None = None

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

    @property
    def busy(self) -> bool:
        """Is a job open that belongs to the key?"""
        return False

    def give_up(self) -> list[int]:
        """The key was refused: what was begun with it is lost. Returns, for each job given up, the
        version that it was opened with."""
        return []

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.close()

    def _send(
        self, held: Held, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer | None:
        if self._wire is None or self._base_url != held.base_url:
            self.close()
            self._wire, self._base_url = Wire(held.base_url), held.base_url
        try:
            return self._wire.send(method, path, headers, body)
        except OSError:
            return None

    def _seen(self, answer: Answer | None, version: int, **more: Any) -> Seen:
        outcome = outcome_of(answer, of_job=more.get("job_version") is not None)
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

    @property
    def busy(self) -> bool:
        return self._job is not None

    def give_up(self) -> list[int]:
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
            return self._seen(answer, held.version, job_version=job.version, closed=1)
        return self._seen(answer, held.version, job_version=job.version)


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


def multipart(fields: Mapping[str, str], name: str, filename: str) -> tuple[str, bytes]:
    """Content type and body of a form with one small image."""
    mark = uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    parts += [head.encode(), b"Content-Type: image/png\r\n\r\n", _PIXEL, f"\r\n--{mark}--\r\n".encode()]
    return f"multipart/form-data; boundary={mark}", b"".join(parts)
