"""OpenID Connect sign-in: who is let in, under which name, and with which roles."""

from __future__ import annotations

from typing import Any

import requests
import structlog
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.openid_connect import views as openid_connect
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from keyvault import clock
from keyvault.project.group_roles import Given, given_by, groups_in
from keyvault.project.outbound import session_by_egress
from keyvault.services import sso_roles

log = structlog.get_logger("keyturn.people")


def begin(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Send the browser to the provider. One that cannot be asked where that is gets a page, not an error."""
    try:
        response: HttpResponse = openid_connect.login(request, provider_id)
    except (requests.RequestException, KeyError) as error:
        log.warning("sso_provider_unavailable", error=type(error).__name__)
        return render(request, "socialaccount/authentication_error.html", status=503)
    return response


class SingleSignOnAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Accounts are known by the provider's subject, never by a name or an address that it claims."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Somebody whose groups give no role has no business here, and gets no account."""
        return bool(_given(sociallogin))

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        if sociallogin.state.get("process") == "connect":
            return
        if sociallogin.is_existing:
            _apply(sociallogin)
        elif not _given(sociallogin):
            page = render(request, "socialaccount/no_role.html", status=403)
            raise ImmediateHttpResponse(page)

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> Any:
        user = super().save_user(request, sociallogin, form)
        sso_roles.note_new(user, now=clock.now())
        _apply(sociallogin)
        return user

    def get_connect_redirect_url(self, request: HttpRequest, socialaccount: Any) -> str:
        return reverse("console-profile")

    def get_requests_session(self) -> Any:
        """The provider is where the setting says, and is asked by the one way out."""
        return session_by_egress(super().get_requests_session())


def _given(sociallogin: Any) -> Given:
    claims = sociallogin.account.extra_data
    sources = [claims.get(name) or {} for name in ("id_token", "userinfo")]
    groups = frozenset().union(*(groups_in(source, settings.KEYTURN_OIDC_GROUPS_CLAIM) for source in sources))
    return given_by(settings.KEYTURN_OIDC_ROLES, groups)


def _apply(sociallogin: Any) -> None:
    given = _given(sociallogin)
    sso_roles.apply(sociallogin.user, organisation=given.organisation, teams=given.teams, now=clock.now())
