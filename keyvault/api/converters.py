"""What may stand in a path. Everything else is 404 before a view or the database sees it."""

from __future__ import annotations

from typing import Any, Final

from django.urls import register_converter

from keyvault.models.base import SLUG

USERNAME: Final = r"[A-Za-z0-9_.@+-]{1,150}"


class NameConverter:
    """The slug of a thing of ours."""

    regex = SLUG

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class UsernameConverter(NameConverter):
    regex = USERNAME


# Once, when the first URL module is imported.
register_converter(NameConverter, "name")
register_converter(UsernameConverter, "username")

# The same in the words of the OpenAPI document.
IN_OPENAPI: Final[dict[str, dict[str, Any]]] = {
    "name": {"type": "string", "pattern": f"^{SLUG}$"},
    "username": {"type": "string", "pattern": f"^{USERNAME}$"},
}
