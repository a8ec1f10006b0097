"""The first page: what runs, what is due, and what needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, signed_in
from keyvault.console.activity import events_for, worth_telling
from keyvault.models import Key, KeyVersion
from rotation.console.filters import Count, counted
from rotation.console.live import live
from rotation.console.rail import Stop, rail
from rotation.console.standing import DUE_SOON
from rotation.console.views.firstrun import first_steps
from rotation.models import Finding, KeySchedule, Rotation
from rotation.policy import from_json
from rotation.services import demodata
from rotation.services.saying import verbs_of

DRIFT_SHOWN = 20
RUNNING_SHOWN, NEEDED_SHOWN, DUE_SHOWN, EVENTS_SHOWN = 12, 20, 10, 10

_WAITS_FOR_A_PERSON = ~Q(attention="") | Q(finished_at__isnull=True, waiting_code__startswith="approval_")
_IN_ROTATION = Exists(Rotation.objects.open().filter(key=OuterRef("pk")))
_IN_ROTATION_TOO = Exists(Rotation.objects.open().filter(key=OuterRef("key_id")))

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
    running = mine.open()
    asking = mine.filter(_WAITS_FOR_A_PERSON)
    known = KeyVersion.objects.filter(compromised_at__isnull=False).values("pk")
    leaked = keys.filter(current__in=known).exclude(_IN_ROTATION)
    drift = Finding.objects.for_actor(actor).open()
    held, drifting = counted(keys, 10_000), drift.count()
    return {
        "held": held,
        "running": [Running(r, rail(r, from_json(r.policy))) for r in running[:RUNNING_SHOWN]],
        "running_count": counted(running),
        "needed": [_needed(r) for r in asking[:NEEDED_SHOWN]],
        "leaked": leaked.select_related("service", "environment")[:NEEDED_SHOWN],
        "drift": drift.select_related("provider", "key__service", "key__environment", "version")[
            :DRIFT_SHOWN
        ],
        "drift_more": max(0, drifting - DRIFT_SHOWN),
        "needed_count": Count(counted(asking).number + counted(leaked).number + drifting, 1_000),
        **_dates(actor, now),
        "events": worth_telling(events_for(actor))[:EVENTS_SHOWN],
        "may_add": actor.is_admin or any(actor.may("manage", team) for team in actor.team_ids),
        "first_steps": first_steps(actor, held.number),
        "demo_data": demodata.is_there() if actor.is_admin else False,
    }


def _dates(actor: Actor, now: datetime) -> dict[str, Any]:
    """What is overdue and what is due soon: the first of each by date, and how many there are."""
    dated = KeySchedule.objects.exclude(_IN_ROTATION_TOO).select_related(
        "key__service", "key__environment", "policy"
    )
    if not actor.sees_everything:
        dated = dated.filter(key__service__team_id__in=actor.team_ids)
    dated = dated.order_by("next_rotation_at", "key_id")
    overdue = dated.filter(next_rotation_at__lte=now)
    first = list(overdue[:DUE_SHOWN])
    due = dated.filter(next_rotation_at__gt=now, next_rotation_at__lte=now + DUE_SOON)
    return {
        "overdue": first,
        "operates": {s.key.service.team_id for s in first if actor.may("operate", s.key.service.team_id)},
        "overdue_count": counted(overdue),
        "due": due[:DUE_SHOWN],
        "due_count": counted(due),
    }


def _needed(rotation: Rotation) -> Needed:
    verbs = rotation.attention_verbs or [verb for verb in verbs_of(rotation) if verb == "approve"]
    step = next((NEXT_STEP[verb] for verb in verbs if verb in NEXT_STEP), "Look")
    return Needed(rotation, rotation.attention_reason or rotation.waiting_for, step)
