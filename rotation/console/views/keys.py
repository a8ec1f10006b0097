"""One key, and making a new one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock, readers, verifiers
from keyvault.actors import Actor
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.activity import events_for, worth_telling
from keyvault.console.forms import managed_teams
from keyvault.console.fresh import confirmed
from keyvault.console.snippets import key_url, snippets
from keyvault.console.views.reveal import find_key
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, KeyVersion
from keyvault.readers import Reader
from rotation.console.forms import ExpiryForm, PlanForm
from rotation.console.keyforms import NewKeyForm
from rotation.console.standing import schedule_of, standing_of, unfinished
from rotation.models import Rotation
from rotation.services import adding, expiry, policies
from rotation.services.adding import AddedKey

READ_SPAN = timedelta(hours=24)


@signed_in
@require_safe
def key_page(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    key = find_key(actor, service, environment)
    schedule, rotation = schedule_of(key), unfinished([key.id]).get(key.id)
    may = {action: actor.may(action, key.service.team_id) for action in ("operate", "manage")}
    versions = list(key.versions.order_by("-number")[:50])
    context = {
        "key": key,
        "standing": standing_of(key, rotation, schedule, now),
        "rotation": rotation,
        "drift": key.findings.open().select_related("version"),
        "schedule": schedule,
        "policy": schedule.policy if schedule else policies.policy_for(key),
        "versions": [_labelled(key, version) for version in versions],
        **_latest_first(latest_readers(key, now)),
        "verifiers": _verifiers(versions, now),
        "snippets": snippets(service, environment),
        "url": key_url(service, environment),
        "past": Rotation.objects.filter(key=key).select_related("outgoing", "incoming")[:8],
        "events": worth_telling(events_for(actor)).filter(service=service, environment=environment)[:8],
        "may": may,
        "expiry_form": ExpiryForm(initial={"expires_at": key.current.expires_at if key.current else None}),
        "policy_form": PlanForm(initial={"policy": schedule.policy.slug if schedule else ""}),
    }
    return render(request, "rotation/key.html", context)


def _labelled(key: Key, version: KeyVersion) -> dict[str, Any]:
    labels = [name for name in ("current", "pending", "previous") if getattr(key, f"{name}_id") == version.id]
    return {"row": version, "labels": labels}


def latest_readers(key: Key, now: datetime) -> list[Reader]:
    """Who was given which version within the last 24 hours, latest first."""
    rows = readers.given(key.id, now - READ_SPAN)
    return sorted(rows, key=lambda reader: reader.last, reverse=True)[:200]


def _verifiers(versions: Iterable[KeyVersion], now: datetime) -> list[dict[str, Any]]:
    """Who had which version verified within the last 24 hours, latest first."""
    numbers = {version.id: version.number for version in versions if version.token_digest is not None}
    rows = sorted(verifiers.verified(numbers, now - READ_SPAN), key=lambda row: row.last, reverse=True)
    return [{"row": row, "version": numbers[row.version_id]} for row in rows[:200]]


def _latest_first(rows: list[Reader]) -> dict[str, list[Reader]]:
    """Each instance with the version it was given last; what it had before goes into a list of its own."""
    latest: dict[tuple[str, str], Reader] = {}
    for row in rows:
        latest.setdefault((row.consumer, row.instance), row)
    chosen = list(latest.values())
    return {"readers": chosen, "earlier": [row for row in rows if row not in chosen]}


@signed_in
@require_POST
def assign_policy(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """Let the key follow another policy from now on. In a protected environment the password comes first."""
    key = find_key(actor_of(request), service, environment)
    actor_of(request).demand("manage", key.service.team_id)
    if key.environment.protected:
        return confirmed(_assign, resume=True)(request, key)
    return _assign(request, key)


def _assign(request: HttpRequest, key: Key) -> HttpResponse:
    form = PlanForm(request.POST)
    if form.is_valid():
        row = policies.assign_policy(actor_of(request), key, form.cleaned_data["policy"], now=clock.now())
        messages.success(request, f"The key follows {row.policy.slug} from now on.")
    else:
        messages.error(request, "There is no such policy. Choose one of the list.")
    return redirect("console-key", service=key.service.slug, environment=key.environment.slug)


@signed_in
@require_POST
def set_expiry(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """Write down when the provider lets the current version expire, or that it does not."""
    actor = actor_of(request)
    key = find_key(actor, service, environment)
    actor.demand("manage", key.service.team_id)
    form = ExpiryForm(request.POST)
    if form.is_valid():
        try:
            expiry.set_expiry(actor, key, form.cleaned_data["expires_at"], now=clock.now())
        except KeyturnError as error:
            messages.error(request, "; ".join(error.fields.get("expires_at", [error.message])))
        else:
            messages.success(request, "Noted. The next rotation comes before that.")
    else:
        messages.error(request, "This is not a date and a time.")
    return redirect("console-key", service=service, environment=environment)


@sensitive_post_parameters()
@signed_in
@require_http_methods(["GET", "POST"])
def new_key(request: HttpRequest) -> HttpResponse:
    """Keys of one service with their first versions: pasted, or issued by the provider's driver."""
    actor = actor_of(request)
    if not managed_teams(actor).exists():
        raise PermissionDenied("This needs the role lead in a team.")
    initial = {"service": request.GET["service"]} if "service" in request.GET else {}
    form = NewKeyForm(
        request.POST or None, actor=actor, wanted=request.GET.get("environment", ""), initial=initial
    )
    if form.is_valid():
        try:
            added = _add_all(actor, form, clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            return _after_adding(request, added)
    context = {"form": form, "services": form.fields["service"].queryset.exists()}  # type: ignore[attr-defined]
    return render(request, "rotation/key_new.html", context, status=422 if form.is_bound else 200)


@transaction.atomic
def _add_all(actor: Actor, form: NewKeyForm, now: datetime) -> list[AddedKey]:
    """A key in each place, or none at all: a refused secret leaves no empty key behind."""
    data, added = form.cleaned_data, []
    service, policy = data["service"], data["policy"]
    for place in form.places:
        slug = place.environment.slug
        try:
            made = adding.add_key(
                actor, service, place.environment,
                secret=place.secret, policy=policy, never_shown=place.never_shown, now=now,
            )  # fmt: skip
        except KeyturnError as error:
            raise _at_its_place(error, slug) from error
        added.append(made)
    return added


def _at_its_place(error: KeyturnError, slug: str) -> KeyturnError:
    """The same refusal with the names of this environment's fields."""
    names = {"secret": f"secret_{slug}", "environment": f"in_{slug}"}
    fields = {names.get(field, field): texts for field, texts in error.fields.items()}
    return KeyturnError(error.code, error.message, fields=fields, extra=error.extra)


def _after_adding(request: HttpRequest, added: list[AddedKey]) -> HttpResponse:
    first = added[0].key
    rotation = next((made.rotation for made in added if made.rotation is not None), None)
    if rotation is not None:
        messages.success(request, "The provider is being asked for the first version.")
        return redirect("console-rotation", rotation_id=rotation.id)
    where = ", ".join(made.key.environment.slug for made in added)
    messages.success(request, f"Held in {where}. Connect a consumer, so that somebody can read it.")
    return redirect("console-key", service=first.service.slug, environment=first.environment.slug)
