"""Verification of keys that we issued (driver ``generated``): for them Keyturn itself is the provider.

Every verification is recorded as a use of the version, so a key that its holders still present is not quiet.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from django.conf import settings

from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.delivery.answer import Answer, as_json, plain
from keyvault.delivery.authenticate import Caller, authenticate
from keyvault.delivery.cache import View
from keyvault.delivery.credentials import invalid_api_key
from keyvault.delivery.limit import Tally
from keyvault.delivery.plane import Decided, Plane
from keyvault.delivery.records import KeyRecord, VersionRecord
from keyvault.delivery.requests import Request
from keyvault.delivery.rows import VerificationRow
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
    text = _text(request.body)
    tally, of_key = plane.tally(), plane.tally()

    def decide(view: View) -> Decided:
        caller = authenticate(view, request, plane.claims)
        tally.count(caller.token, view.now)
        presented = _find(view, text)
        # Also for a key that is none of ours: who may verify nothing must not learn that.
        allowed = _may_verify(view, caller, presented.key if presented else None)
        if presented is None or not allowed:
            return Decided(as_json(200, {"valid": False, "code": NOT_FOUND}))
        code = _judge(view, presented.version, of_key)
        row = VerificationRow(view.now, presented.version.id, caller.token.consumer_id, code)
        return Decided(as_json(200, _told(presented, code)), row)

    answer = await plane.settle(request.request_id, decide)
    return answer.within(tally.window)


def _text(body: bytes) -> str:
    told = parse_object(body)
    refuse_unknown(told, ("key",))
    key = told.get("key")
    if not isinstance(key, str) or not key:
        raise invalid("key", "Send the key that was presented to you.")
    return key


def _told(presented: Presented, code: str) -> dict[str, object]:
    if code != VALID:
        return {"valid": False, "code": code}
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


def _judge(view: View, version: VersionRecord, tally: Tally) -> str:
    """What we say of a version of ours. Only a good one is counted."""
    dead = _DEAD.get(version.state)
    if dead is not None:
        return dead
    if version.expires_at is not None and version.expires_at <= view.now:
        return "expired"
    limit: int = settings.KEYTURN_ISSUED_KEY_RATE
    if limit and tally.number(version.id, limit, view.now).exceeded:
        return LIMITED
    return VALID


# For gateways --------------------------------------------------------------------------------------


async def forward_auth(plane: Plane, request: Request) -> Answer:
    """``ANY /v1/forward-auth/``: the key comes in the headers of the original request.

    200 with ``X-Keyturn-*``, 401 or 429: gateways pass on nothing else. ``?service=`` and ``?environment=``
    narrow it to keys of one service: without them a key of any service that we issue for is good.
    """
    of_key = plane.tally()
    answer = await plane.settle(request.request_id, lambda view: _admit(view, request, of_key))
    return answer.within(of_key.window)


def _admit(view: View, request: Request, tally: Tally) -> Decided:
    if request.credential is None:
        raise KeyturnError("missing_api_key", "Missing API key.")
    if request.credential.kind != "token":
        raise invalid_api_key()
    presented = _find(view, request.credential.secret.expose())
    if presented is None or not _is_meant(presented.key, request):
        raise invalid_api_key()
    code = _judge(view, presented.version, tally)
    row = VerificationRow(view.now, presented.version.id, None, code)
    if code == VALID:
        return Decided(Answer(200, b"", b"", _headers(presented)), row)
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
