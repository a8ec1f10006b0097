"""What is known of a key that sets its date or forbids its start. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from keyvault.models import Key, KeyVersion
from rotation.facts import Stage
from rotation.models import Exposure, Rotation
from rotation.policy import Policy, format_duration
from rotation.schedule import Due, due_before, next_due

EMERGENCY = "emergency"
_TOLD = {
    "revealed": "revealed by {who}",
    "member_left": "{who} has seen it and left the team",
    "reported": "reported as known to others",
}


def due_of(key: Key, policy: Policy, *, since: datetime) -> Due | None:
    """The earliest date of all that this key has under this policy; None where there is none.

    ``since``: when its interval began, which is its last rotation, or the choice of the policy.
    """
    dates = list(_dates_of(key.current, policy)) if key.current is not None else []
    regular = next_due(policy, key.id, since)
    if regular is not None and policy.interval is not None:
        dates.append(Due(regular, "schedule", f"every {format_duration(policy.interval)}"))
    return min(dates, key=lambda due: due.at, default=None)


def _dates_of(version: KeyVersion, policy: Policy) -> Iterator[Due]:
    """The dates that a version brings with it: its end, and who knows it."""
    began = version.activated_at or version.created_at
    if version.expires_at is not None:
        at = due_before(policy, began, version.expires_at)
        yield Due(at, "expiry", f"the provider lets it expire at {version.expires_at:%Y-%m-%d %H:%M} UTC")
    if policy.max_age is not None:
        ends = began + policy.max_age
        yield Due(due_before(policy, began, ends), "max_age", f"too old on {ends:%Y-%m-%d %H:%M} UTC")
    for exposure in Exposure.objects.filter(version=version):
        span = policy.exposure.get(exposure.cause)
        if span is not None:
            yield Due(exposure.at + span, exposure.cause, told(exposure))


def told(exposure: Exposure) -> str:
    """An exposure in words, with the reason that was given."""
    text = _TOLD[exposure.cause].format(who=exposure.who or "a person")
    return f"{text}: {exposure.reason}" if exposure.reason else text


def rehearsal_missing(key: Key, policy: Policy, now: datetime) -> str | None:
    """Why a protected environment must not start yet: no lower one has shown lately that it works.

    A first version has nothing to rehearse. An emergency, which skips what is rehearsed, is no rehearsal.
    """
    if policy.rehearsal is None or not key.environment.protected or key.current_id is None:
        return None
    rehearsed = Rotation.objects.filter(
        key__service=key.service_id,
        key__environment__position__lt=key.environment.position,
        stage=Stage.SUCCEEDED,
        outgoing__isnull=False,
        finished_at__gt=now - policy.rehearsal,
    ).exclude(policy_slug=EMERGENCY)
    if rehearsed.exists():
        return None
    span = format_duration(policy.rehearsal)
    return f"{key.service.slug} was not rotated in a lower environment within the last {span}."
