"""What a new installation needs first, and demo data to look at meanwhile."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, signed_in
from keyvault.console.snippets import snippets
from keyvault.models import Delivery, Key, LastDelivery, Service
from rotation.models import Rotation
from rotation.services import demodata

FEW = 5  # keys; whoever has more has found the way


def first_steps(actor: Actor, held: int) -> dict[str, Any] | None:
    """The check list with what is done; None for those who are past it or may not add anything."""
    if held > FEW or not (actor.is_admin or any(actor.may("manage", team) for team in actor.team_ids)):
        return None
    mine = Key.objects.for_actor(actor).exclude(service__team__slug=demodata.TEAM)
    key = mine.select_related("service", "environment", "current").order_by("created_at").first()
    service = (
        Service.objects.for_actor(actor).exclude(team__slug=demodata.TEAM).order_by("created_at").first()
    )
    # Both are counters of the same thing: what is not folded yet, and what is.
    read = key is not None and (
        LastDelivery.objects.filter(key=key).exists() or Delivery.objects.filter(key=key).exists()
    )
    rotation = Rotation.objects.filter(key__in=mine, outgoing__isnull=False).order_by("-created_at").first()
    if rotation is not None and rotation.stage == "succeeded":
        return None
    names = (
        (key.service.slug, key.environment.slug) if key else (service.slug if service else "payments", "dev")
    )
    return {
        "service": key.service if key else service,
        "key": key,
        "read": read,
        "rotation": rotation,
        "snippets": [one for one in snippets(*names) if one.slug in ("curl", "cli")],
        "demo_data": demodata.is_there(),
        "is_admin": actor.is_admin,
    }


@signed_in
@require_POST
def add_demo_data(request: HttpRequest) -> HttpResponse:
    rotation = demodata.add(actor_of(request), now=clock.now())
    messages.success(
        request, "The demo data is there. This is its first rotation; it takes about two minutes."
    )
    return redirect("console-rotation", rotation_id=rotation.id)


@signed_in
@require_POST
def remove_demo_data(request: HttpRequest) -> HttpResponse:
    demodata.remove(actor_of(request), now=clock.now())
    messages.success(request, "The demo data is gone.")
    return redirect("console-overview")
