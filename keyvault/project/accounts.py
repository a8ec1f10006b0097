"""How people get in: an administrator or a lead asks them in; nobody signs up."""

from __future__ import annotations

from typing import Any, Final, cast

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import get_authentication_records
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from keyvault import clock
from keyvault.models import User
from keyvault.project import attempts
from keyvault.services import people, sign_ins

_WAYS: Final = {
    "password": "password",
    "socialaccount": "single sign-on",
    "webauthn": "passkey",
    "totp": "authenticator app",
    "recovery_codes": "recovery code",
}


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """The strongest first: a passkey, then a code, then the password."""
        return list(reversed(super().get_reauthentication_methods(user)))

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count the attempt before the password is looked at, the same for names that nobody has.

        What is right is taken back from the count by the caller.
        """
        self._login_failed_rl_usage = attempts.consume(request, credentials.get("username", ""), "password")
        if self._login_failed_rl_usage is None:
            raise self.validation_error("too_many_login_attempts")

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        attempts.note_failure(request, credentials.get("username", ""), "password")

    def set_password(self, user: Any, password: str) -> None:
        """By the person, who has confirmed the old one."""
        with transaction.atomic():
            super().set_password(user, password)
            people.note_password(user, now=clock.now())

    def logout(self, request: HttpRequest) -> None:
        sign_ins.signed_out(cast(User, request.user), why="by hand", now=clock.now())
        super().logout(request)

    def post_login(self, request: HttpRequest, user: Any, **more: Any) -> HttpResponse:
        sign_ins.signed_in(
            user,
            how=_how(request, user),
            address=attempts.address_of(request),
            known=bool(attempts.device_of(request, user.get_username())),
            now=clock.now(),
        )
        response: HttpResponse = super().post_login(request, user, **more)
        attempts.remember(request, response, user.get_username())
        return response


def _how(request: HttpRequest, user: Any) -> str:
    """The ways in which this person has shown who it is, in their order."""
    ways = [record.get("type") or record["method"] for record in get_authentication_records(request, user)]
    return " and ".join(dict.fromkeys(_WAYS[way] for way in ways))
