"""Policies: what there is, what each one does, which keys follow it; and how one is written."""

from __future__ import annotations

import json

from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, signed_in
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError
from keyvault.models import Key
from keyvault.strict_json import parse_object
from rotation.console.policydrawing import drawing
from rotation.console.policyforms import JsonForm, NewJsonForm, NewPolicyForm, PolicyForm
from rotation.console.policywords import differences, in_words
from rotation.models import Rotation, RotationPolicy
from rotation.policy import Policy, to_json
from rotation.services import policies as services

SHOWN = 200
RUNNING_SHOWN = 20


@signed_in
@require_safe
def policies(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    mine = Q(schedules__key__in=Key.objects.for_actor(actor))
    rows = RotationPolicy.objects.annotate(used=Count("schedules", filter=mine, distinct=True))
    context = {
        "policies": [{"row": row, "value": row.value, "drawing": drawing(row.value)} for row in rows],
        "may_write": actor.is_admin,
    }
    return render(request, "rotation/policies.html", context)


@signed_in
@require_safe
def policy(request: HttpRequest, slug: str) -> HttpResponse:
    row = get_object_or_404(RotationPolicy, slug=slug)
    actor = actor_of(request)
    keys = Key.objects.for_actor(actor).filter(schedule__policy=row)
    context = {
        "row": row,
        "value": row.value,
        "drawing": drawing(row.value),
        "lines": in_words(row.value),
        "document": json.dumps(row.document, indent=2),
        "keys": keys.select_related("service", "environment", "schedule")[:SHOWN],
        "may_write": actor.is_admin,
    }
    return render(request, "rotation/policy.html", context)


# Writing --------------------------------------------------------------------------------------------


def _wants_json(request: HttpRequest) -> bool:
    return "json" in (request.POST if request.method == "POST" else request.GET)


@signed_in
@require_http_methods(["GET", "POST"])
def new_policy(request: HttpRequest) -> HttpResponse:
    """A new one changes nothing for anybody, so it is saved at once."""
    actor = actor_of(request)
    actor.demand_admin()
    kind = NewJsonForm if _wants_json(request) else NewPolicyForm
    start = RotationPolicy.objects.filter(slug=request.GET.get("from", services.STANDARD)).first()
    if request.method == "GET":
        initial = kind.values(start.value if start is not None else Policy())
        return _new_page(request, kind(initial=initial))
    form = kind(request.POST)
    if form.is_valid():
        try:
            row = services.create_policy(
                actor, slug=form.cleaned_data["slug"], document=form.document(), now=clock.now()
            )
        except KeyturnError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{row.slug} is there. Choose it on the page of a key.")
            return redirect("console-policy", slug=row.slug)
    return _new_page(request, form, status=422)


def _new_page(request: HttpRequest, form: NewPolicyForm | NewJsonForm, *, status: int = 200) -> HttpResponse:
    presets = RotationPolicy.objects.filter(preset=True)
    context = {"form": form, "presets": presets, "as_json": isinstance(form, JsonForm)}
    return render(request, "rotation/policy_new.html", context, status=status)


@signed_in
@require_http_methods(["GET", "POST"])
def edit_policy(request: HttpRequest, slug: str) -> HttpResponse:
    """What is typed here changes nothing yet: it leads to the page that shows what would change."""
    row = get_object_or_404(RotationPolicy, slug=slug)
    actor_of(request).demand_admin()
    kind = JsonForm if _wants_json(request) else PolicyForm
    if request.method == "GET":
        form = kind(initial=kind.values(row.value))
        return _edit_page(request, row, form, services.mark_of(row))
    form, seen = kind(request.POST), request.POST.get("seen", "")
    if seen != services.mark_of(row):
        return _stale(request, row)
    if form.is_valid():
        try:
            wanted = services.read_policy(form.document(), base=row.value)
        except KeyturnError as error:
            form.refuse(error)
        else:
            if wanted == row.value:
                messages.info(request, "That is what it says already. Nothing was changed.")
                return redirect("console-policy", slug=slug)
            return _look(request, row, wanted, seen)
    return _edit_page(request, row, form, seen, status=422)


def _edit_page(
    request: HttpRequest, row: RotationPolicy, form: PolicyForm | JsonForm, seen: str, *, status: int = 200
) -> HttpResponse:
    context = {"row": row, "form": form, "seen": seen, "as_json": isinstance(form, JsonForm)}
    return render(request, "rotation/policy_edit.html", context, status=status)


def _stale(request: HttpRequest, row: RotationPolicy) -> HttpResponse:
    """Somebody saved meanwhile: show what it says now, and change nothing."""
    context = {"row": row, "drawing": drawing(row.value), "lines": in_words(row.value)}
    return render(request, "rotation/policy_stale.html", context, status=409)


def _look(request: HttpRequest, row: RotationPolicy, wanted: Policy, seen: str) -> HttpResponse:
    """What changes, in words, and whom it concerns."""
    changed, now = to_json(wanted), to_json(row.value)
    document = {name: value for name, value in changed.items() if value != now[name]}
    running = Rotation.objects.open().filter(policy_slug=row.slug)
    context = {
        "row": row,
        "changes": differences(row.value, wanted),
        "drawing": drawing(wanted),
        "document": json.dumps(document),
        "seen": seen,
        "used": row.schedules.count(),
        "running": running.select_related("key__service", "key__environment")[:RUNNING_SHOWN],
        "running_count": running.count(),
        "protected": services.guards_protected(row),
    }
    return render(request, "rotation/policy_look.html", context)


@signed_in
@require_POST
def save_policy(request: HttpRequest, slug: str) -> HttpResponse:
    """Save what was shown. Where a protected environment follows it, the password comes first."""
    row = get_object_or_404(RotationPolicy, slug=slug)
    actor_of(request).demand_admin()
    if services.guards_protected(row):
        return confirmed(_save, resume=True)(request, row)
    return _save(request, row)


def _save(request: HttpRequest, row: RotationPolicy) -> HttpResponse:
    try:
        document = parse_object(request.POST.get("document", "").encode("utf-8", "surrogatepass"))
        seen = request.POST.get("seen", "")
        services.change_policy(
            actor_of(request), row, document=document, seen=seen or "unseen", now=clock.now()
        )
    except KeyturnError as error:
        if error.code == "precondition_failed":
            return _stale(request, RotationPolicy.objects.get(pk=row.pk))
        form = JsonForm(initial=JsonForm.values(row.value), data={"json": request.POST.get("document", "")})
        form.is_valid()
        form.refuse(error)
        return _edit_page(request, row, form, services.mark_of(row), status=422)
    messages.success(request, f"{row.slug} is changed. Rotations that run keep what they started with.")
    return redirect("console-policy", slug=row.slug)


@signed_in
@require_http_methods(["GET", "POST"])
def remove_policy(request: HttpRequest, slug: str) -> HttpResponse:
    row = get_object_or_404(RotationPolicy, slug=slug)
    actor_of(request).demand_admin()
    wrong = request.method == "POST" and request.POST.get("confirm", "").strip() != row.slug
    if request.method == "GET" or wrong:
        context = {"row": row, "wrong": wrong, "used": row.schedules.count()}
        return render(request, "rotation/policy_remove.html", context, status=422 if wrong else 200)
    services.remove_policy(actor_of(request), row, now=clock.now())
    messages.success(request, f"{slug} is removed.")
    return redirect("console-policies")
