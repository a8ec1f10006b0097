"""How people get in: an administrator or a lead asks them in; nobody signs up."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest, HttpResponse

from keyvault.project import attempts


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

    def post_login(self, request: HttpRequest, user: Any, **more: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **more)
        attempts.remember(request, response, user.get_username())
        return response
