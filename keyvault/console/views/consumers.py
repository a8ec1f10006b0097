"""Consumers, their tokens and their grants. A token is in exactly one answer: the one that made it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Max, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.forms import ConsumerForm, GrantForm, RotateTokenForm, TokenForm, managed_teams
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import Consumer, ConsumerToken, Grant, LastDelivery, Team
from keyvault.services import consumers as services
from keyvault.services import seats

SEEN_SPAN = timedelta(hours=24)
PAGE = 50
SHOWS = (("unused", "Never used"), ("without-token", "Without a token"), ("without-grant", "Without a grant"))


@signed_in
@require_safe
def consumers(request: HttpRequest) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    live = Q(tokens__revoked_at__isnull=True) & (
        Q(tokens__expires_at__isnull=True) | Q(tokens__expires_at__gt=now)
    )
    rows = (
        Consumer.objects.for_actor(actor)
        .select_related("team")
        .annotate(
            live_tokens=Count("tokens", filter=live, distinct=True),
            grant_count=Count("grants", distinct=True),
            last_used_at=Max("tokens__last_used_at"),
        )
    )
    chosen = {name: request.GET.get(name, "").strip()[:63] for name in ("q", "team", "show", "after")}
    if chosen["q"]:
        rows = rows.filter(slug__icontains=chosen["q"])
    if chosen["team"]:
        rows = rows.filter(team__slug=chosen["team"])
    if chosen["show"] == "unused":
        rows = rows.filter(last_used_at__isnull=True)
    elif chosen["show"] == "without-token":
        rows = rows.filter(live_tokens=0)
    elif chosen["show"] == "without-grant":
        rows = rows.filter(grant_count=0)
    if chosen["after"]:
        rows = rows.filter(slug__gt=chosen["after"])
    shown = list(rows.order_by("slug")[: PAGE + 1])
    context = {
        "consumers": shown[:PAGE],
        "chosen": chosen,
        "shows": SHOWS,
        "filtered": any(chosen[name] for name in ("q", "team", "show")),
        "teams": Team.objects.for_actor(actor),
        "first": urlencode({name: value for name, value in chosen.items() if name != "after"}),
        "next": urlencode({**chosen, "after": shown[PAGE - 1].slug}) if len(shown) > PAGE else "",
        "may_add": managed_teams(actor).exists(),
    }
    return render(request, "keyvault/consumers.html", context)


@signed_in
@require_http_methods(["GET", "POST"])
def new_consumer(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    if not managed_teams(actor).exists():
        raise PermissionDenied("This needs the role lead in a team.")
    form = ConsumerForm(request.POST or None, actor=actor)
    if form.is_valid():
        try:
            consumer = services.create_consumer(actor, **form.cleaned_data, now=clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, f"{consumer.slug} is there. Grant it a key and create its token.")
            return redirect("console-consumer", slug=consumer.slug)
    return render(request, "keyvault/consumer_new.html", {"form": form}, status=422 if form.is_bound else 200)


def _find(request: HttpRequest, slug: str) -> Consumer:
    consumer = Consumer.objects.for_actor(actor_of(request)).select_related("team").filter(slug=slug).first()
    if consumer is None:
        raise Http404
    return consumer


def _page(request: HttpRequest, consumer: Consumer, *, status: int = 200, **extra: Any) -> HttpResponse:
    actor, now = actor_of(request), clock.now()
    tokens = list(consumer.tokens.select_related("environment"))
    taken = seats.taken([token.id for token in tokens if token.instance_limit], now)
    grants = list(consumer.grants.select_related("service", "environment"))
    seen = (
        LastDelivery.objects.filter(consumer=consumer, last_at__gt=now - SEEN_SPAN)
        .values("instance")
        .annotate(last=Max("last_at"), keys=Count("key", distinct=True))
        .order_by("instance")
    )
    context = {
        "consumer": consumer,
        "tokens": [{"row": token, "taken": taken.get(token.id, 0)} for token in tokens],
        "grants": [{"row": g, "may_remove": actor.may("manage", g.service.team_id)} for g in grants],
        "instances": seen[:200],
        "may_manage": actor.may("manage", consumer.team_id),
        "may_grant": managed_teams(actor).exists(),
        "token_form": TokenForm(),
        "grant_form": GrantForm(actor=actor),
        "now": now,
    }
    return render(request, "keyvault/consumer.html", {**context, **extra}, status=status)


@signed_in
@require_safe
def consumer(request: HttpRequest, slug: str) -> HttpResponse:
    return _page(request, _find(request, slug))


@sensitive_variables("secret")
def _show_token(
    request: HttpRequest, consumer: Consumer, token: ConsumerToken, secret: Secret
) -> HttpResponse:
    context = {"consumer": consumer, "token": token, "secret": secret.expose()}
    response = render(request, "keyvault/token_created.html", context, status=201)
    response["Cache-Control"] = "no-store"
    return response


@never_cache
@signed_in
@require_POST
def create_token(request: HttpRequest, slug: str) -> HttpResponse:
    consumer, now = _find(request, slug), clock.now()
    actor_of(request).demand("manage", consumer.team_id)
    form = TokenForm(request.POST)
    if form.is_valid():
        life: int | None = form.cleaned_data["life"]
        try:
            token, secret = services.create_token(
                actor_of(request),
                consumer,
                form.cleaned_data["environment"],
                expires_at=now + timedelta(days=life) if life else None,
                cidrs=form.cleaned_data["cidrs"],
                instance_limit=form.cleaned_data["instance_limit"],
                now=now,
            )
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            return _show_token(request, consumer, token, secret)
    return _page(request, consumer, token_form=form, status=422)


def _token(consumer: Consumer, token_id: uuid.UUID) -> ConsumerToken:
    token = consumer.tokens.select_related("environment").filter(id=token_id).first()
    if token is None:
        raise Http404
    return token


@never_cache
@signed_in
@require_http_methods(["GET", "POST"])
def rotate_token(request: HttpRequest, slug: str, token_id: uuid.UUID) -> HttpResponse:
    """A successor; the old token works on for the time that is chosen."""
    consumer = _find(request, slug)
    actor_of(request).demand("manage", consumer.team_id)
    token = _token(consumer, token_id)
    form = RotateTokenForm(request.POST or None)
    if not form.is_valid():
        context = {"consumer": consumer, "token": token, "form": form}
        return render(request, "keyvault/token_rotate.html", context, status=422 if form.is_bound else 200)
    grace = timedelta(seconds=form.cleaned_data["grace"])
    new, secret = services.rotate_token(actor_of(request), token, grace=grace, now=clock.now())
    return _show_token(request, consumer, new, secret)


@signed_in
@require_http_methods(["GET", "POST"])
def revoke_token(request: HttpRequest, slug: str, token_id: uuid.UUID) -> HttpResponse:
    consumer = _find(request, slug)
    actor_of(request).demand("manage", consumer.team_id)
    token = _token(consumer, token_id)
    wrong = request.method == "POST" and request.POST.get("confirm", "").strip() != consumer.slug
    if request.method == "GET" or wrong:
        context = {"consumer": consumer, "token": token, "wrong": wrong}
        return render(request, "keyvault/token_revoke.html", context, status=422 if wrong else 200)
    services.revoke_token(actor_of(request), token, now=clock.now())
    messages.success(request, f"{token.hint} is revoked. Requests with it are refused from now on.")
    return redirect("console-consumer", slug=slug)


@signed_in
@require_POST
def add_grant(request: HttpRequest, slug: str) -> HttpResponse:
    consumer = _find(request, slug)
    if not managed_teams(actor_of(request)).exists():
        raise PermissionDenied("This needs the role lead in the team that owns the key.")
    form = GrantForm(request.POST, actor=actor_of(request))
    if not form.is_valid():
        return _page(request, consumer, grant_form=form, status=422)
    grant = services.set_grant(actor_of(request), consumer, **form.cleaned_data, now=clock.now())
    verbs = ", ".join(grant.verbs)
    messages.success(request, f"{slug} may {verbs} {grant.service.slug}/{grant.environment.slug}.")
    return redirect("console-consumer", slug=slug)


@signed_in
@require_POST
def remove_grant(request: HttpRequest, slug: str, grant_id: uuid.UUID) -> HttpResponse:
    consumer = _find(request, slug)
    grant = (
        Grant.objects.filter(consumer=consumer, id=grant_id).select_related("service", "environment").first()
    )
    if grant is None:
        raise Http404
    services.remove_grant(actor_of(request), grant, now=clock.now())
    messages.success(request, f"{slug} may no longer use {grant.service.slug}/{grant.environment.slug}.")
    return redirect("console-consumer", slug=slug)
