"""A person sees a secret: after signing in again, with a reason, and never without an audit event."""

from __future__ import annotations

from datetime import datetime

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, signed_in
from keyvault.console.forms import RevealForm
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError
from keyvault.limits import Window, limiter, subject
from keyvault.models import Key
from keyvault.services import keys

SHOWN_SECONDS = 30
PER_MINUTE = 10  # reveals by one person in one team


def find_key(actor: Actor, service: str, environment: str) -> Key:
    """The key with what its pages show; 404 for a stranger."""
    found = Key.objects.for_actor(actor).named(service, environment)
    key = found.select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    ).first()
    if key is None:
        raise Http404
    return key


@never_cache
@signed_in
@require_http_methods(["GET", "POST"])
def reveal(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """Who may not see the key learns so before being asked for a password."""
    key = find_key(actor_of(request), service, environment)
    actor_of(request).demand("manage", key.service.team_id)
    if key.never_shown:
        raise PermissionDenied("This key is marked as never shown to people. Consumers still get it.")
    return _after_password(request, service, environment)


@confirmed
@sensitive_variables("secret")
def _after_password(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    key = find_key(actor_of(request), service, environment)
    form = RevealForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        context = {"key": key, "form": form, "seconds": SHOWN_SECONDS}
        return render(request, "keyvault/reveal.html", context, status=422 if form.is_bound else 200)
    now = clock.now()
    _count(actor_of(request), key, now)
    version, secret = keys.reveal(actor_of(request), key, reason=form.cleaned_data["reason"], now=now)
    context = {"key": key, "version": version, "secret": secret.expose(), "seconds": SHOWN_SECONDS}
    response = render(request, "keyvault/revealed.html", context)
    # Without scripts the page itself goes away; with them the text is gone before.
    response["Refresh"] = f"{SHOWN_SECONDS + 5}; url={request.path.removesuffix('reveal/')}"
    response["Cache-Control"] = "no-store"
    return response


def _count(actor: Actor, key: Key, now: datetime) -> None:
    """Whoever sits at somebody else's desk gets a few keys, not all of them."""
    one = subject(f"reveal:{actor.user_id}:{key.service.team_id}")
    window = Window.at(PER_MINUTE, limiter().hit(one, now), now)
    if window.exceeded:
        text = f"You have revealed {PER_MINUTE} keys within a minute. Wait {window.reset} seconds."
        raise KeyturnError("rate_limited", text)


@signed_in
@require_POST
def never_shown(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """Mark a key as never shown to people, or take that back; the latter asks who it is."""
    key = find_key(actor_of(request), service, environment)
    actor_of(request).demand("manage", key.service.team_id)
    gate = _mark if request.POST.get("never_shown") == "1" else confirmed(_mark, resume=True)
    return gate(request, service, environment)


def _mark(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    wanted = request.POST.get("never_shown") == "1"
    key = find_key(actor_of(request), service, environment)
    keys.set_never_shown(actor_of(request), key, never_shown=wanted, now=clock.now())
    text = "Nobody can reveal this key from now on." if wanted else "Leads may reveal this key again."
    messages.success(request, text)
    return redirect("console-key", service=service, environment=environment)
