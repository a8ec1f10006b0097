"""Set-up links: shown once to who makes one, and the page that they lead to."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.console.access import refused, show_refusal
from keyvault.console.peopleforms import PasswordForm
from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import SetupLink
from keyvault.services import setup_links


@sensitive_variables("secret", "address")
def show_link(request: HttpRequest, link: SetupLink, secret: Secret) -> HttpResponse:
    address = request.build_absolute_uri(reverse("console-join", args=[secret.expose()]))
    response = render(request, "keyvault/link_created.html", {"link": link, "address": address}, status=201)
    response["Cache-Control"] = "no-store"
    return response


@sensitive_post_parameters("password", "again")
@require_http_methods(["GET", "POST"])
def join(request: HttpRequest, token: str) -> HttpResponse:
    """A used, expired, withdrawn or made-up link is 404: it tells nothing."""
    now = clock.now()
    try:
        link = setup_links.find(token, now=now)
    except IntegrityError:
        link = None
    if link is None:
        raise Http404
    form = PasswordForm(request.POST or None)
    if form.is_valid():
        try:
            user = setup_links.use(token, form.cleaned_data["password"], now=now)
        except KeyturnError as error:
            if not error.fields:
                return refused(request, error)
            show_refusal(form, error)
        else:
            messages.success(request, f"Your password is set. Sign in as {user.get_username()}.")
            return redirect("account_login")
    response = render(
        request, "keyvault/join.html", {"form": form, "link": link}, status=422 if form.is_bound else 200
    )
    # The address holds the token; it must not leave in a Referer. With "no-referrer" browsers would send the
    # form with "Origin: null", which is refused.
    response["Referrer-Policy"] = "strict-origin"
    return response
