"""Teams and services: what keys belong to."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.forms import ServiceForm, TeamForm, managed_teams
from keyvault.exceptions import KeyturnError
from keyvault.services import catalogue, people


@signed_in
@require_http_methods(["GET", "POST"])
def new_team(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    actor.demand_admin()
    form = TeamForm(request.POST or None)
    if form.is_valid():
        try:
            team = people.create_team(actor, **form.cleaned_data, now=clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, f"The team {team.name} is there. Now add a service that it owns.")
            return redirect("console-service-new")
    return render(request, "keyvault/team_new.html", {"form": form}, status=422 if form.is_bound else 200)


@signed_in
@require_http_methods(["GET", "POST"])
def new_service(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    teams = managed_teams(actor)
    if not teams.exists():
        if actor.is_admin:
            messages.info(request, "A service belongs to a team. Create the team first.")
            return redirect("console-team-new")
        raise PermissionDenied("This needs the role lead in a team.")
    form = ServiceForm(request.POST or None, actor=actor)
    if form.is_valid():
        try:
            service = catalogue.create_service(actor, **form.cleaned_data, now=clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, f"{service.slug} is there. Now add its first key.")
            return redirect(reverse("console-key-new") + f"?service={service.slug}")
    return render(request, "keyvault/service_new.html", {"form": form}, status=422 if form.is_bound else 200)
