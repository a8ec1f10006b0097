"""One's own page: name, mail, time zone, second factor, sessions, tokens."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, cast

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.console.peopleforms import ProfileForm, UserTokenForm
from keyvault.exceptions import KeyturnError
from keyvault.models import User, UserToken
from keyvault.services import people
from keyvault.services.second_factors import KINDS

_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux")


def _browser(agent: str) -> str:
    """What a browser says of itself, in the words of people; otherwise its own first word."""
    program = next((name for mark, name in _BROWSERS if mark in agent), agent.partition("/")[0][:40])
    system = next((name for name in _SYSTEMS if name in agent), "")
    return f"{program} on {system}" if system else program or "unknown browser"


def _page(request: HttpRequest, *, status: int = 200, **extra: Any) -> HttpResponse:
    user = cast(User, request.user)
    initial = {"name": user.get_full_name(), "email": user.email, "time_zone": user.time_zone}
    now = clock.now()
    factors = Authenticator.objects.filter(user=user).order_by("created_at")
    context = {
        "form": ProfileForm(initial=initial),
        "token_form": UserTokenForm(),
        "factors": [{"row": row, "kind": KINDS[row.type]} for row in factors],
        "sessions": [
            {"row": row, "browser": _browser(row.user_agent)}
            for row in sorted(UserSession.objects.purge_and_list(user), key=lambda row: row.created_at)
        ],
        "tokens": user.tokens.filter(revoked_at__isnull=True, expires_at__gt=now).order_by("-created_at"),
        "memberships": user.memberships.select_related("team").order_by("team__slug"),
        "accounts": SocialAccount.objects.filter(user=user),
        "now": now,
    }
    return render(request, "keyvault/profile.html", {**context, **extra}, status=status)


@signed_in
@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        return _page(request)
    form, user, now = ProfileForm(request.POST), cast(User, request.user), clock.now()
    if not form.is_valid():
        return _page(request, form=form, status=422)
    email = form.cleaned_data.pop("email")
    try:
        people.set_profile(user, **form.cleaned_data, now=now)
        if email != user.email:
            people.set_email(user, email, now=now)
    except KeyturnError as error:
        show_refusal(form, error)
        return _page(request, form=form, status=422)
    messages.success(request, "Saved.")
    return redirect("console-profile")


@signed_in
@require_POST
def end_sessions(request: HttpRequest) -> HttpResponse:
    """One session, or all but this one. Both are known by the number of a row, never by their key."""
    user = cast(User, request.user)
    chosen = request.POST.get("session", "")
    rows = UserSession.objects.filter(user=user).exclude(session_key=request.session.session_key)
    if chosen:
        rows = rows.filter(pk=int(chosen)) if chosen.isdecimal() and len(chosen) < 18 else rows.none()
    ended = people.end_sessions(user, list(rows), now=clock.now())
    messages.success(request, f"{ended} session{'' if ended == 1 else 's'} ended.")
    return redirect("console-profile")


@never_cache
@signed_in
@require_POST
def create_token(request: HttpRequest) -> HttpResponse:
    return confirmed(_create_token, resume=True)(request)


@sensitive_variables("secret")
def _create_token(request: HttpRequest) -> HttpResponse:
    form, now = UserTokenForm(request.POST), clock.now()
    if not form.is_valid():
        return _page(request, token_form=form, status=422)
    expires_at = now + timedelta(hours=form.cleaned_data["life"])
    user = cast(User, request.user)
    row, secret = people.create_user_token(user, expires_at=expires_at, now=now, actor=actor_of(request))
    context = {"token": row, "secret": secret.expose()}
    response = render(request, "keyvault/profile_token.html", context, status=201)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_POST
def revoke_token(request: HttpRequest, token_id: uuid.UUID) -> HttpResponse:
    token = UserToken.objects.filter(user=cast(User, request.user), id=token_id).first()
    if token is None:
        raise Http404
    people.revoke_user_token(actor_of(request), token, now=clock.now())
    messages.success(request, f"{token.hint} is revoked.")
    return redirect("console-profile")
