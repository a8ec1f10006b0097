"""What the consumers saw: every request to a provider, and which version each instance holds."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from keyvault.crypto.secret import Secret


@dataclass(frozen=True)
class Failure:
    """One request that did not work. ``at`` is in Unix seconds; status 0: there was no answer."""

    key: str
    instance: str
    version: int
    credential: str
    outcome: str
    status: int
    at: float


@dataclass(frozen=True)
class Totals:
    """Requests made and requests failed."""

    requests: int
    failed: int


@dataclass
class _Page:
    requests: Counter[int] = field(default_factory=Counter)  # by version
    failures: list[Failure] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)  # instance -> version
    secrets: dict[int, Secret] = field(default_factory=dict)


class Ledger:
    """Written by all instances, read by the demo. Thread-safe. ``key`` is the name of a ``DemoKey``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, _Page] = {}
        self._unanswered: Counter[str] = Counter()

    def worked(self, key: str, version: int) -> None:
        """One request with a version of this key that worked."""
        with self._lock:
            self._page(key).requests[version] += 1

    def failed(self, failure: Failure) -> None:
        """One request with a version of this key that did not."""
        with self._lock:
            page = self._page(failure.key)
            page.requests[failure.version] += 1
            page.failures.append(failure)

    def delivered(self, key: str, instance: str, version: int, secret: Secret) -> None:
        """Keyturn gave this version to this instance."""
        with self._lock:
            page = self._page(key)
            page.held[instance] = version
            page.secrets[version] = secret

    def unanswered(self, why: str) -> None:
        """Keyturn did not give what was asked for; the instance goes on with what it holds."""
        with self._lock:
            self._unanswered[why] += 1

    def totals(self, key: str, *, without_version: int | None = None) -> Totals:
        """All requests with a key, those with one version left out."""
        with self._lock:
            page = self._page(key)
            requests = sum(n for version, n in page.requests.items() if version != without_version)
            failed = sum(failure.version != without_version for failure in page.failures)
            return Totals(requests, failed)

    def failures(self, key: str, version: int | None = None) -> list[Failure]:
        """The failed requests with a key, oldest first; ``version`` None: with any version."""
        with self._lock:
            found = [f for f in self._page(key).failures if version in (None, f.version)]
        return sorted(found, key=lambda failure: failure.at)

    def holders(self, key: str, version: int) -> list[str]:
        """The instances that hold this version now."""
        with self._lock:
            return sorted(name for name, held in self._page(key).held.items() if held == version)

    def instances(self, key: str) -> int:
        """How many instances hold any version."""
        with self._lock:
            return len(self._page(key).held)

    def secret(self, key: str, version: int) -> Secret | None:
        """A version's secret, as some instance was given it; None where nobody was."""
        with self._lock:
            return self._page(key).secrets.get(version)

    def unanswered_counts(self) -> dict[str, int]:
        """How often Keyturn did not give what was asked for, by cause."""
        with self._lock:
            return dict(self._unanswered)

    def _page(self, key: str) -> _Page:
        return self._pages.setdefault(key, _Page())
