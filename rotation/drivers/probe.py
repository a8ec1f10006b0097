"""Asking a provider whether it honours a key: one request, and what its answer proves.

Shared by every driver that has a provider on the other side. The rules, first match wins:

1. No answer (name, connection, certificate, time) or a 5xx: `unreachable`. It says nothing about the key.
2. 429: `rate_limited`, with the wait that the provider asks for.
3. A status in `probe.accepted`: `accepted`.
4. 401, or a status in `probe.rejected`: look for a code in the body, whatever its shape.
   A "missing" code is `missing`, an "invalid" code is `rejected`. Without one, the body proves a rejection
   only if the provider is known for flat errors without codes and the probe lists the status; a web page
   never does, for it comes from a proxy. Otherwise `inconclusive`: nobody may conclude "revoked" from it.
5. 402 or 403: `forbidden` (plan, permission). Anything else, also a redirect: `inconclusive`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from keyvault.crypto.secret import Secret
from rotation.drivers.base import ProbeOutcome, ProbeResult, ProviderSpec
from rotation.egress import (
    EgressConnectError,
    EgressError,
    EgressInterrupted,
    EgressRefused,
    EgressResponse,
    EgressTimeout,
    request,
)

MAX_RETRY_AFTER: Final = 900.0  # seconds; a provider may not silence us for longer than 15 minutes

MISSING_CODES: Final = frozenset({"missing_api_key", "missing_key", "api_key_missing", "api_key_required"})
INVALID_CODES: Final = frozenset({
    "invalid_api_key", "invalid_key", "api_key_invalid", "invalid_token", "revoked_api_key",
    "api_key_revoked", "revoked_key", "expired_api_key", "api_key_expired", "unknown_api_key",
})  # fmt: skip

_REQUEST_ID = re.compile(r"\A[A-Za-z0-9._:/+=-]{1,128}\Z")
_CODE = re.compile(r"\A[a-z]+(?:_[a-z]+){0,7}\Z")
_MAX_JSON: Final = 65_536  # bytes; an error body is small, and parsing is not free


def auth_header(spec: ProviderSpec, secret: Secret) -> dict[str, Secret]:
    """The header that carries a key to this provider."""
    value = Secret(f"{spec.auth_scheme} {secret.expose()}") if spec.auth_scheme else secret
    return {spec.auth_header: value}


def probe(spec: ProviderSpec, secret: Secret) -> ProbeResult:
    """Send the probe with this secret and classify the answer. Never raises for what the provider does."""
    if spec.probe is None:
        return ProbeResult(ProbeOutcome.INCONCLUSIVE, detail="this provider has no probe")
    headers: dict[str, str | Secret] = {**spec.probe.headers, **auth_header(spec, secret)}
    if spec.probe.body is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    try:
        response = request(
            spec.probe.method,
            join_url(spec.base_url, spec.probe.path),
            headers=headers,
            content=None if spec.probe.body is None else spec.probe.body.encode(),
            allow_hosts=spec.allow_hosts,
        )
    except EgressError as error:
        return classify_failure(error)
    result = classify(spec, response)
    # The id is the one text of the provider's that we keep. A provider that echoes the key there must not
    # reach a log.
    echoed = result.request_id is not None and secret.expose() in result.request_id
    return replace(result, request_id=None) if echoed else result


def join_url(base_url: str, path: str) -> str:
    """The provider's address and a path that begins with a slash."""
    return base_url.rstrip("/") + path


def classify_failure(error: EgressError) -> ProbeResult:
    """No answer: unreachable, unless the fault is in what we asked or in the form of the answer."""
    unreachable = isinstance(error, EgressConnectError | EgressTimeout) or (
        isinstance(error, EgressInterrupted) and error.code == "cut"
    )
    outcome = ProbeOutcome.UNREACHABLE if unreachable else ProbeOutcome.INCONCLUSIVE
    detail = f"not sent: {error.message}" if isinstance(error, EgressRefused) else error.message
    return ProbeResult(outcome, detail=detail)


