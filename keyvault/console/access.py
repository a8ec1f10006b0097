"""Who may open a page, and how a refusal of a service becomes a page."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from keyvault.actors import Actor, actor_for
from keyvault.console.zones import zone_of
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.errors import status_of
from keyvault.exceptions import KeyturnError
from keyvault.models import User

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

STALE = ("invalid_transition", "precondition_failed", "rotation_in_progress")


def signed_in(view: View[P]) -> View[P]:
    """Only for people who signed in. A fragment that is asked for after the session ended reloads its page.

    Refusals of the services become pages here: a stranger's object is 404, a missing right 403, a
    state that has moved on 409.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            if is_fragment(request):
                return HttpResponse(status=204, headers={"HX-Refresh": "true"})
            return redirect_to_login(request.get_full_path())
        try:
            with timezone.override(zone_of(request)):
                return view(request, *args, **kwargs)
        except KeyturnError as error:
            return refused(request, error)
        except (IntegrityError, KeyServiceUnavailable, KeyringError):
            message = (
                "The key service cannot open this secret now. Nothing was changed. Tell an administrator."
            )
            return render(request, "plain_error.html", {"message": message, "status": 503}, status=503)

    return wrapper


def is_fragment(request: HttpRequest) -> bool:
    """Whether htmx asks for a part of a page. Read from the header: a replayed request has no ``.htmx``."""
    return request.headers.get("HX-Request") == "true"


def actor_of(request: HttpRequest) -> Actor:
    """The actor behind this request; its roles are read once per request."""
    known: Actor | None = getattr(request, "keyturn_actor", None)
    if known is None:
        known = actor_for(cast(User, request.user))
        request.keyturn_actor = known  # type: ignore[attr-defined]
    return known


def refused(request: HttpRequest, error: KeyturnError) -> HttpResponse:
    """The page for a refusal that no form could show."""
    if error.code == "not_found":
        raise Http404
    if error.code == "permission_denied":
        raise PermissionDenied(error.message)
    if error.code in STALE:
        return render(request, "409.html", {"message": error.message}, status=409)
    status = status_of(error.code)
    return render(request, "plain_error.html", {"message": error.message, "status": status}, status=status)


def sentence_of(error: KeyturnError) -> str:
    """A refusal in one line, for where there is no field beside which it could stand."""
    return " ".join(text for texts in error.fields.values() for text in texts) or error.message


def show_refusal(form: BaseForm, error: KeyturnError) -> None:
    """Put a refusal where the person can mend it. What no field of the form can mend is raised again."""
    if error.code in ("not_found", "permission_denied", *STALE):
        raise error
    if not error.fields:
        form.add_error(None, error.message)
    for field, texts in error.fields.items():
        for text in texts:
            form.add_error(field if field in form.fields else None, text)
