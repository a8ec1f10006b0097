"""Consumer instances: threads that fetch keys from Keyturn, call providers with them, and report how it went.

They behave as a careful client should: they ask again after ``refresh_after``, with the ETag of what they
hold; they report before they ask, so that Keyturn knows of open jobs; on a 401 they ask again once and then
wait a moment.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from keyvault.crypto.secret import Secret
from keyvault.project.demo.cast import DemoKey
from keyvault.project.demo.ledger import Failure, Ledger
from keyvault.project.demo.uses import Held, Seen, Use
from keyvault.project.demo.wire import Answer, Wire

THINK_SECONDS: Final = 0.12  # between two requests of one instance
CALM_THINK_SECONDS: Final = 0.25  # where there is less to do; still enough requests to judge a key by
RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Consumer:
    """A consumer and its token."""

    slug: str
    token: Secret


class Account:
    """One key, as one instance uses it. For one thread."""

    def __init__(
        self,
        keyturn: Wire,
        consumer: Consumer,
        instance: str,
        key: DemoKey,
        use: Use,
        ledger: Ledger,
        refresh: float,
    ) -> None:
        """``refresh`` is the longest wait in seconds."""
        self.key = key
        self.asks = True  # False: it goes on with what it holds, as one that reads its key only at its start
        self._keyturn, self._consumer, self._instance = keyturn, consumer, instance
        self._use, self._ledger, self._refresh = use, ledger, refresh
        self._held: Held | None = None
        self._etag = ""
        self._fetch_at = self._work_at = 0.0
        self._asked_busy = False  # the key that is held may be given only for the sake of a job
        self._pause = RETRY_SECONDS
        self._refused = False  # by the provider, at the last request
        self._counts: dict[tuple[int, str], Counter[str]] = {}
        self._unsent: dict[str, Any] | None = None
        self._sequence = 0
        self._reported_at = datetime.now(UTC)

    @property
    def holder(self) -> str:
        """Who this is, as Keyturn names it."""
        return f"{self._consumer.slug}/{self._instance}"

    def turn(self) -> None:
        """What is due now: a report and a look at Keyturn, then one request to the provider."""
        if self._due():
            self.report()
            self._fetch_if_told()
        if self._held is not None and time.monotonic() >= self._work_at:
            self._work(self._held)

    def close(self) -> None:
        """Hang up."""
        self._keyturn.close()
        self._use.close()

    def _due(self) -> bool:
        """Is it time to ask? Between two jobs is the best moment, for with an open one Keyturn lets us keep
        the key before: who asked with a job open asks again once it is closed, before the next."""
        if not self._use.busy and self._asked_busy:
            return True
        return time.monotonic() - self._fetch_at >= (self._refresh / 4 if self._use.busy else 0.0)

    def _fetch_if_told(self) -> None:
        """Ask for the key, unless Keyturn may not know yet of a job that belongs to the one we hold."""
        if self._use.busy and self._unsent is not None:
            self._fetch_at = time.monotonic() + RETRY_SECONDS
        else:
            self.fetch()

    def _work(self, held: Held) -> None:
        seen = self._use.step(held)
        self._count(seen)
        self._refused = seen.key_refused
        if not seen.key_refused:
            self._pause = RETRY_SECONDS
            return
        self.report()
        self.fetch()
        if self._held is None or self._held.version == held.version:
            # Nothing newer to try: hammering the provider with a refused key helps nobody.
            self._work_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, 4.0)

    def _count(self, seen: Seen) -> None:
        counts = self._counts.setdefault((seen.version, seen.credential), Counter())
        counts[seen.outcome] += 1
        counts["jobs_opened"] += seen.opened
        if seen.closed:
            # Closed is counted where it was opened, whatever key was used to find that out.
            opener = seen.job_version if seen.job_version is not None else seen.version
            self._counts.setdefault((opener, seen.credential), Counter())["jobs_closed"] += seen.closed
        if seen.ok:
            self._ledger.worked(self.key.name, seen.version)
            return
        self._ledger.failed(
            Failure(
                key=self.key.name,
                instance=self.holder,
                # A job that is lost is a failure of the version that opened it.
                version=seen.job_version if seen.job_version is not None else seen.version,
                credential=seen.credential,
                outcome=seen.outcome,
                status=seen.status,
                at=time.time(),
            )
        )

    def fetch(self) -> None:
        """Ask Keyturn for the key. Where it does not answer, the key that is held goes on working."""
        if not self.asks:
            self._fetch_at = time.monotonic() + RETRY_SECONDS
            return
        self._asked_busy = self._use.busy
        headers = {"X-API-Key": self._consumer.token.expose()}
        if self._etag:
            headers["If-None-Match"] = self._etag
        answer = self._ask("GET", f"{self.key.path}?instance={self._instance}", headers)
        wait = RETRY_SECONDS
        if answer is not None and answer.status == 200:
            wait = self._take(answer)
        elif answer is not None and answer.status == 304:
            wait = self._refresh
        elif answer is not None:
            self._ledger.unanswered(f"fetch answered {answer.status} {_code(answer)}".rstrip())
        self._fetch_at = time.monotonic() + wait

    def _take(self, answer: Answer) -> float:
        data = answer.json()
        auth = data["auth"]
        held = Held(
            version=int(data["version"]),
            secret=Secret(str(data["key"])),
            header=str(auth["header"]),
            scheme=str(auth["scheme"]),
            base_url=str(auth["base_url"]),
        )
        if self._held is not None and self._held.version != held.version:
            self._work_at, self._pause = 0.0, RETRY_SECONDS
            if self._refused:
                self._give_up()
        self._held, self._etag = held, answer.headers.get("etag", "")
        self._ledger.delivered(self.key.name, self.holder, held.version, held.secret)
        # A key at rest may be kept for minutes; at the demo's speed those are over in no time.
        return min(float(data["refresh_after"]), self._refresh)

    def _give_up(self) -> None:
        """Close the jobs of a key that is refused. Any other job is asked for with the key that Keyturn
        gives: that it belongs to another one must never show."""
        self._refused = False
        for version in self._use.give_up():
            self._counts.setdefault((version, "key"), Counter())["jobs_closed"] += 1

    def report(self) -> None:
        """Tell Keyturn how its versions worked. A report whose answer is lost is sent again unchanged."""
        if self._unsent is not None:
            self._send_report(self._unsent)
        if self._unsent is None and self._counts:
            self._unsent = self._next_report()
            self._send_report(self._unsent)

    def _next_report(self) -> dict[str, Any]:
        begun, self._reported_at = self._reported_at, datetime.now(UTC)
        self._sequence += 1
        lines = [
            {"version": version, "credential": credential, **{name: n for name, n in counts.items() if n}}
            for (version, credential), counts in self._counts.items()
        ]
        self._counts = {}
        return {
            "instance": self._instance,
            "sequence": self._sequence,
            "from": begun.isoformat(),
            "to": self._reported_at.isoformat(),
            "versions": lines,
        }

    def _send_report(self, report: dict[str, Any]) -> None:
        headers = {"X-API-Key": self._consumer.token.expose()}
        answer = self._ask("POST", f"{self.key.path}reports/", headers, report)
        if answer is None or answer.status >= 500 or answer.status == 429:
            return
        self._unsent = None
        if answer.status != 202:
            self._ledger.unanswered(f"report answered {answer.status} {_code(answer)}".rstrip())

    def _ask(
        self, method: str, path: str, headers: dict[str, str], data: object | None = None
    ) -> Answer | None:
        try:
            if data is not None:
                return self._keyturn.send_json(method, path, data, headers)
            return self._keyturn.send(method, path, headers)
        except OSError as error:
            self._ledger.unanswered(f"{type(error).__name__} from Keyturn")
            return None


def _code(answer: Answer) -> str:
    error = answer.json().get("error")
    return str(error.get("code", "")) if isinstance(error, dict) else ""


class Instance(threading.Thread):
    """One running copy of a consumer: it takes its keys in turn, all the time."""

    def __init__(
        self, name: str, accounts: Sequence[Account], stop: threading.Event, think: float = THINK_SECONDS
    ) -> None:
        """``think``: seconds between two requests."""
        super().__init__(name=f"instance-{name}", daemon=True)
        self._accounts, self._ended, self._think = tuple(accounts), stop, think
        self.died: Exception | None = None  # a mistake of the demo's own, not of a provider

    def account(self, key: DemoKey) -> Account:
        """Its use of this key."""
        return next(account for account in self._accounts if account.key == key)

    def calm(self) -> None:
        """Work less from now on."""
        self._think = CALM_THINK_SECONDS

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                for account in self._accounts:
                    account.turn()
                    if self._ended.wait(self._think):
                        return
        except Exception as error:
            self.died = error
        finally:
            for account in self._accounts:
                account.close()
