"""What every driver is: the values it takes and gives, and the ways it may fail.

A driver speaks to one kind of provider. It sees values, never rows: no Django, no clock, no state of its own.
"""

import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, Protocol, Self

from keyvault.crypto.secret import Secret

ErrorShape = Literal["nested", "flat"]

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Answers that say nothing about the key itself (or say no), so no probe may call them a pass.
NEVER_ACCEPTED: Final = frozenset({401, 407, 429})


class ProbeOutcome(StrEnum):
    """What one question to the provider told us about one secret."""

    ACCEPTED = "accepted"  # the provider honours the key
    REJECTED = "rejected"  # 401: the key was seen and refused
    MISSING = "missing"  # 401: the provider saw no key at all
    FORBIDDEN = "forbidden"  # 402 or 403: the account may not, whatever the key
    RATE_LIMITED = "rate_limited"
    UNREACHABLE = "unreachable"  # no connection, no valid certificate, no answer in time, or a 5xx
    INCONCLUSIVE = "inconclusive"  # an answer that proves nothing


class ProbeSpecError(ValueError):
    """A probe was described wrongly; `problems` are sentences that may be shown to its author."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class ProbeSpec:
    """The request that proves a key: `accepted` and `rejected` are the HTTP statuses that mean so."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: str | None = None
    accepted: tuple[int, ...] = (200,)
    rejected: tuple[int, ...] = (401,)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read `{"method","path","headers","body","accepted":[200],"rejected":[401]}`.

        Raises ProbeSpecError naming every problem at once.
        """
        problems = check_probe(data)
        if problems or not isinstance(data, Mapping):
            raise ProbeSpecError(tuple(problems))
        return cls(
            method=data["method"],
            path=data["path"],
            headers=MappingProxyType(dict(data.get("headers") or {})),
            body=data.get("body"),
            accepted=tuple(data.get("accepted", (200,))),
            rejected=tuple(data.get("rejected", (401,))),
        )

    def to_json(self) -> dict[str, object]:
        """The same shape that `from_json` reads."""
        return {
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "body": self.body,
            "accepted": list(self.accepted),
            "rejected": list(self.rejected),
        }


def check_probe(data: object) -> list[str]:
    """Every problem of a probe given as data; an empty list means it can be used."""
    if not isinstance(data, Mapping):
        return ["the probe must be an object"]
    known = {"method", "path", "headers", "body", "accepted", "rejected"}
    problems = [f"probe: unknown field {name!r}" for name in data if name not in known]
    if data.get("method") not in METHODS:
        problems.append("probe.method must be an HTTP method in capitals")
    path = data.get("path")
    if not isinstance(path, str) or not is_request_path(path):
        problems.append(
            "probe.path must begin with one / and hold only printable ASCII, no space, # or backslash"
        )
    problems += check_headers("probe.headers", data.get("headers", {}))
    if not isinstance(data.get("body"), str | None):
        problems.append("probe.body must be text or null")
    accepted, rejected = data.get("accepted", [200]), data.get("rejected", [401])
    for name, statuses in (("accepted", accepted), ("rejected", rejected)):
        if not _is_status_list(statuses):
            problems.append(f"probe.{name} must be a list of HTTP statuses from 200 to 499, without 3xx")
    if not problems:
        if not accepted or not rejected:
            problems.append("probe.accepted and probe.rejected must name at least one status each")
        if NEVER_ACCEPTED & set(accepted):
            problems.append("probe.accepted must not hold 401, 407 or 429: they never prove a key")
        if set(accepted) & set(rejected):
            problems.append("probe.accepted and probe.rejected must not share a status")
    return problems


def check_headers(name: str, data: object) -> list[str]:
    """Problems of a header mapping given as data."""
    if data is None:
        return []
    if not isinstance(data, Mapping):
        return [f"{name} must be an object"]
    return [
        f"{name}: {key!r} is not a header with a printable ASCII value"
        for key, value in data.items()
        if not (
            isinstance(key, str) and is_header_name(key) and isinstance(value, str) and is_header_value(value)
        )
    ]


def is_header_name(text: str) -> bool:
    """Is it an HTTP field name?"""
    return 0 < len(text) <= 64 and all(char.isascii() and (char.isalnum() or char in "-_") for char in text)


def is_header_value(text: str) -> bool:
    """Printable ASCII, no white space at either end; long enough for any key, bounded all the same."""
    return len(text) <= 16_384 and text == text.strip() and all(" " <= char <= "~" for char in text)


def is_request_path(text: str) -> bool:
    """An origin-form request target: it can only ever address the provider's own host."""
    return (
        text.startswith("/")
        and not text.startswith("//")
        and len(text) <= 1024
        and all("!" <= char <= "~" and char not in "\\#" for char in text)
    )


