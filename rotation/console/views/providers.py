"""Providers: how each is spoken to, how it is doing, and trying it out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, Provider, Service
from keyvault.presets import PROVIDER_PRESETS
from rotation import specs
from rotation.console.providerforms import NewProviderForm, ProviderForm, TryForm
from rotation.drivers.base import ProbeSpec
from rotation.facts import OperationState
from rotation.models import Breaker, Finding, Operation
from rotation.services import probing
from rotation.services import providers as services

PRESETS = frozenset(preset.slug for preset in PROVIDER_PRESETS)
SHOWN = 100


@signed_in
@require_safe
def providers(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    mine = Service.objects.for_actor(actor)
    drift = Finding.objects.for_actor(actor).open()
    rows = Provider.objects.select_related("breaker").annotate(
        used=Count("services", filter=Q(services__in=mine), distinct=True),
        differences=Count("findings", filter=Q(findings__in=drift), distinct=True),
    )
    context = {
        "providers": [{"row": row, "state": _state(row), "preset": row.slug in PRESETS} for row in rows],
        "may_write": actor.is_admin,
    }
    return render(request, "rotation/providers.html", context)


def _state(provider: Provider) -> tuple[str, str]:
    """How it is doing in a word, and its tone."""
    breaker: Breaker | None = getattr(provider, "breaker", None)
    if provider.driver == "generated":
        return "ours", ""
    if breaker is not None and breaker.open_until is not None:
        return ("tried again", "warn") if breaker.open_until <= clock.now() else ("left alone", "bad")
    if breaker is not None and breaker.failures:
        return f"{breaker.failures} calls unanswered", "warn"
    if not provider.base_url:
        return "no address yet", "warn"
    return "answers", "good"


@signed_in
@require_safe
def provider(request: HttpRequest, slug: str) -> HttpResponse:
    row = get_object_or_404(Provider.objects.select_related("breaker"), slug=slug)
    return _page(request, row)


def _page(
    request: HttpRequest,
    row: Provider,
    *,
    form: TryForm | None = None,
    tried: Mapping[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    actor = actor_of(request)
    context = {
        "provider": row,
        "state": _state(row),
        "breaker": getattr(row, "breaker", None),
        "preset": row.slug in PRESETS,
        "linked": row.dashboard_url.startswith(("https://", "http://")),
        "probe": ProbeSpec.from_json(row.probe) if row.probe else None,
        "able": specs.capabilities(row),
        "config": json.dumps(row.driver_config, indent=2) if row.driver_config else "",
        "secret_set": row.admin_ciphertext is not None,
        "tried": tried,
        "form": form or TryForm(provider=row, actor=actor),
        "may_write": actor.is_admin,
        "may_test": specs.can_probe(row) and probing.may_test(actor, row),
        **_load(row),
        **_related(row, actor),
    }
    return render(request, "rotation/provider.html", context, status=status)


def _load(row: Provider) -> dict[str, Any]:
    """Calls that are under way, and those that wait."""
    calls = Operation.objects.filter(rotation__key__service__provider=row)
    counted = calls.aggregate(
        running=Count("id", filter=Q(state=OperationState.RUNNING)),
        waiting=Count("id", filter=Q(state=OperationState.PENDING)),
    )
    return {**counted, "lanes": settings.KEYTURN_PROVIDER_CALLS}


def _related(row: Provider, actor: Actor) -> dict[str, Any]:
    """What of this person's uses it, and what differs there."""
    used = Service.objects.for_actor(actor).filter(provider=row).select_related("team")
    found = Finding.objects.for_actor(actor).open().filter(provider=row)
    return {
        "services": used.annotate(held=Count("keys"))[:SHOWN],
        "findings": found.select_related("provider", "key__service", "key__environment", "version")[:SHOWN],
    }


