"""The routes of the tests' provider, and what it says of a person: the groups of a file.

Under ``wrong`` the file may hold one thing that this provider does as none should.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jwt
from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from cryptography.hazmat.primitives.asymmetric import rsa
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.integration.identity_provider import WRONG_CLAIMS, Claims

urlpatterns = [path("", include("allauth.idp.urls"))]

_stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def asked() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(os.environ["PEOPLE"]).read_text(encoding="utf-8"))
    return found


def misbehaving(get_response: Any) -> Any:
    """Middleware: what the library itself would never do."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = get_response(request)
        wrong = asked().get("wrong", "")
        if response.get("Content-Type", "").startswith("application/json"):
            answer = json.loads(response.content)
            if wrong == "document" and "issuer" in answer:
                answer["issuer"] += "/"
            elif wrong == "user info" and set(answer) >= {"sub"}:
                answer["sub"] = "somebody-else"
            elif "id_token" in answer:
                answer["id_token"] = _signed_anew(answer["id_token"], wrong)
            response.content = json.dumps(answer).encode()
        return response

    return middleware


def _signed_anew(token: str, wrong: str) -> str:
    headers = {"kid": jwt.get_unverified_header(token)["kid"]}
    claims = jwt.decode(token, options={"verify_signature": False})
    if wrong == "signature":
        return jwt.encode(claims, _stranger, "RS256", headers)
    if wrong == "unsigned":
        return jwt.encode(claims, "", "none", headers)
    if wrong == "shared secret":
        return jwt.encode(claims, "made-up-client-secret-that-is-long", "HS256", headers)
    return token


class GroupClaims(DefaultOIDCAdapter):  # type: ignore[misc]
    def get_claims(self, purpose: str, user: Any, *args: Any, **kwargs: Any) -> Claims:
        claims: Claims = super().get_claims(purpose, user, *args, **kwargs)
        return {**claims, "preferred_username": user.username, "groups": asked().get(user.username, [])}

    def populate_id_token(self, id_token: Claims, *args: Any, **kwargs: Any) -> None:
        change = WRONG_CLAIMS.get(asked().get("wrong", ""))
        if change is not None:
            id_token.update(change(id_token))
