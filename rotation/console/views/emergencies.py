"""Bulk emergencies: choose, look at the plan, start it, follow it, stop it; and the report of a leak."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError
from rotation.console.forms import ChooseForm, ConfirmRunForm, LeakForm, RunReasonForm, StartRunForm
from rotation.console.live import live
from rotation.models import EmergencyRun
from rotation.services import leaks, radius, results, runs
from rotation.services.radius import Radius

NEWEST = 20
_VERBS: dict[str, Callable[..., EmergencyRun]] = {
    "stop": runs.stop,
    "resume": runs.resume,
    "confirm": runs.confirm,
}
_DONE = {
    "stop": "Stopped. Nothing more is started; what was started goes on.",
    "resume": "It goes on. What failed is tried again.",
    "confirm": "Confirmed. The next beat starts it.",
}


@signed_in
@require_http_methods(["GET", "POST"])
def emergencies(request: HttpRequest) -> HttpResponse:
    """What was started lately, and what to choose from. A choice shows its plan, after signing in again."""
    form = ChooseForm(request.GET if "scope" in request.GET else None)
    if form.is_valid():
        return confirmed(_plan)(request, form.cleaned_data)
    rows = EmergencyRun.objects.for_actor(actor_of(request))[:NEWEST]
    context = {"form": form, "runs": rows}
    return render(request, "rotation/emergencies.html", context, status=422 if form.is_bound else 200)


def _plan(request: HttpRequest, chosen: dict[str, Any]) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    scope, name = chosen["scope"], chosen["name"]
    choose = ChooseForm(request.GET)
    choose.is_valid()
    try:
        found, tokens, subject = radius.chosen(actor, scope, name, reachable=chosen["reachable"])
    except KeyturnError as error:
        if scope not in error.fields:
            raise
        choose.add_error("name", " ".join(error.fields[scope]))
        rows = EmergencyRun.objects.for_actor(actor)[:NEWEST]
        return render(request, "rotation/emergencies.html", {"form": choose, "runs": rows}, status=422)
    drawn = radius.radius(actor, found, tokens, scope=scope, subject=subject, mode=chosen["mode"], now=now)
    form = StartRunForm(request.POST or None, initial={"plan": drawn.digest})
    if form.is_valid():
        try:
            run = runs.start(actor, drawn, **form.cleaned_data, now=now)
        except KeyturnError as error:
            _show_moved(form, error)
            form.data = {**request.POST.dict(), "plan": drawn.digest}
        else:
            messages.warning(request, "Written down; the next beat starts it. This page follows it.")
            return redirect("console-emergency-run", run_id=run.id)
    context = {"plan": drawn, "form": form, "name": name}
    return render(request, "rotation/emergency_plan.html", context, status=422 if form.is_bound else 200)


def _show_moved(form: StartRunForm | ConfirmRunForm, error: KeyturnError) -> None:
    """A plan that has changed is shown anew, with what was typed; anything else as always."""
    if error.code == "precondition_failed":
        form.add_error("count", error.message)
    else:
        show_refusal(form, error)


@signed_in
@require_safe
def emergency_run(request: HttpRequest, run_id: uuid.UUID) -> HttpResponse:
    """The run with its progress, or its live part for htmx."""
    actor = actor_of(request)
    run = runs.find(actor, run_id)
    items = list(runs.items_for(actor, run))
    rows = [{"item": item, "result": results.result_of(item)} for item in items]
    counted = results.progress(items)
    going_on = run.state in (EmergencyRun.RUNNING, EmergencyRun.PROPOSED) or bool(counted["running"])
    context = {
        "run": run,
        "rows": rows,
        "progress": counted,
        "going_on": going_on,
        "total": len(items),
        "may": {verb: runs.may(actor, run, verb) for verb in _DONE},
    }
    return live(
        request, "rotation/emergency_run.html", "rotation/_emergency_run.html", context, going_on=going_on
    )


@signed_in
@require_http_methods(["GET", "POST"])
def run_verb(request: HttpRequest, run_id: uuid.UUID, verb: str) -> HttpResponse:
    """Stop is for everybody who may, at once; going on and confirming need the password again. Who may not
    do this learns so before being asked for it."""
    if verb not in _DONE:
        raise Http404
    run = runs.find(actor_of(request), run_id)
    runs.demand(actor_of(request), run, verb)
    if verb == "stop":
        return _act(request, run, verb)
    return confirmed(_act)(request, run, verb)


def _act(request: HttpRequest, run: EmergencyRun, verb: str) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    drawn: Radius | None = None
    form: RunReasonForm | ConfirmRunForm = RunReasonForm(request.POST or None)
    if verb == "confirm":
        drawn = runs.proposal(actor, run, now=now)
        form = ConfirmRunForm(request.POST or None, initial={"plan": drawn.digest})
    if form.is_valid():
        try:
            _VERBS[verb](actor, run.id, **form.cleaned_data, now=now)
        except KeyturnError as error:
            if not isinstance(form, ConfirmRunForm) or drawn is None:
                raise
            _show_moved(form, error)
            form.data = {**request.POST.dict(), "plan": drawn.digest}
        else:
            messages.success(request, _DONE[verb])
            return redirect("console-emergency-run", run_id=run.id)
    context = {"run": run, "verb": verb, "form": form, "plan": drawn}
    return render(request, "rotation/emergency_verb.html", context, status=422 if form.is_bound else 200)


@sensitive_post_parameters("secret")
@signed_in
@require_http_methods(["GET", "POST"])
def report_leak(request: HttpRequest) -> HttpResponse:
    """Anybody who is signed in. The answer is the same for a secret of nobody and one of another team."""
    form = LeakForm(request.POST or None)
    if not form.is_valid():
        context = {"form": form}
        return render(request, "rotation/leak.html", context, status=422 if form.is_bound else 200)
    reported = leaks.report(
        actor_of(request), form.cleaned_data["secret"], reason=form.cleaned_data["reason"], now=clock.now()
    )
    if reported.run is not None and reported.seen:
        names = ", ".join(str(target.key) for target in reported.seen)
        messages.warning(request, f"It is a secret of {names}. It is marked as compromised.")
        return redirect("console-emergency-run", run_id=reported.run.id)
    messages.success(request, "Received, thank you. If the secret is one of ours, its owners know by now.")
    return redirect("console-leak")
