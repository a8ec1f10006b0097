"""How long a session lasts, and what a lead needs before the first page: a second factor."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from keyvault import clock
from keyvault.console.access import actor_of, is_fragment
from keyvault.console.fresh import go
from keyvault.services import sign_ins
from keyvault.services.second_factors import has_second_factor

Handler = Callable[[HttpRequest], HttpResponse]

_STARTED = "keyturn_started"
_SEEN = "keyturn_seen"
IDLE = 15 * 60
_NOTED_EVERY = 60  # a session is not written anew with every click
_OPEN = ("/accounts/", "/v1/", "/livez", "/readyz", "/metrics")


def session_limits(get_response: Handler) -> Handler:
    """A session ends eight hours after sign-in, and that of a lead or administrator when it is idle.

    Django's own expiry starts anew whenever a session is saved, so the start is kept beside it.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        # Only a request that carries a session is looked at: the API has none and needs no query.
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            now = int(timezone.now().timestamp())
            over = _over(request, now)
            if over:
                sign_ins.signed_out(request.user, why=over, now=clock.now())
                logout(request)
            elif not _by_itself(request) and now - request.session.get(_SEEN, 0) >= _NOTED_EVERY:
                request.session[_SEEN] = now
        return get_response(request)

    return middleware


def _over(request: HttpRequest, now: int) -> str:
    """Why this session is over; empty where it is not."""
    started = request.session.setdefault(_STARTED, now)
    if now - started >= settings.SESSION_COOKIE_AGE:
        return "the session was too old"
    idle: int = now - request.session.get(_SEEN, now)
    return "the session was idle" if idle >= IDLE and actor_of(request).is_elevated else ""


def _by_itself(request: HttpRequest) -> bool:
    """Whether the page asks, not the person: live parts refresh themselves for ever."""
    return request.method == "GET" and is_fragment(request)


def second_factor_required(get_response: Handler) -> Handler:
    """Leads and administrators without a second factor see the page where one is added, and nothing else."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if settings.KEYTURN_REQUIRE_MFA and _must_enrol(request):
            request.keyturn_must_enrol = True  # type: ignore[attr-defined]
            if not request.path_info.startswith(_OPEN):
                return go(request, reverse("mfa_index"))
        return get_response(request)

    return middleware


def _must_enrol(request: HttpRequest) -> bool:
    if settings.SESSION_COOKIE_NAME not in request.COOKIES or not request.user.is_authenticated:
        return False
    return not has_second_factor(request.user) and actor_of(request).is_elevated
