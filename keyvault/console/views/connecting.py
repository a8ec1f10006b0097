"""Connect a consumer to a key: its name, its grant and its token in one step."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.forms import ConnectForm
from keyvault.console.snippets import snippets
from keyvault.console.views.reveal import find_key
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import ConsumerToken, Key
from keyvault.services import consumers

TRIED_FIRST = ("curl", "cli")


@never_cache
@signed_in
@require_http_methods(["GET", "POST"])
@sensitive_variables("secret")
def connect(request: HttpRequest, service: str, environment: str) -> HttpResponse:
    """The token is in the answer to the POST and in no other."""
    actor = actor_of(request)
    key = find_key(actor, service, environment)
    actor.demand("manage", key.service.team_id)
    form = ConnectForm(request.POST or None, actor=actor)
    if form.is_valid():
        try:
            token, secret = _connect(actor, key, form.cleaned_data, clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            return _show(request, key, token, secret)
    context = {"key": key, "form": form}
    return render(request, "keyvault/connect.html", context, status=422 if form.is_bound else 200)


@transaction.atomic
def _connect(actor: Actor, key: Key, chosen: dict[str, Any], now: datetime) -> tuple[ConsumerToken, Secret]:
    consumer = chosen["consumer"] or consumers.create_consumer(
        actor, slug=chosen["slug"], team=key.service.team, now=now
    )
    consumers.set_grant(actor, consumer, key.service, key.environment, verbs=["read", "report"], now=now)
    life: int | None = chosen["life"]
    return consumers.create_token(
        actor, consumer, key.environment, expires_at=now + timedelta(days=life) if life else None, now=now
    )


@sensitive_variables("secret")
def _show(request: HttpRequest, key: Key, token: ConsumerToken, secret: Secret) -> HttpResponse:
    texts = snippets(key.service.slug, key.environment.slug)
    context = {
        "consumer": token.consumer,
        "token": token,
        "secret": secret.expose(),
        "key": key,
        "snippets": [snippet for snippet in texts if snippet.slug in TRIED_FIRST],
    }
    response = render(request, "keyvault/token_created.html", context, status=201)
    response["Cache-Control"] = "no-store"
    return response