def classify(spec: ProviderSpec, response: EgressResponse) -> ProbeResult:
    """What an answer proves about the key that was sent. Pure."""
    body = _object(response.body)
    outcome, detail = _outcome(spec, response, body)
    header_id, body_id = _ids(response.headers, body)
    if header_id and body_id and header_id != body_id:
        detail = f"{detail}; the body names another request id"
    return ProbeResult(
        outcome,
        status=response.status,
        request_id=header_id or body_id,
        retry_after=retry_after(response.headers),
        detail=detail,
    )


def _outcome(
    spec: ProviderSpec, response: EgressResponse, body: Mapping[str, object] | None
) -> tuple[ProbeOutcome, str]:
    status = response.status
    accepted, rejected = (spec.probe.accepted, spec.probe.rejected) if spec.probe else ((), ())
    if status >= 500:
        return ProbeOutcome.UNREACHABLE, f"the provider answered {status}"
    if status == 429:
        return ProbeOutcome.RATE_LIMITED, "the provider limits the rate"
    if status in accepted:
        return ProbeOutcome.ACCEPTED, f"the provider answered {status}"
    if status == 401 or status in rejected:
        return _denied(spec, response, body, listed=status in rejected)
    if status in (402, 403):
        return ProbeOutcome.FORBIDDEN, f"the provider answered {status}: the account may not"
    if 300 <= status < 400:
        return ProbeOutcome.INCONCLUSIVE, f"the provider redirects ({status}), which is not followed"
    return ProbeOutcome.INCONCLUSIVE, f"the probe does not say what {status} means"


def _denied(
    spec: ProviderSpec, response: EgressResponse, body: Mapping[str, object] | None, *, listed: bool
) -> tuple[ProbeOutcome, str]:
    code = error_code(body)
    if code in MISSING_CODES:
        return ProbeOutcome.MISSING, f"the provider saw no key ({code})"
    if code in INVALID_CODES:
        return ProbeOutcome.REJECTED, f"the provider refuses the key ({code})"
    page = _is_page(response)
    if listed and spec.errors == "flat" and not page:
        return ProbeOutcome.REJECTED, f"the provider refuses the key ({response.status})"
    what = "a web page" if page else "a body without a known code"
    return ProbeOutcome.INCONCLUSIVE, f"{response.status} with {what} does not prove that the key is refused"


def error_code(body: Mapping[str, object] | None) -> str | None:
    """The machine-readable code of an error body, nested or flat; None when nothing looks like one.

    Only lower-case words joined by underscores pass, so a code can be shown: no key looks like that.
    """
    if body is None:
        return None
    error = body.get("error")
    candidates = [error.get("code"), error.get("type")] if isinstance(error, Mapping) else [error]
    for candidate in (*candidates, body.get("code"), body.get("error_code")):
        if isinstance(candidate, str) and len(candidate) <= 64 and _CODE.match(candidate.lower()):
            return candidate.lower()
    return None


def parse_object(body: bytes) -> Mapping[str, object] | None:
    """A JSON object, or None for anything else: another type, bad UTF-8, not JSON, absurdly deep."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, Mapping) else None


def _object(body: bytes) -> Mapping[str, object] | None:
    return parse_object(body) if len(body) <= _MAX_JSON else None


def _is_page(response: EgressResponse) -> bool:
    kind = response.headers.get("content-type", "").lower()
    return kind.startswith(("text/html", "application/xhtml")) or response.body.lstrip()[:1] == b"<"


def _ids(headers: Mapping[str, str], body: Mapping[str, object] | None) -> tuple[str | None, str | None]:
    error = body.get("error") if body else None
    inner = error.get("request_id") if isinstance(error, Mapping) else None
    return _request_id(headers.get("x-request-id")), _request_id(
        inner or (body.get("request_id") if body else None)
    )


def _request_id(value: object) -> str | None:
    return value if isinstance(value, str) and _REQUEST_ID.match(value) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from 0 to 900, or None without a usable header.

    A date is measured against the answer's own Date header: both come from the provider's clock, so ours
    does not matter. Without that header a date tells us nothing.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= 18:
        return min(float(value), MAX_RETRY_AFTER)
    until, answered = _date(value), _date(headers.get("date", ""))
    if until is None or answered is None:
        return None
    return min(max((until - answered).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else None
