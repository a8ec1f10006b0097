"""Starting a rotation: the plan first, then the button."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import STALE, actor_of, show_refusal, signed_in
from keyvault.console.views.reveal import find_key
from keyvault.exceptions import KeyturnError
from rotation.console.forms import PlanForm, StartForm
from rotation.dates import rehearsal_missing
from rotation.models import Rotation
from rotation.plan import plan
from rotation.services import policies, starting


@signed_in
@require_http_methods(["GET", "POST"])
def start(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """GET shows what would happen and touches nothing; POST starts it under the policy that was shown."""
    actor, now = actor_of(request), clock.now()
    key = find_key(actor, service, environment)
    actor.demand("operate", key.service.team_id)
    policy = policies.policy_for(key)
    asked = PlanForm(request.POST or request.GET)
    if asked.is_valid() and asked.cleaned_data["policy"]:
        policy = asked.cleaned_data["policy"]
    unrehearsed = rehearsal_missing(key, policy.value, now) is not None
    form = StartForm(request.POST or None, initial={"policy": policy.slug}, unrehearsed=unrehearsed)
    if form.is_valid():
        policy = form.cleaned_data["policy"] or policy
        try:
            rotation = starting.start(
                actor,
                key,
                policy=policy,
                reason=form.cleaned_data["reason"],
                digest=form.cleaned_data["digest"],
                skip_rehearsal=form.cleaned_data.get("skip_rehearsal", False),
                now=now,
            )
        except KeyturnError as error:
            if error.code in STALE:
                other = Rotation.objects.open().filter(key=key).first()
                return render(request, "409.html", {"message": error.message, "rotation": other}, status=409)
            show_refusal(form, error)
        else:
            messages.success(request, "Started. This page follows it.")
            return redirect("console-rotation", rotation_id=rotation.id)
    planned = plan(key, policy.value, policy.slug, now=now)
    context = {
        "key": key,
        "policy": policy,
        "plan": planned,
        "blocked": any(unmet.blocking for unmet in planned.unmet),
        "form": form,
        "policy_form": PlanForm(initial={"policy": policy.slug}),
        "moves": sum(len(step.instances) for step in planned.steps),
    }
    return render(request, "rotation/start.html", context, status=422 if form.is_bound else 200)
