"""The one gate before what touches a secret, forces, or loosens: the person has to be there now."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.account.internal.flows.reauthentication import did_recently_reauthenticate, suspend_request
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from keyvault.console.access import is_fragment

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


def confirmed(view: View[P], *, resume: bool = False) -> View[P]:
    """Run the view if this person has confirmed who they are within five minutes; ask for it if not.

    A passkey, a code or the password will do, whatever this person has. With ``resume`` a form that was
    sent waits in the session and goes on by itself; never where a secret may be in it, because a session
    is no place for one. Put it below ``signed_in``, and below the check of the role, so that nobody is
    asked in vain.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        methods = get_adapter(request).get_reauthentication_methods(request.user)
        if not methods:
            messages.info(request, "This needs a passkey or an authenticator app. Add one, then try again.")
            return go(request, reverse("mfa_index"))
        if did_recently_reauthenticate(request):
            return view(request, *args, **kwargs)
        if request.method != "GET" and resume:
            waiting: HttpResponse = suspend_request(request, methods[0]["url"])
            return waiting
        if request.method != "GET":
            messages.info(request, "Confirm that it is you, then send the form again. Nothing was changed.")
        return go(request, f"{methods[0]['url']}?{urlencode({'next': request.get_full_path()})}")

    return wrapper


def confirmed_or_new(view: View[P]) -> View[P]:
    """As ``confirmed``, but somebody without any way to confirm may go on right after signing in.

    That is a person of single sign-on who adds a first passkey: a session that was stolen later cannot.
    """
    strict = confirmed(view)

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if get_adapter(request).get_reauthentication_methods(request.user):
            return strict(request, *args, **kwargs)
        records = get_authentication_records(request, request.user)
        if any(time.time() - record["at"] < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT for record in records):
            return view(request, *args, **kwargs)
        message = "Sign out and in again, then come back within five minutes: that is how we know it is you."
        return render(request, "plain_error.html", {"message": message, "status": 403}, status=403)

    return wrapper


def go(request: HttpRequest, url: str) -> HttpResponse:
    """A redirect; for a fragment one of the whole page."""
    if is_fragment(request):
        return HttpResponse(status=204, headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)
