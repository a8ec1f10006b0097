"""Reminding the owners of a consumer that still uses the outgoing version."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import actor_of, is_fragment, signed_in
from keyvault.models import Consumer
from rotation.console.stragglers import stragglers
from rotation.console.views.rotations import find_rotation
from rotation.console.views.verbs import stale
from rotation.observe import observe
from rotation.services import reminding


@signed_in
@require_http_methods(["GET", "POST"])
def remind(request: HttpRequest, rotation_id: uuid.UUID, consumer: str) -> HttpResponse:
    """GET shows whom and why; POST tells them. 404 for a consumer that never stood in the way here."""
    actor, now = actor_of(request), clock.now()
    row = find_rotation(actor, rotation_id)
    actor.demand("operate", row.key.service.team_id)
    found = Consumer.objects.select_related("team").filter(slug=consumer).first()
    mine = reminding.of_consumer(observe(row, now).offenders, consumer)
    if found is None or not (mine or found.grants.filter(service=row.key.service).exists()):
        raise Http404
    if request.method == "POST":
        told = reminding.remind(actor, row.id, found, now=now)
        if told:
            messages.success(request, f"The team {found.team.name} is being told on its channels.")
        else:
            messages.warning(
                request,
                f"Nobody was told: the team {found.team.name} has no channel, or has heard of it within "
                "the hour. Write to its leads yourself.",
            )
        return redirect("console-rotation", rotation_id=row.id)
    if not mine:
        return stale(request, row, f"No instance of {found.slug} stands in the way any more.")
    context = {"rotation": row, "consumer": found, "rows": stragglers(mine).rows}
    template = "rotation/_remind.html" if is_fragment(request) else "rotation/remind.html"
    return render(request, template, context)
