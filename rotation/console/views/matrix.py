"""Services x environments, with the filters in the address."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from keyvault import clock
from keyvault.console.access import actor_of, signed_in
from keyvault.models import Environment, Key, Provider, Service, Team
from rotation.console.standing import KeyLine, lines, with_standing

PAGE = 50


@signed_in
@require_safe
def matrix(request: HttpRequest) -> HttpResponse:
    """Seven queries, however many services there are; 50 services a page."""
    actor = actor_of(request)
    chosen = {name: request.GET.get(name, "").strip()[:63] for name in ("team", "provider", "q", "after")}
    services = Service.objects.for_actor(actor).select_related("team", "provider")
    if chosen["team"]:
        services = services.filter(team__slug=chosen["team"])
    if chosen["provider"]:
        services = services.filter(provider__slug=chosen["provider"])
    if chosen["q"]:
        text = chosen["q"]
        services = services.filter(
            Q(slug__icontains=text) | Q(description__icontains=text) | Q(team__slug__icontains=text)
        )
    if chosen["after"]:
        services = services.filter(slug__gt=chosen["after"])
    shown = list(services[: PAGE + 1])
    more = len(shown) > PAGE
    shown = shown[:PAGE]
    environments = list(Environment.objects.all())
    keys = with_standing(Key.objects.filter(service__in=[service.id for service in shown]))
    cells = {(line.key.service_id, line.key.environment_id): line for line in lines(keys, clock.now())}
    context: dict[str, Any] = {
        "environments": environments,
        "rows": [
            _row(service, environments, cells, may_add=actor.may("manage", service.team_id))
            for service in shown
        ],
        "teams": Team.objects.for_actor(actor),
        "providers": Provider.objects.all(),
        "chosen": chosen,
        "filtered": any(chosen[name] for name in ("team", "provider", "q")),
        "may_add": actor.is_admin or any(actor.may("manage", team) for team in actor.team_ids),
        "first": urlencode({name: value for name, value in chosen.items() if name != "after"}),
        "next": urlencode({**chosen, "after": shown[-1].slug}) if more else "",
    }
    return render(request, "rotation/matrix.html", context)


def _row(
    service: Service, environments: list[Environment], cells: dict[tuple[Any, Any], KeyLine], *, may_add: bool
) -> dict[str, Any]:
    return {
        "service": service,
        "may_add": may_add,
        "cells": [
            {"environment": environment, "line": cells.get((service.id, environment.id))}
            for environment in environments
        ],
    }