@signed_in
@require_POST
def try_out(request: HttpRequest, slug: str) -> HttpResponse:
    """One real request. The answer is told once and kept nowhere."""
    row = get_object_or_404(Provider.objects.select_related("breaker"), slug=slug)
    actor = actor_of(request)
    form = TryForm(request.POST, provider=row, actor=actor)
    if not form.is_valid():
        return _page(request, row, form=form, status=422)
    key: Key | None = form.cleaned_data["key"]
    began = time.perf_counter()
    try:
        result = probing.try_provider(actor, row, key, now=clock.now())
    except KeyturnError as error:
        if error.code != "rate_limited":
            raise
        form.add_error(None, error.message)
        return _page(request, row, form=form, status=429)
    words, tone = probing.meaning(result, real=key is not None)
    tried = {
        "result": result,
        "words": words,
        "tone": tone,
        "key": key,
        "milliseconds": round((time.perf_counter() - began) * 1000),
    }
    return _page(request, row, form=form, tried=tried)


# Writing --------------------------------------------------------------------------------------------


@never_cache
@sensitive_post_parameters("admin_secret")
@sensitive_variables("secret")
@signed_in
@require_http_methods(["GET", "POST"])
def new_provider(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    actor.demand_admin()
    if request.method == "GET":
        start = Provider.objects.filter(slug=request.GET.get("from", "")).first() or Provider(
            driver="manual", errors="nested"
        )
        return _form_page(request, NewProviderForm(initial=ProviderForm.values(start)))
    form = NewProviderForm(request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            services.look_up(actor, data["base_url"])
            row = services.create_provider(
                actor,
                slug=data["slug"],
                fields=form.columns(),
                admin_secret=data["admin_secret"],
                now=clock.now(),
            )
        except KeyturnError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{row.name} is there. Try it out before its first key.")
            return redirect("console-provider", slug=row.slug)
    return _form_page(request, form, status=422)


def _form_page(
    request: HttpRequest,
    form: ProviderForm,
    *,
    row: Provider | None = None,
    seen: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {
        "form": form,
        "row": row,
        "seen": seen,
        "presets": Provider.objects.filter(slug__in=PRESETS) if row is None else (),
    }
    return render(request, "rotation/provider_form.html", context, status=status)


@never_cache
@sensitive_post_parameters("admin_secret")
@signed_in
@require_http_methods(["GET", "POST"])
def edit_provider(request: HttpRequest, slug: str) -> HttpResponse:
    """Where keys of a protected environment go there, the password comes first."""
    row = get_object_or_404(Provider, slug=slug)
    actor_of(request).demand_admin()
    if services.guards_protected(row):
        return confirmed(_edit)(request, row)
    return _edit(request, row)


@sensitive_variables("secret", "form")
def _edit(request: HttpRequest, row: Provider) -> HttpResponse:
    if request.method == "GET":
        form = ProviderForm(initial=ProviderForm.values(row))
        return _form_page(request, form, row=row, seen=services.mark_of(row))
    form, seen = ProviderForm(request.POST), request.POST.get("seen", "")
    if form.is_valid():
        columns = form.columns()
        changed = {name: value for name, value in columns.items() if value != getattr(row, name)}
        secret = form.cleaned_data["admin_secret"]
        if not changed and secret is None:
            messages.info(request, "That is what it says already. Nothing was changed.")
            return redirect("console-provider", slug=row.slug)
        try:
            services.look_up(actor_of(request), columns["base_url"], before=row.base_url)
            services.change_provider(
                actor_of(request),
                row,
                fields=changed,
                admin_secret=secret,
                seen=seen or "unseen",
                now=clock.now(),
            )
        except KeyturnError as error:
            if error.code == "precondition_failed":
                return _stale(request, row)
            if not error.fields:
                show_refusal(form, error)
            else:
                form.refuse(error)
        else:
            messages.success(request, f"{row.name} is changed.")
            return redirect("console-provider", slug=row.slug)
    return _form_page(request, form, row=row, seen=seen, status=422)


def _stale(request: HttpRequest, row: Provider) -> HttpResponse:
    """Somebody saved meanwhile: show what it says now, and change nothing."""
    messages.warning(request, "Somebody else saved this provider after you opened it. Nothing was changed.")
    return _page(request, Provider.objects.select_related("breaker").get(pk=row.pk), status=409)
