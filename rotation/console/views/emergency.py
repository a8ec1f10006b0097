"""The current secret of one key is known to others: replace it, or kill it, now."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import actor_of, signed_in
from keyvault.console.fresh import confirmed
from keyvault.console.views.reveal import find_key
from keyvault.exceptions import KeyturnError
from rotation.console.forms import EmergencyForm
from rotation.console.views.keys import latest_readers
from rotation.services import emergencies


@signed_in
@require_http_methods(["GET", "POST"])
def emergency(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """Who may not do this learns so before being asked for a password."""
    key = find_key(actor_of(request), service, environment)
    actor_of(request).demand("manage", key.service.team_id)
    if key.current is None:
        raise KeyturnError("no_active_version", "This key has no active version, so none can have leaked.")
    return confirmed(_confirmed)(request, service, environment)


def _confirmed(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    key = find_key(actor, service, environment)
    form = EmergencyForm(request.POST if request.method == "POST" else None, confirm=str(key))
    if not form.is_valid():
        context = {
            "key": key,
            "form": form,
            "readers": latest_readers(key, now),
            "open_jobs": emergencies.open_jobs_of(key.current) if key.current is not None else 0,
            "gap": key.id in emergencies.with_one_key([key]),
            "last": key.current is not None and emergencies.is_last(key, key.current),
        }
        return render(request, "rotation/emergency.html", context, status=422 if form.is_bound else 200)
    rotation = emergencies.emergency(
        actor,
        key,
        mode=form.cleaned_data["mode"],
        reason=form.cleaned_data["reason"],
        typed=form.cleaned_data["confirm"],
        now=now,
    )
    messages.warning(request, "The key is marked as compromised and is being replaced. Stay on this page.")
    return redirect("console-rotation", rotation_id=rotation.id)
