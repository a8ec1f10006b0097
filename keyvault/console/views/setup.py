"""The first administrator, made through the one-time link that the first start prints."""

from __future__ import annotations

from datetime import datetime

from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.text import slugify
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.console.forms import SetupForm
from keyvault.domain import OrganisationRole, Role
from keyvault.services import people
from keyvault.setup import check_setup_token, consume_setup_token


@sensitive_post_parameters("password", "again")
@require_http_methods(["GET", "POST"])
def set_up(request: HttpRequest, token: str) -> HttpResponse:
    """A used, expired or made-up link is 404: it tells nothing."""
    now = clock.now()
    if not check_setup_token(token, now):
        raise Http404
    form = SetupForm(request.POST or None)
    if form.is_valid():
        if not consume_setup_token(token, now):
            raise Http404  # somebody else was faster
        return _begin(request, form.cleaned_data, now)
    response: HttpResponse = render(
        request, "keyvault/setup.html", {"form": form}, status=422 if form.is_bound else 200
    )
    # The address holds the token; it must not leave in a Referer. Without any, browsers post "Origin: null",
    # which the check against forged requests refuses.
    response["Referrer-Policy"] = "same-origin"
    return response


def _begin(request: HttpRequest, chosen: dict[str, str], now: datetime) -> HttpResponse:
    """The administrator and their team; they have just typed their password, so they are signed in."""
    with transaction.atomic():
        user = people.create_person(chosen["username"], chosen["password"], role=OrganisationRole.ADMIN)
        team = people.create_team(SYSTEM, slug=slugify(chosen["team"])[:63], name=chosen["team"], now=now)
        people.set_member(SYSTEM, team, username=user.get_username(), role=Role.LEAD, now=now)
    credentials = {"username": user.get_username()}
    response: HttpResponse = perform_password_login(request, credentials, Login(user=user))
    return response
