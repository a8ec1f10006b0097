"""The list of rotations, and one of them, live."""

from __future__ import annotations

import uuid

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, signed_in
from keyvault.models import Environment, Team
from rotation.console.filters import chosen, narrowed, paged
from rotation.console.live import live
from rotation.console.picture import picture
from rotation.models import Rotation
from rotation.services.evidence import evidence_file, evidence_name, evidence_of

STATES = (
    ("open", "Running"),
    ("attention", "Needs a person"),
    ("finished", "Finished"),
    ("succeeded", "Succeeded"),
    ("rolled_back", "Rolled back"),
)
RELATED = ("key__service__provider", "key__service__team", "key__environment", "outgoing", "incoming")


def find_rotation(actor: Actor, rotation_id: uuid.UUID) -> Rotation:
    """The rotation with its rows; 404 for a stranger."""
    found = Rotation.objects.for_actor(actor).select_related(*RELATED).filter(id=rotation_id).first()
    if found is None:
        raise Http404
    return found


@signed_in
@require_safe
def rotations(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    wanted = chosen(request, "q", "state", "team", "environment")
    mine = Rotation.objects.for_actor(actor).select_related(*RELATED)
    mine = mine.filter(
        narrowed(wanted["q"], service="key__service__slug", environment="key__environment__slug")
    )
    if wanted["team"]:
        mine = mine.filter(key__service__team__slug=wanted["team"])
    if wanted["environment"]:
        mine = mine.filter(key__environment__slug=wanted["environment"])
    if wanted["state"] == "open":
        mine = mine.open()
    elif wanted["state"] == "attention":
        mine = mine.exclude(attention="")
    elif wanted["state"] == "finished":
        mine = mine.exclude(finished_at__isnull=True)
    elif wanted["state"]:
        mine = mine.filter(stage=wanted["state"])
    shown, links = paged(request, mine, wanted)
    context = {
        "rotations": shown,
        "links": links,
        "chosen": wanted,
        "states": STATES,
        "filtered": any(wanted.values()),
        "teams": Team.objects.for_actor(actor),
        "environments": Environment.objects.all(),
    }
    return render(request, "rotation/rotations.html", context)


@signed_in
@require_safe
def evidence(request: HttpRequest, rotation_id: uuid.UUID) -> HttpResponse:
    """The evidence file, to be saved. An open rotation has none yet."""
    row = find_rotation(actor_of(request), rotation_id)
    body = evidence_file(evidence_of(row))
    name = f'attachment; filename="{evidence_name(row)}"'
    return HttpResponse(body, content_type="application/json", headers={"Content-Disposition": name})


@signed_in
@require_safe
def rotation(request: HttpRequest, rotation_id: uuid.UUID) -> HttpResponse:
    """The page, or its live part for htmx. Polling stops when nothing is left to happen."""
    actor = actor_of(request)
    row = find_rotation(actor, rotation_id)
    context = {"picture": picture(row, actor, clock.now()), "rotation": row}
    going_on = row.is_open or row.check_at is not None
    context["going_on"] = going_on
    return live(request, "rotation/rotation.html", "rotation/_rotation.html", context, going_on=going_on)
