"""Verification of keys that we issued (driver ``generated``): for them Keyturn itself is the provider.

Every verification is recorded as a use of the version, so a key that its holders still present is not quiet.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from django.conf import settings

from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.delivery.answer import Answer, as_json, plain
from keyvault.delivery.authenticate import Caller, authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.credentials import invalid_api_key
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import KeyRecord, VersionRecord
from keyvault.delivery.requests import Request
from keyvault.delivery.rows import VerificationRow
from keyvault.delivery.standing import Decided, Standing
from keyvault.domain import State
from keyvault.exceptions import KeyturnError, denied, invalid
from keyvault.strict_json import parse_object, refuse_unknown

VALID: Final = "valid"
NOT_FOUND: Final = "not_found"
LIMITED: Final = "rate_limited"
# What an answer can say of a key.
CODES: Final = (VALID, NOT_FOUND, "revoked", "expired", "disabled", LIMITED)
_DEAD: Final = {State.REVOKED: "revoked", State.DESTROYED: "revoked", State.DISABLED: "disabled"}


class Presented(NamedTuple):
    """A presented key that is one of ours."""

    key: KeyRecord
    version: VersionRecord


async def verify(plane: Plane, request: Request) -> Answer:
    """``POST /v1/verify/``: 200 for a good key and for a bad one; the body says which."""
    return await plane.settle(request, lambda view: _decide(view, plane, request))


def _decide(view: View, plane: Plane, request: Request) -> Decided:
    caller = authenticate(view, request, plane.claims)
    token = caller.token
    request.tally.count(token, view.now)
    text = _text(request.body)
    presented = _find(view, text)
    # Also for a key that is none of ours: who may verify nothing must not learn that.
    allowed = _may_verify(view, caller, presented.key if presented else None)
    if presented is None or not allowed:
        return Decided(as_json(200, {"valid": False, "code": NOT_FOUND}))
    code = _judge(presented.version, request.tally, view.now)
    row = VerificationRow(view.now, presented.version.id, token.consumer_id, code)
    if code != VALID:
        return Decided(as_json(200, {"valid": False, "code": code}), row)
    standing = _Good(view, caller, presented.version) if caller.repeats else None
    return Decided(as_json(200, _told(presented)), row, standing)


class _Good(Standing):
    """A key that is good until something changes. ``caller`` is None for a gateway."""

    __slots__ = ("_token", "_version")

    def __init__(self, view: View, caller: Caller | None, version: VersionRecord) -> None:
        ends = () if caller is None else (caller.expires_at, caller.token.expires_at)
        super().__init__(view, (*ends, version.expires_at))
        self._token = None if caller is None else caller.token
        self._version = version

    def again(self, now: datetime, request_id: str, tally: Tally) -> VerificationRow:
        consumer = None
        if self._token is not None:
            tally.owe(self._token)
            consumer = self._token.consumer_id
        if _judge(self._version, tally, now, told=self._token is None) != VALID:
            raise KeyturnError("rate_limited", "Too many requests.")
        return VerificationRow(now, self._version.id, consumer, VALID)


def _text(body: bytes) -> str:
    told = parse_object(body)
    refuse_unknown(told, ("key",))
    key = told.get("key")
    if not isinstance(key, str) or not key:
        raise invalid("key", "Send the key that was presented to you.")
    return key


def _told(presented: Presented) -> dict[str, object]:
    key, version = presented
    return {
        "valid": True,
        "code": VALID,
        "service": key.service,
        "environment": key.environment,
        "version": version.number,
        "label": key.label_of(version.number),
    }


def _may_verify(view: View, caller: Caller, key: KeyRecord | None) -> bool:
    """Whether the caller may verify this key. False: for it there is no such key.

    Raises ``permission_denied`` for a caller who may not verify anything here, or knows the key otherwise.
    """
    token = caller.token
    if key is not None and key.environment_id == token.environment_id:
        grant = view.grant(token.consumer_id, token.environment_id, key.service)
        if grant is not None:
            if "verify" not in grant.verbs:
                raise denied("The grant on this key does not include 'verify'.")
            return True
    verifier = view.verifier(token.consumer_id)
    if verifier is None or token.environment_id not in verifier.environment_ids:
        raise denied("No grant of this consumer includes 'verify' in this environment.")
    return False


def _find(view: View, text: str) -> Presented | None:
    """The key and version behind a text; None for one that is not ours. Raises ``IntegrityError``."""
    name = digest(view.keys.service.pepper, text)
    if not view.knows_issued(name):
        parsed = parse(text)
        if parsed is None or parsed.kind is not TokenKind.ISSUED:
            return None
    issued = view.issued(name)
    if issued is None:
        return None
    key = view.key(issued.service_id, issued.environment_id)
    if key is not None:
        view.refuse_held(key)
    version = None if key is None else _version(view, key, issued.number)
    if key is None or version is None or version.state is State.REQUESTED:
        return None
    return Presented(key, version)


def _version(view: View, key: KeyRecord, number: int) -> VersionRecord | None:
    label = key.label_of(number)
    version = view.version(key.id, number) if label is None else key.labelled(label)
    if version is not None and not version.intact:
        raise IntegrityError
    return version


def _judge(version: VersionRecord, tally: Tally, now: datetime, *, told: bool = False) -> str:
    """What we say of a version of ours. Only a good one is counted; ``told``: the answer says how often."""
    dead = _DEAD.get(version.state)
    if dead is not None:
        return dead
    if version.expires_at is not None and version.expires_at <= now:
        return "expired"
    limit: int = settings.KEYTURN_ISSUED_KEY_RATE
    if not limit:
        return VALID
    window = tally.number(version.id, limit, now)
    if told:
        tally.window = window
    return LIMITED if window.exceeded else VALID


# For gateways --------------------------------------------------------------------------------------


async def forward_auth(plane: Plane, request: Request) -> Answer:
    """``ANY /v1/forward-auth/``: the key comes in the headers of the original request.

    200 with ``X-Keyturn-*``, 401 or 429: gateways pass on nothing else. ``?service=`` and ``?environment=``
    narrow it to keys of one service: without them a key of any service that we issue for is good.
    """
    return await plane.settle(request, lambda view: _admit(view, request))


def _admit(view: View, request: Request) -> Decided:
    if request.credential is None:
        raise KeyturnError("missing_api_key", "Missing API key.")
    if request.credential.kind != "token":
        raise invalid_api_key()
    presented = _find(view, request.credential.secret.expose())
    if presented is None or not _is_meant(presented.key, request):
        raise invalid_api_key()
    code = _judge(presented.version, request.tally, view.now, told=True)
    row = VerificationRow(view.now, presented.version.id, None, code)
    if code == VALID:
        standing = _Good(view, None, presented.version)
        return Decided(Answer(200, b"", b"", _headers(presented)), row, standing)
    return Decided(plain(LIMITED if code == LIMITED else "invalid_api_key", request.request_id), row)


def _is_meant(key: KeyRecord, request: Request) -> bool:
    service = request.query.get("service", key.service)
    return service == key.service and request.query.get("environment", key.environment) == key.environment


def _headers(presented: Presented) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-keyturn-service", presented.key.service.encode()),
        (b"x-keyturn-environment", presented.key.environment.encode()),
        (b"x-keyturn-version", str(presented.version.number).encode()),
    )
