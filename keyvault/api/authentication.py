"""Who calls the management API: a person, by a user token. One credential per request, never in the URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from keyvault import clock
from keyvault.crypto.tokens import TokenKind, digest, looks_like_ours, parse
from keyvault.exceptions import KeyturnError
from keyvault.keystore import keys
from keyvault.models import User
from keyvault.services.people import user_for_token

CHALLENGE: Final = 'Bearer realm="keyturn"'

_IN_URL: Final = frozenset(
    {
        "api_key",
        "api-key",
        "apikey",
        "x-api-key",
        "x_api_key",
        "access_token",
        "token",
        "auth",
        "authorization",
    }
)
_SCHEMES: Final = frozenset({"bearer", "token"})
_QUOTES: Final = frozenset("\"'`")
_REFUSED: Final = "Invalid or revoked API key."


@dataclass(frozen=True)
class UserCredential:
    """What ``request.auth`` is: the name under which requests of this one token are counted."""

    subject: str


class UserTokenAuthentication(BaseAuthentication):
    """A user token (``ktu_…``) in ``X-API-Key``, ``Authorization: Bearer`` or ``Authorization: Token``.

    1. A credential in the URL, or more than one, is refused whatever it is worth.
    2. Nothing, or an empty header, is nobody: the permission answers ``missing_api_key``.
    3. A credential of a consumer is told where it belongs; anything else that is not good is the same 401.
    """

    def authenticate(self, request: Request) -> tuple[User, UserCredential] | None:
        refuse_credential_in_url(request)
        text = _presented(request)
        if text is None:
            return None
        _refuse_consumers(text)
        user = user_for_token(text, now=clock.now())
        if user is None:
            raise AuthenticationFailed(_REFUSED + _hint(text))
        mark = digest(keys().service.pepper, text).hex()
        return user, UserCredential(subject=f"ktu:{mark[:40]}")

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def refuse_credential_in_url(request: Request) -> None:
    """Raise ``credential_in_url``: addresses end up in logs, histories and referrers."""
    for name, values in request.query_params.lists():
        if name.lower() in _IN_URL or any(looks_like_ours(value) for value in values):
            raise KeyturnError("credential_in_url", "Send the credential in a header, not in the URL.")


def _presented(request: Request) -> str | None:
    """The one credential of a request, as it came; None where there is none."""
    key = str(request.META.get("HTTP_X_API_KEY", ""))
    authorization = str(request.META.get("HTTP_AUTHORIZATION", ""))
    # A header sent twice arrives as one, joined by a comma, which no credential of ours contains.
    both = bool(key.strip()) and bool(authorization.strip())
    if both or "," in key or "," in authorization:
        raise KeyturnError("ambiguous_credentials", "Send exactly one credential, once.")
    if key.strip():
        return key
    scheme, _, rest = authorization.lstrip().partition(" ")
    if not rest.strip():
        return None
    if scheme.lower() == "accesstoken":
        raise KeyturnError("access_token_not_allowed", "An access token cannot manage anything.")
    if scheme.lower() not in _SCHEMES:
        raise AuthenticationFailed("Use X-API-Key, or Authorization with Bearer or Token.")
    return rest


def _refuse_consumers(text: str) -> None:
    parsed = parse(text)
    if parsed is not None and parsed.kind is TokenKind.CONSUMER:
        raise KeyturnError(
            "permission_denied",
            "This is a consumer token, which reads keys. Managing needs a person's user token (ktu_…).",
        )


def _hint(text: str) -> str:
    """What a person who copied the token badly should look at; never what was sent."""
    if _QUOTES & set(text):
        return " There are quotation marks around it or in it."
    if text != text.strip() or any(char.isspace() for char in text):
        return " There is white space around it or in it."
    if "YOUR_" in text.upper():
        return " This is a placeholder, not a token."
    return ""
