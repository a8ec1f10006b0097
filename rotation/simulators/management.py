"""The management API: `/_manage/keys`, for the admin secret only. It never shows a secret twice.

    POST   /_manage/keys               {"name"} -> 201 {"id", "name", "key"}; Idempotency-Key is honoured
    GET    /_manage/keys?after=        {"keys": [{"id", "name", "state", "last_used_at"}], "next"} without
                                       revoked ones; "next" goes into "after"
    POST   /_manage/keys/{id}/disable  204
    POST   /_manage/keys/{id}/enable   204
    DELETE /_manage/keys/{id}          204; 404 when it is gone already

None of the providers documents one. It exists so that the http driver can be exercised against real answers.
"""

import hmac
import re

from rotation.simulators.base import Simulator, scheme_value
from rotation.simulators.truth import NoPlan, NoSuchKey, QuotaFull
from rotation.simulators.wire import Answer, Cut, Request, Response, json_response

PREFIX = "/_manage/keys"

_ONE = re.compile(r"\A/_manage/keys/(key_[0-9a-f]+)(?:/(disable|enable))?\Z")


def management_config() -> dict[str, object]:
    """How the http driver has to be configured for this API."""
    return {
        "issue": {
            "method": "POST",
            "path": PREFIX,
            "body": {"name": "{label}"},
            "secret": "/key",
            "id": "/id",
        },
        "list": {
            "method": "GET",
            "path": PREFIX,
            "items": "/keys",
            "id": "/id",
            "label": "/name",
            "next": "/next",
            "cursor": "after",
        },
        "disable": {"method": "POST", "path": f"{PREFIX}/{{id}}/disable"},
        "enable": {"method": "POST", "path": f"{PREFIX}/{{id}}/enable"},
        "revoke": {"method": "DELETE", "path": f"{PREFIX}/{{id}}"},
        "idempotency_header": "Idempotency-Key",
    }


def manage(simulator: Simulator, request: Request) -> Answer:
    """Answer one request to the management API."""
    broken = simulator.injected("manage")
    if broken is not None:
        return broken
    presented = scheme_value(request, "bearer") or ""
    if not hmac.compare_digest(
        presented.encode("utf-8", "surrogateescape"), simulator.admin_secret.expose().encode()
    ):
        return _error(401, "invalid_admin_secret")
    if request.path == PREFIX and request.method == "POST":
        return _create(simulator, request)
    if request.path == PREFIX and request.method == "GET":
        return _list(simulator, request)
    match = _ONE.match(request.path)
    verb = (request.method, match[2]) if match else None
    if match is None or verb not in (("POST", "disable"), ("POST", "enable"), ("DELETE", None)):
        return _error(404, "not_found")
    try:
        {"disable": simulator.disable, "enable": simulator.enable, None: simulator.revoke}[match[2]](match[1])
    except NoSuchKey:
        return _error(404, "not_found")
    lost = match[2] is None and simulator.truth.lose_next_answer("lose_revoke_answers")
    return Cut() if lost else Response(204)


def _list(simulator: Simulator, request: Request) -> Response:
    held = [key for key in simulator.truth.views() if key.state != "revoked"]
    start = int(request.query.get("after", "0"))
    end = start + (simulator.truth.faults.page_size or len(held))
    keys = [
        {"id": key.id, "name": key.label, "state": key.state, "last_used_at": key.last_used_at}
        for key in held[start:end]
    ]
    return json_response(200, {"keys": keys, "next": str(end) if end < len(held) else None})


def _create(simulator: Simulator, request: Request) -> Answer:
    data = request.json()
    name = data.get("name") if data else None
    if not isinstance(name, str) or not name:
        return _error(400, "name_required")
    idempotency_key = request.headers.get("idempotency-key", "")
    with simulator.truth.lock:
        before = simulator.replies.get(idempotency_key)
        if before is not None:
            body, reply = before
            if body != request.body:
                return _error(422, "idempotency_mismatch")
            return Response(reply.status, reply.body, headers={"Idempotent-Replayed": "true"})
        try:
            key = simulator.truth.create(name)
        except QuotaFull:
            return _error(409, "key_quota_reached")
        except NoPlan:
            return _error(403, "plan_inactive")
        reply = json_response(201, {"id": key.id, "name": key.label, "key": key.secret.expose()})
        if idempotency_key:
            simulator.replies[idempotency_key] = (request.body, reply)
        return Cut() if simulator.truth.lose_next_answer("lose_create_answers") else reply


def _error(status: int, code: str) -> Response:
    return json_response(
        status, {"error": {"code": code, "message": code.replace("_", " "), "status": status}}
    )
