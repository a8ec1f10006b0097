"""A provider with a management API, described as data (see http_config).

What an answer means for a call that changes something:

1. 2xx with what we asked for: done. 2xx without: it was probably done, so the outcome is unknown.
2. 404 or 410 to a revoke: done, the key is gone.
3. 429: not done, later. A quota code: not done, the account is full.
4. A 5xx, 408 or 303, a cut or late answer: unknown. A 409 to a call with an idempotency key too: the first
   try may be still running.
5. Any other answer: refused. Nothing sent: unavailable.

No text of the provider's is passed on but an error code, which cannot hold a secret.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from rotation.drivers import probe
from rotation.drivers.base import (
    Capabilities,
    DriverError,
    Issued,
    IssueRequest,
    Listed,
    NeedsPerson,
    OutcomeUnknown,
    ProbeResult,
    ProviderSpec,
    QuotaReached,
    Refused,
    Throttled,
    Unavailable,
)
from rotation.drivers.http_config import (
    DEFAULT_QUOTA_CODES,
    PickError,
    check_config,
    fill_body,
    fill_path,
    parse_body,
    pick,
    read_time,
)
from rotation.egress import (
    EgressConnectError,
    EgressError,
    EgressRefused,
    EgressResponse,
    request,
)

__all__ = ["HttpDriver", "check_config"]

_MAX_ID = 255
_MAX_CURSOR = 512
_MOST_PAGES = 200


@dataclass(frozen=True)
class _Call:
    """One call that was declared, with the values for its placeholders."""

    name: str
    declared: Mapping[str, object]
    values: Mapping[str, str]
    idempotency: Mapping[str, str]


class HttpDriver:
    """Speaks to a management API that is declared as data."""

    kind = "http"

    def capabilities(self, spec: ProviderSpec) -> Capabilities:
        """What the configuration declares."""
        declared = spec.config
        return Capabilities(
            issue="issue" in declared,
            list="list" in declared,
            disable="disable" in declared and "enable" in declared,
            revoke="revoke" in declared,
            replay="issue" in declared and "idempotency_header" in declared,
            last_used=_tells_last_use(declared),
        )

    def issue(self, spec: ProviderSpec, request: IssueRequest) -> Issued:
        """Create a key and pick its secret and id from the answer."""
        header = spec.config.get("idempotency_header")
        idempotency = {header: request.idempotency_key} if isinstance(header, str) else {}
        values = {"label": request.label, "environment": request.environment}
        call = self._declared(spec, "issue", values, idempotency)
        answer = self._answer(call, self._send(spec, call))
        return Issued(
            secret=self._secret(self._picked(call, answer, "secret")),
            provider_key_id=self._id(self._picked(call, answer, "id")),
        )

    def probe(self, spec: ProviderSpec, secret: Secret) -> ProbeResult:
        """Ask the provider whether it honours this secret."""
        return probe.probe(spec, secret)

    def list(self, spec: ProviderSpec) -> tuple[Listed, ...]:
        """Every key, page by page. A key without a label is somebody else's and gets an empty one.

        All of them or OutcomeUnknown: of half a list nobody could say what is missing.
        """
        call = self._declared(spec, "list", {}, {})
        found: list[Listed] = []
        cursors: set[str] = set()
        cursor = ""
        while cursor not in cursors and len(cursors) < _MOST_PAGES:
            cursors.add(cursor)
            answer = self._answer(call, self._send(spec, call, cursor))
            found += self._page(call, answer)
            cursor = self._next(call, answer)
            if not cursor:
                return tuple(found)
        raise OutcomeUnknown("answer_unusable", "the provider's list of keys does not end")

    def _page(self, call: _Call, answer: object) -> Iterator[Listed]:
        items = self._picked(call, answer, "items")
        if not isinstance(items, list):
            raise OutcomeUnknown("answer_unusable", "the provider's list of keys is not a list")
        for item in items:
            key_id, label = self._id(self._picked(call, item, "id")), self._label(call, item)
            yield Listed(key_id, label, self._last_used(call, item))

    @staticmethod
    def _next(call: _Call, answer: object) -> str:
        """The cursor of the next page; empty after the last one."""
        if "next" not in call.declared:
            return ""
        try:
            cursor = pick(answer, str(call.declared["next"]))
        except PickError:
            return ""
        if cursor is None or cursor == "":
            return ""
        if isinstance(cursor, bool) or not isinstance(cursor, str | int) or len(str(cursor)) > _MAX_CURSOR:
            raise OutcomeUnknown("answer_unusable", "the provider's cursor is neither a text nor a number")
        return str(cursor)

    def disable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Make the provider refuse the key for now."""
        self._send(spec, self._declared(spec, "disable", {"id": provider_key_id}, {}))

    def enable(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Undo `disable`."""
        self._send(spec, self._declared(spec, "enable", {"id": provider_key_id}, {}))

    def revoke(self, spec: ProviderSpec, provider_key_id: str) -> None:
        """Make the provider refuse the key for good."""
        self._send(spec, self._declared(spec, "revoke", {"id": provider_key_id}, {}))

    def _declared(
        self, spec: ProviderSpec, name: str, values: Mapping[str, str], idempotency: Mapping[str, str]
    ) -> _Call:
        problems = check_config(spec.config)
        if problems:
            raise Refused("bad_config", f"the provider's configuration cannot be used: {problems[0]}")
        declared = spec.config.get(name)
        if not isinstance(declared, Mapping):
            raise NeedsPerson(
                "needs_person", f"On the account page of {spec.slug}: a person has to {name} the key."
            )
        return _Call(name, declared, values, idempotency)

    def _send(self, spec: ProviderSpec, call: _Call, cursor: str = "") -> EgressResponse:
        if spec.admin_secret is None:
            raise Refused(
                "no_admin_secret", "the provider has no admin secret, so its management API cannot be called"
            )
        scheme = str(spec.config.get("admin_scheme", "Bearer"))
        admin = Secret(f"{scheme} {spec.admin_secret.expose()}") if scheme else spec.admin_secret
        extra = call.declared.get("headers")
        headers: dict[str, str | Secret] = {
            **(extra if isinstance(extra, Mapping) else {}),
            **call.idempotency,
        }
        headers[str(spec.config.get("admin_header", "Authorization"))] = admin
        template, _ = parse_body(call.declared.get("body"))
        content = None
        if template is not None:
            content = json.dumps(fill_body(template, call.values)).encode()
            headers.setdefault("Content-Type", "application/json")
        try:
            path = fill_path(str(call.declared["path"]), call.values)
        except ValueError:
            raise Refused("bad_id", "the id of the key cannot stand in a path") from None
        if cursor:
            mark = "&" if "?" in path else "?"
            path = f"{path}{mark}{quote(str(call.declared['cursor']))}={quote(cursor, safe='')}"
        failure: DriverError
        try:
            response = request(
                str(call.declared["method"]),
                probe.join_url(spec.base_url, path),
                headers=headers,
                content=content,
                allow_hosts=spec.allow_hosts,
            )
        except EgressRefused as error:
            failure = Refused(error.code, error.message)
        except EgressConnectError as error:
            failure = Unavailable(error.code, error.message)
        except EgressError as error:
            failure = OutcomeUnknown(error.code, error.message)
        else:
            if 200 <= response.status < 300 or (call.name == "revoke" and response.status in (404, 410)):
                return response
            failure = _judge(spec, call, response)
        raise failure

    @staticmethod
    def _answer(call: _Call, response: EgressResponse) -> object:
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError):
            # The exception of the JSON parser holds the whole body, and with it perhaps the new secret.
            pass
        raise OutcomeUnknown("answer_unusable", f"the provider's answer to {call.name} is not JSON")

    @staticmethod
    def _picked(call: _Call, answer: object, name: str) -> object:
        try:
            return pick(answer, str(call.declared[name]))
        except PickError:
            raise OutcomeUnknown(
                "answer_unusable", f"the provider's answer to {call.name} has no {name}"
            ) from None

    @staticmethod
    def _secret(value: object) -> Secret:
        try:
            return check_secret(value)
        except SecretRefused as error:
            raise OutcomeUnknown(
                "answer_unusable", f"the provider's new key cannot be used: {error.code}"
            ) from None

    @staticmethod
    def _id(value: object) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and 0 < len(text) <= _MAX_ID and all("!" <= char <= "~" for char in text):
            return text
        raise OutcomeUnknown("answer_unusable", "the provider's id of a key is not a short printable text")

    @staticmethod
    def _last_used(call: _Call, item: object) -> datetime | None:
        """A time as ISO 8601 with its zone, or in seconds since 1970; null for a key that was never used."""
        if "last_used" not in call.declared:
            return None
        value = HttpDriver._picked(call, item, "last_used")
        try:
            return read_time(value)
        except ValueError:
            raise OutcomeUnknown("answer_unusable", "the provider's last use of a key is no time") from None

    @staticmethod
    def _label(call: _Call, item: object) -> str:
        try:
            label = pick(item, str(call.declared["label"]))
        except PickError:
            return ""
        return label if isinstance(label, str) else ""


def _tells_last_use(declared: Mapping[str, object]) -> bool:
    listing = declared.get("list")
    return isinstance(listing, Mapping) and "last_used" in listing


def _judge(spec: ProviderSpec, call: _Call, response: EgressResponse) -> DriverError:
    """What an answer that is not a success means; see the top of this file."""
    status, code = response.status, probe.error_code(probe.parse_object(response.body))
    wait = probe.retry_after(response.headers)
    said = f"the provider answered {status}" + (f" ({code})" if code else "") + f" to {call.name}"
    quota = spec.config.get("quota_codes", DEFAULT_QUOTA_CODES)
    if call.name == "issue" and status < 500 and isinstance(quota, list | tuple) and code in quota:
        return QuotaReached("quota_reached", said)
    if status == 429:
        return Throttled("rate_limited", said, retry_after=wait)
    if status >= 500 or status in (303, 408, 425) or (status == 409 and call.idempotency):
        return OutcomeUnknown("no_usable_answer", said, retry_after=wait)
    if status in (401, 403):
        return Refused("admin_refused", f"{said}: the admin secret is not accepted or may not do this")
    if 300 <= status < 400:
        return Refused("redirected", f"{said}, which is not followed")
    return Refused("refused", said)
