"""A session ends eight hours after sign-in, however busy it is."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

_STARTED = "keyturn_started"


def absolute_session_limit(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Django's own expiry starts anew whenever a session is saved, so the start is kept beside it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        # Only a request that carries a session is looked at: the API has none and needs no query.
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            now = int(timezone.now().timestamp())
            started = request.session.setdefault(_STARTED, now)
            if now - started >= settings.SESSION_COOKIE_AGE:
                logout(request)
        return get_response(request)

    return middleware
