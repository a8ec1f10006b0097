"""The first administrator, made through the one-time link that the first start prints."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.forms import SetupForm
from keyvault.domain import OrganisationRole
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
        people.create_person(
            form.cleaned_data["username"], form.cleaned_data["password"], role=OrganisationRole.ADMIN
        )
        messages.success(request, "The administrator is there. Sign in to go on.")
        return redirect("account_login")
    response = render(request, "keyvault/setup.html", {"form": form}, status=422 if form.is_bound else 200)
    # The address holds the token; it must not leave in a Referer.
    response["Referrer-Policy"] = "no-referrer"
    return response