def _is_status_list(data: object) -> bool:
    return isinstance(data, list | tuple) and all(
        isinstance(status, int)
        and not isinstance(status, bool)
        and 200 <= status <= 499
        and status // 100 != 3
        for status in data
    )


@dataclass(frozen=True)
class ProviderSpec:
    """A provider as drivers see it. `allow_hosts` holds "host:port" that may be on loopback (development)."""

    slug: str
    base_url: str
    auth_header: str
    auth_scheme: str = ""
    probe: ProbeSpec | None = None
    errors: ErrorShape = "nested"
    config: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    admin_secret: Secret | None = None
    key_affine: bool = False
    max_keys: int | None = None
    allow_hosts: frozenset[str] = frozenset()
    honours: Callable[[Secret], bool] | None = None  # only for `generated`: we are the provider


@dataclass(frozen=True)
class Capabilities:
    """What a driver can do at this provider without a person."""

    issue: bool
    list: bool
    disable: bool  # reversible: disable and enable
    revoke: bool
    replay: bool  # the same idempotency key returns the same secret
    last_used: bool = False  # list tells when each key was last used


@dataclass(frozen=True)
class IssueRequest:
    """Ask for one new key. `label` is ours (`keyturn-<rotation>-<attempt>`); by it list finds the key."""

    label: str
    idempotency_key: str
    environment: str


@dataclass(frozen=True)
class Issued:
    """A key that now exists at the provider."""

    secret: Secret
    provider_key_id: str


@dataclass(frozen=True)
class Listed:
    """A key that the provider knows; it never shows the secret again."""

    provider_key_id: str
    label: str
    last_used_at: datetime | None = None  # None: never, or the provider does not tell


@dataclass(frozen=True)
class ProbeResult:
    """The outcome and its evidence. `retry_after` in seconds; `detail` never holds secret material."""

    outcome: ProbeOutcome
    status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None
    detail: str = ""


class Driver(Protocol):
    """One kind of provider. Every method may raise a DriverError; none of them retries."""

    kind: str

    def capabilities(self, spec: ProviderSpec) -> Capabilities:
        """What can be done at this provider; never calls it."""

    def issue(self, spec: ProviderSpec, request: IssueRequest) -> Issued:
        """Create a key."""

    def probe(self, spec: ProviderSpec, secret: Secret) -> ProbeResult:
        """Ask whether the provider honours this secret; never raises for what the provider answers."""

    def list(self, spec: ProviderSpec) -> tuple[Listed, ...]:
        """Every key that the provider still knows under this account."""

    def disable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Make the provider refuse the key for now."""

    def enable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Undo `disable`."""

    def revoke(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Make the provider refuse the key for good; a key that is already gone (404, 410) is a success."""


class DriverError(Exception):
    """A call did not succeed. `message` is safe to show and `retry_after` is in seconds."""

    def __init__(self, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


class Refused(DriverError):
    """The provider said no and would say no again; nothing was done."""


class QuotaReached(DriverError):
    """The account holds as many keys as it may; nothing was done."""


class Throttled(DriverError):
    """The provider answered 429; nothing was done."""


class Unavailable(DriverError):
    """No connection was made, so the request was certainly not carried out."""


class OutcomeUnknown(DriverError):
    """The request left us and no usable answer came back: it may or may not have been carried out."""


class NeedsPerson(DriverError):
    """Only a person can do this at this provider."""


_HEX: Final = frozenset("0123456789abcdefABCDEF")
_random = random.SystemRandom()


def garble(secret: Secret) -> Secret:
    """A wrong key that looks right: same length and alphabet, certainly different (the negative control).

    1. The first half stays, so that a prefix such as `sk_live_` survives and the provider must look the key
       up rather than refuse its form.
    2. Every letter or digit of the second half becomes another one of the same class; hexadecimal stays
       hexadecimal.
    3. A secret without letters and digits there gets another last character.
    """
    text = secret.expose()
    if not text:
        raise ValueError("an empty secret cannot be garbled")
    middle = len(text) // 2
    tail = text[middle:]
    is_hex = all(char in _HEX for char in tail if char.isalnum())
    garbled = "".join(_other(char, is_hex=is_hex) for char in tail)
    if garbled == tail:
        garbled = tail[:-1] + ("-" if tail[-1] != "-" else "_")
    return Secret(text[:middle] + garbled)


def _other(char: str, *, is_hex: bool) -> str:
    if char in string.digits:
        choices = string.digits
    elif char in string.ascii_lowercase:
        choices = "abcdef" if is_hex else string.ascii_lowercase
    elif char in string.ascii_uppercase:
        choices = "ABCDEF" if is_hex else string.ascii_uppercase
    else:
        return char
    return _random.choice([choice for choice in choices if choice != char])
