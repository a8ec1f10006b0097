"""The first page: what runs, what is due, and what needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, signed_in
from keyvault.console.activity import events_for, worth_telling
from keyvault.console.snippets import key_url
from keyvault.models import Consumer, Key, Service, Team
from rotation.console.live import live
from rotation.console.rail import Stop, rail
from rotation.console.standing import DUE_SOON
from rotation.models import Finding, KeySchedule, Rotation
from rotation.policy import from_json
from rotation.services.verbs import verbs_of

DRIFT_SHOWN = 20
RUNNING_SHOWN, DUE_SHOWN, EVENTS_SHOWN = 12, 10, 10

# What a person will most likely do about an attention: the words on the link to the rotation.
NEXT_STEP = {
    "supply": "Supply the new key",
    "confirm-revoked": "Confirm the revoke",
    "resume": "Look and resume",
    "advance": "Look and decide",
    "force-revoke": "Look and decide",
    "abort": "Look and decide",
    "emergency": "Look and decide",
    "approve": "Approve",
}


@dataclass(frozen=True)
class Running:
    rotation: Rotation
    stops: list[Stop]


@dataclass(frozen=True)
class Needed:
    """One thing that waits for a person."""

    rotation: Rotation
    reason: str
    step: str


@signed_in
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    now = clock.now()
    context = _context(actor_of(request), now)
    return live(request, "rotation/overview.html", "rotation/_overview.html", context)


def _context(actor: Actor, now: datetime) -> dict[str, Any]:
    keys = Key.objects.for_actor(actor)
    mine = Rotation.objects.for_actor(actor).select_related(
        "key__service", "key__environment", "outgoing", "incoming"
    )
    open_ones = list(mine.open()[:200])
    asking = list(mine.exclude(attention="").exclude(id__in=[r.id for r in open_ones])[:50])
    busy = {rotation.key_id for rotation in open_ones}
    due = _due(actor, now)
    held = keys.count()
    needed = [_needed(r) for r in [*open_ones, *asking] if r.attention or _wants_approval(r)]
    leaked = list(
        keys.filter(current__compromised_at__isnull=False)
        .select_related("service", "environment")
        .exclude(id__in=busy)[:20]
    )
    drift = list(
        Finding.objects.for_actor(actor)
        .open()
        .select_related("provider", "key__service", "key__environment", "version")[:200]
    )
    return {
        "held": held,
        "running": [Running(r, rail(r, from_json(r.policy))) for r in open_ones[:RUNNING_SHOWN]],
        "running_count": len(open_ones),
        "needed": needed,
        "leaked": leaked,
        "drift": drift[:DRIFT_SHOWN],
        "drift_more": max(0, len(drift) - DRIFT_SHOWN),
        "needed_count": len(needed) + len(leaked) + len(drift),
        "due": [s for s in due if s.next_rotation_at and s.next_rotation_at > now and s.key_id not in busy],
        "overdue": [
            s for s in due if s.next_rotation_at and s.next_rotation_at <= now and s.key_id not in busy
        ],
        "events": worth_telling(events_for(actor))[:EVENTS_SHOWN],
        "may_add": actor.is_admin or any(actor.may("manage", team) for team in actor.team_ids),
        "first_steps": None if held else _first_steps(actor),
    }


def _due(actor: Actor, now: datetime) -> list[KeySchedule]:
    soon = KeySchedule.objects.filter(
        next_rotation_at__lte=now + DUE_SOON, key__in=Key.objects.for_actor(actor)
    )
    rows = soon.select_related("key__service", "key__environment", "policy").order_by("next_rotation_at")
    return list(rows[:200])


def _wants_approval(rotation: Rotation) -> bool:
    return rotation.is_open and rotation.waiting_code.startswith("approval_")


def _needed(rotation: Rotation) -> Needed:
    verbs = rotation.attention_verbs or [verb for verb in verbs_of(rotation) if verb == "approve"]
    step = next((NEXT_STEP[verb] for verb in verbs if verb in NEXT_STEP), "Look")
    return Needed(rotation, rotation.attention_reason or rotation.waiting_for, step)


def _first_steps(actor: Actor) -> dict[str, Any]:
    """What an empty Keyturn needs, in order, with what is there already."""
    service = Service.objects.for_actor(actor).first()
    return {
        "team": Team.objects.for_actor(actor).first(),
        "service": service,
        "consumer": Consumer.objects.for_actor(actor).first(),
        "url": key_url(service.slug if service else "background-removal", "dev"),
        "is_admin": actor.is_admin,
    }
