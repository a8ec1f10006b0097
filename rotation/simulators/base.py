"""What all simulated providers share: authentication before all else, faults, counting, the controls.

A simulator implements what the provider's document states. Where the document is silent it picks what is
harder on the caller: jobs and files belong to the key that made them, and a token dies with its key.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar, Final
from uuid import uuid4

from keyvault.crypto.secret import Secret
from rotation.simulators.faults import Faults
from rotation.simulators.truth import CreatedKey, Key, KeyView, Truth
from rotation.simulators.wire import Answer, Cut, Request, Response, json_response

DEFAULT_RATE: Final = 1_000.0  # requests per second and key


@dataclass(frozen=True)
class Denied:
    """Why a request is not let in. `key` is whose it was, if it was anyone's."""

    code: str  # "missing", "invalid", or what the provider calls it
    message: str = ""
    key: Key | None = None
    presented: bool = True


class Simulator(ABC):
    """One provider. The methods that take no request are the controls, for tests and the demo."""

    slug: ClassVar[str]
    key_prefix: ClassVar[str]
    has_management: ClassVar[bool] = True
    can_copy_again: ClassVar[bool] = False  # the account page shows an existing key again
    sends_request_id: ClassVar[bool] = False

    def __init__(self, *, admin_secret: Secret | None = None, clock: Callable[[], float] = time.time) -> None:
        self.truth = Truth(self.key_prefix, clock)
        self.admin_secret = admin_secret or Secret(f"adm_{secrets.token_urlsafe(24)}")
        self.replies: dict[str, tuple[bytes, Response]] = {}  # idempotent creates: key -> (body, answer)

    # -- the provider's own interface ------------------------------------------------------------------------

    def serve(self, request: Request) -> Answer:
        """Answer one request to the provider's API, counting it under the key that it carried."""
        request_id = uuid4().hex
        broken = self.injected("data")
        who = self.authenticate(request)
        if broken is not None:
            answer = broken
        elif isinstance(who, Denied):
            answer = self.unauthorized(who, request_id)
        elif who is not None and self.truth.faults.plan_lapsed:
            answer = self.no_plan(request_id)
        elif who is not None and not self.truth.within_rate(
            who, self.truth.faults.rate_per_second or DEFAULT_RATE
        ):
            answer = self.too_many(request_id, {"Retry-After": "1"})
        else:
            answer = self.handle(request, who, request_id)
        status = answer.status if isinstance(answer, Response) else 0
        key = who.key if isinstance(who, Denied) else who
        self.truth.record(key, presented=isinstance(who, Denied) and who.presented, status=status)
        if self.sends_request_id and isinstance(answer, Response):
            return Response(
                answer.status,
                answer.body,
                answer.content_type,
                {**answer.headers, "X-Request-ID": request_id},
            )
        return answer

    def authenticate(self, request: Request) -> Key | Denied | None:
        """The key that a request carries, a refusal, or None where no key is asked for."""
        text = self.presented(request)
        if text is None:
            return Denied("missing", presented=False)
        key = self.truth.find(text)
        if key is None or not self.truth.honoured(key):
            return Denied("invalid", key=key)
        return key

    @abstractmethod
    def presented(self, request: Request) -> str | None:
        """The text that a request presents as its key; None when there is none or it is blank."""

    @abstractmethod
    def unauthorized(self, denied: Denied, request_id: str) -> Response:
        """The provider's 401."""

    @abstractmethod
    def error(self, status: int, code: str, message: str, request_id: str) -> Response:
        """Any other error in the provider's shape."""

    @abstractmethod
    def handle(self, request: Request, key: Key | None, request_id: str) -> Answer:
        """A request that was let in."""

    def no_plan(self, request_id: str) -> Response:
        """The answer to a good key of an account without a plan."""
        return self.error(403, "plan_inactive", "The plan is not active.", request_id)

    def too_many(self, request_id: str, headers: dict[str, str]) -> Response:
        """A 429."""
        answer = self.error(429, "rate_limited", "Too many requests.", request_id)
        return Response(answer.status, answer.body, answer.content_type, headers)

    def injected(self, plane: str) -> Answer | None:
        """The fault that strikes this request, if any."""
        faults = self.truth.faults
        if plane not in faults.planes:
            return None
        if faults.timeout:
            return Cut(faults.timeout)
        if faults.retry_after is not None:
            return self.too_many("", {"Retry-After": str(faults.retry_after)})
        if faults.error_rate and self.truth.error_is_due(plane):
            return json_response(faults.error_status, {"error": "server_error"})
        return None

    # -- the controls ----------------------------------------------------------------------------------------

    def keys(self) -> list[KeyView]:
        """Every key ever made, oldest first."""
        return self.truth.views()

    def create_key(self, label: str) -> CreatedKey:
        """What a person does on the account page. Raises QuotaFull and NoPlan."""
        key = self.truth.create(label)
        return CreatedKey(key.secret, key.id)

    def adopt_key(self, key_id: str, secret: Secret) -> None:
        """The account has had this key for longer than the simulator runs."""
        self.truth.adopt(key_id, "adopted", secret)

    def revoke(self, key_id: str) -> None:
        """What a person does on the account page. Raises NoSuchKey."""
        self.truth.revoke(key_id)

    def disable(self, key_id: str) -> None:
        """What a person does on the account page. Raises NoSuchKey."""
        self.truth.disable(key_id)

    def enable(self, key_id: str) -> None:
        """What a person does on the account page. Raises NoSuchKey."""
        self.truth.enable(key_id)

    def counters(self) -> dict[str, object]:
        """See Truth.counters."""
        return self.truth.counters()

    def faults(self) -> dict[str, object]:
        """The faults as they are set."""
        return asdict(self.truth.faults)

    def set_fault(self, **changes: object) -> None:
        """Change some faults, see Faults. Raises FaultError."""
        with self.truth.lock:
            self.truth.faults = self.truth.faults.merged(changes)

    def clear_faults(self) -> None:
        """Be well again."""
        with self.truth.lock:
            self.truth.faults = Faults()

    def honours(self, secret: Secret) -> bool:
        """The ground truth: would a request with this key be let in right now?"""
        key = self.truth.find(secret.expose())
        return key is not None and self.truth.honoured(key) and not self.truth.faults.plan_lapsed


def header_key(request: Request, *, bearer: bool) -> str | None:
    """A key in X-API-Key, or in Authorization: Bearer where that is accepted. A blank value is no key."""
    value = request.headers.get("x-api-key", "").strip()
    if value or not bearer:
        return value or None
    return scheme_value(request, "bearer")


def scheme_value(request: Request, scheme: str) -> str | None:
    """What stands after a scheme in the Authorization header; the scheme in any letter case."""
    word, _, value = request.headers.get("authorization", "").strip().partition(" ")
    return (value.strip() or None) if word.lower() == scheme else None
