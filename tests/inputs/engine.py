"""B50 to B55: verbs at the wrong time, and policies that cannot be."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from keyvault.domain import OrganisationRole
from tests.api.wire import Reply
from tests.inputs.table import Table, new_person, row

# What some verbs need besides a reason.
_MORE: dict[str, dict[str, object]] = {
    "force-revoke": {"offenders": 0},
    "supply": {"secret": "sk_never_stored_5c7e"},
}


def _verb(t: Table, path: str, verb: str, *headers: tuple[str, str], **more: object) -> Reply:
    return t.person("POST", f"{path}{verb}/", {"reason": "x", **more}, *headers)


@row("B50", "a second rotation of a key")
def second(t: Table) -> Iterator[None]:
    key, rotation = t.open_rotation()
    yield
    for body in ({}, {"policy": "fast"}, {"reason": "again"}):
        error = t.refused(t.person("POST", f"{key}rotations/", body), 409, "rotation_in_progress")
        assert f"/v1/rotations/{error['rotation']}/" == rotation
        assert {"pause", "abort"} <= set(error["verbs"])


@row("B51", "an Idempotency-Key again", writes=True)
def idempotency(t: Table) -> None:
    name = f"once-{uuid.uuid4().hex[:8]}"
    once = ("Idempotency-Key", name)
    first = t.person("POST", "/v1/teams/", {"slug": name}, once)
    again = t.person("POST", "/v1/teams/", {"slug": name}, once)
    assert (first.status, again.status, again.headers["idempotent-replayed"]) == (201, 201, "true")
    assert first.body == again.body
    t.refused(
        t.person("POST", "/v1/teams/", {"slug": f"{name}-b"}, once), 422, "idempotency_mismatch", sent=name
    )
    for key in ("", "a b", "a,b", "é", "x" * 256):
        t.invalid(
            t.person("POST", "/v1/teams/", {"slug": "never"}, ("Idempotency-Key", key)), "Idempotency-Key"
        )
    twice = (("Idempotency-Key", "a1234567"), ("Idempotency-Key", "b1234567"))
    t.invalid(t.person("POST", "/v1/teams/", {"slug": "never"}, *twice), "Idempotency-Key")
    with ThreadPoolExecutor(8) as pool:
        header = ("Idempotency-Key", f"{name}-at-once")
        body = {"slug": f"{name}-c"}
        replies = list(pool.map(lambda _: t.person("POST", "/v1/teams/", body, header), range(16)))
    for reply in replies:
        if reply.status != 201:
            t.refused(reply, 409, "idempotency_in_flight")
    assert len({reply.body for reply in replies if reply.status == 201}) == 1


@row("B52", "a verb that is not possible now", writes=True)
def transitions(t: Table) -> Iterator[None]:
    _, path = t.open_rotation()
    yield
    for verb in ("resume", "approve", "supply", "confirm-revoked", "force-revoke"):
        more = _MORE.get(verb, {})
        error = t.refused(_verb(t, path, verb, **more), 409, "invalid_transition")
        assert error["state"] == t.person("GET", path).json["stage"]
        assert verb not in error["verbs"]
        assert "abort" in error["verbs"]
    ended = _verb(t, path, "abort").json["stage"]
    assert ended in ("rolled_back", "cancelled")
    for verb in ("abort", "pause", "resume", "advance", "approve", "confirm-revoked", "force-revoke"):
        error = t.refused(_verb(t, path, verb, **_MORE.get(verb, {})), 409, "invalid_transition")
        assert error["state"] == ended


@row("B53", "an If-Match that is stale, or none", writes=True)
def precondition(t: Table) -> Iterator[None]:
    _, path = t.open_rotation()
    stale = t.person("GET", path).headers["etag"]
    assert _verb(t, path, "pause", ("If-Match", stale)).status == 200
    yield
    for tag in (stale, '"r0"', '"other"', '"r999999"'):
        t.refused(_verb(t, path, "abort", ("If-Match", tag)), 412, "precondition_failed")
    for tag in ("r1", "W/", '"a" "b"', '"\xe9"', '"r1", "r2"'):
        t.invalid(_verb(t, path, "abort", ("If-Match", tag)), "If-Match")
    # It is not asked for: without one, the state alone decides.
    assert _verb(t, path, "resume").status == 200


@row("B54", "weights that are none")
def weights(t: Table) -> None:
    for weight in (-1, 101, 50.5, "50", True, None, [50], 1e9):
        steps = [{"weight": weight, "hold": "PT1M"}, {"weight": 100, "hold": "PT1M"}]
        t.refused(
            t.person("POST", "/v1/policies/", {"slug": "never", "steps": steps}), 400, "validation_error"
        )
    for order in ([50, 25, 100], [50], [100, 50], []):
        steps = [{"weight": weight, "hold": "PT1M"} for weight in order]
        t.refused(
            t.person("POST", "/v1/policies/", {"slug": "never", "steps": steps}), 400, "validation_error"
        )


@row("B55", "less watching than the organisation's policy")
def too_brisk(t: Table) -> Iterator[None]:
    key, _ = t.open_rotation()
    somebody = new_person(OrganisationRole.NONE)
    yield
    brisk = {"slug": "never", "monitor": "PT0S", "quiet": "PT0S", "approvals": {"start": 0}}
    # Policies are the organisation's: administrators write them, and a start only names one.
    t.refused(t.person("POST", "/v1/policies/", brisk, token=somebody), 403, "permission_denied")
    t.refused(
        t.person("PATCH", "/v1/policies/standard/", {"monitor": "PT0S"}, token=somebody),
        403,
        "permission_denied",
    )
    for policy in (brisk, "never", "", None, 0):
        t.invalid(t.person("POST", f"{key}rotations/", {"policy": policy}), "policy")
    for body in ({"monitor": "PT0S"}, {"bake_hours": 0}, {"approvals": {"start": 0}}):
        t.refused(t.person("POST", f"{key}rotations/", body), 400, "unknown_field")
    for monitor in (0, "0", "-PT1H", "PT1H30", None):
        t.invalid(t.person("POST", "/v1/policies/", {"slug": "never", "monitor": monitor}), "monitor")
