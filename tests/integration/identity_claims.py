"""The routes of the tests' provider, and what it says of a person: the groups of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from django.urls import include, path

urlpatterns = [path("", include("allauth.idp.urls"))]


class GroupClaims(DefaultOIDCAdapter):  # type: ignore[misc]
    def get_claims(self, purpose: str, user: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        claims: dict[str, Any] = super().get_claims(purpose, user, *args, **kwargs)
        people = json.loads(Path(os.environ["PEOPLE"]).read_text(encoding="utf-8"))
        return {**claims, "preferred_username": user.username, "groups": people.get(user.username, [])}
