"""A person pastes the key that was created on the provider's own page."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import STALE, actor_of, show_refusal, signed_in
from keyvault.exceptions import KeyturnError
from rotation.console.forms import SupplyForm
from rotation.console.picture import waits_for_key
from rotation.console.views.rotations import find_rotation
from rotation.console.views.verbs import stale
from rotation.services import verbs


@sensitive_post_parameters("secret")
@signed_in
@require_http_methods(["GET", "POST"])
def supply(request: HttpRequest, rotation_id: uuid.UUID) -> HttpResponse:
    """Each check has its own refusal; what passes is sealed, and the probe's answer shows on the rotation."""
    actor = actor_of(request)
    row = find_rotation(actor, rotation_id)
    actor.demand("manage", row.key.service.team_id)
    if not waits_for_key(row):
        return stale(request, row, "This rotation does not wait for a key.")
    form = SupplyForm(request.POST or None)
    if form.is_valid():
        try:
            verbs.supply(
                actor,
                row.id,
                secret=form.cleaned_data["secret"],
                provider_key_id=form.cleaned_data["provider_key_id"],
                expires_at=form.cleaned_data["expires_at"],
                reason=form.cleaned_data["reason"] or "supplied in the console",
                now=clock.now(),
            )
        except KeyturnError as error:
            if error.code in STALE:
                return stale(request, find_rotation(actor, row.id), error.message)
            show_refusal(form, error)
        else:
            messages.success(
                request, "The new key is sealed. The provider is being asked whether it accepts it."
            )
            return redirect("console-rotation", rotation_id=row.id)
    context = {"rotation": row, "form": form, "provider": row.key.service.provider}
    return render(request, "rotation/supply.html", context, status=422 if form.is_bound else 200)
