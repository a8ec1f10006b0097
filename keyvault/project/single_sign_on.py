"""OpenID Connect sign-in: who is let in, under which name, and with which roles."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import requests
import structlog
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter, get_adapter
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from keyvault import clock
from keyvault.project import id_tokens
from keyvault.project.group_roles import Given, given_by, groups_in
from keyvault.project.outbound import session_by_egress
from keyvault.services import sign_ins, sso_roles

log = structlog.get_logger("keyturn.people")


class Conversation(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """What is said to the provider, and what of its answers is believed."""

    nonce = ""  # of this browser's question, once its state is known; none is refused

    @property
    def openid_config(self) -> dict[str, Any]:
        return id_tokens.check_discovery(super().openid_config, settings.KEYTURN_OIDC_ISSUER)

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **kwargs: Any) -> Any:
        with get_adapter().get_requests_session() as session:
            answer = session.get(self.openid_config["jwks_uri"])
            answer.raise_for_status()
        claims = id_tokens.verify(
            kwargs["response"].get("id_token"),
            keys=answer.json(),
            discovery=self.openid_config,
            client_id=app.client_id,
            nonce=self.nonce,
        )
        data = {"id_token": claims}
        if self.openid_config.get("userinfo_endpoint"):
            data["userinfo"] = self._fetch_user_info(token.token)
            # It is not signed: it may add to the ID token, and not speak of somebody else.
            if data["userinfo"].get("sub") != claims["sub"]:
                raise id_tokens.Refused("subject_differs")
        return self.get_provider().sociallogin_from_response(request, data)


class Callback(OAuth2CallbackView):  # type: ignore[misc]
    def _get_state(self, request: HttpRequest, provider: Any) -> tuple[Any, Any]:
        state, response = super()._get_state(request, provider)
        if state is not None:
            self.adapter.nonce = state.get("nonce", "")
        return state, response


class Provider(OpenIDConnectProvider):  # type: ignore[misc]
    oauth2_adapter_class = Conversation

    def get_redirect_from_request_kwargs(self, request: HttpRequest) -> dict[str, Any]:
        """As allauth does, without what a link could add to the question, and with a nonce in its state."""
        kwargs: dict[str, Any] = super().get_redirect_from_request_kwargs(request)
        nonce = secrets.token_urlsafe(24)
        return {
            **kwargs,
            "scope": self.get_scope(),
            "auth_params": {**self.get_auth_params(), "nonce": nonce},
            "nonce": nonce,
        }


def begin(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Send the browser to the provider."""
    return _talk(request, OAuth2LoginView, provider_id)


def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """The browser is back, with a code that is worth an ID token."""
    return _talk(request, Callback, provider_id)


def _talk(request: HttpRequest, view: Any, provider_id: str) -> HttpResponse:
    """A provider that cannot be asked, or says what it should not, gets a page and not an error."""
    answer: Callable[[HttpRequest], HttpResponse] = view.adapter_view(Conversation(request, provider_id))
    try:
        return answer(request)
    except SocialApp.DoesNotExist:
        raise Http404 from None
    except (requests.RequestException, OAuth2Error) as error:
        _note(error)
        return render(request, "socialaccount/authentication_error.html", status=503)


def _note(error: BaseException | None) -> None:
    if isinstance(error, id_tokens.Refused):
        log.error("sso_refused", code=error.code)
        sign_ins.provider_refused(error.code, now=clock.now())
    elif error is not None:
        log.warning("sso_provider_unavailable", error=type(error).__name__)


class SingleSignOnAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Accounts are known by the provider's subject, never by a name or an address that it claims."""

    def get_provider(self, request: HttpRequest, provider: str, client_id: str | None = None) -> Provider:
        return Provider(request, app=self.get_app(request, provider=provider, client_id=client_id))

    def on_authentication_error(
        self, *args: Any, exception: BaseException | None = None, **more: Any
    ) -> None:
        _note(exception)

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
