"""The management API: JSON, tokens, and a word on every route about who may come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.urls import URLResolver, get_resolver
from rest_framework.authentication import BasicAuthentication, SessionAuthentication
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from keyvault.api.permissions import DenyAll

_API: Final = "v1/"
# Plain views below it that everybody may see: they describe the API and hold nothing.
_PUBLIC: Final = frozenset({"keyvault.api.views.docs.docs"})
_FROM_A_BROWSER: Final = (SessionAuthentication, BasicAuthentication)


def json_only(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """No page that sends requests, and nobody known by a cookie: then no other site can act for somebody."""
    found = [
        *_browser_parts("the defaults", api_settings.DEFAULT_RENDERER_CLASSES, _default_authentication())
    ]
    for place, view in _views():
        if isinstance(view, type) and issubclass(view, APIView):
            found += _browser_parts(place, view.renderer_classes, view.authentication_classes)
    return [
        Error(
            f"{place}: {what} has no place in the API.",
            hint="Use JSONRenderer and UserTokenAuthentication.",
            id="keyvault.E009",
        )
        for place, what in found
    ]


def _default_authentication() -> Any:
    return api_settings.DEFAULT_AUTHENTICATION_CLASSES


def _browser_parts(place: str, renderers: Any, authentication: Any) -> Iterator[tuple[str, str]]:
    for renderer in renderers:
        if issubclass(renderer, BrowsableAPIRenderer):
            yield place, renderer.__name__
    for one in authentication:
        if issubclass(one, _FROM_A_BROWSER):
            yield place, one.__name__


def nobody_by_default(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    defaults: Any = api_settings.DEFAULT_PERMISSION_CLASSES
    if list(defaults) == [DenyAll]:
        return []
    return [
        Error(
            "A view that says nothing about permissions would let somebody in.",
            hint='Set REST_FRAMEWORK["DEFAULT_PERMISSION_CLASSES"] to keyvault.api.permissions.DenyAll.',
            id="keyvault.E010",
        )
    ]


def every_route_says_who(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Authentication and permission stand in the view itself or in a base class of ours, not in a default."""
    return [
        Error(
            f"{place} does not say {what}.",
            hint="Derive it from ManagementView, or set authentication_classes and permission_classes.",
            id="keyvault.E011",
        )
        for place, view in _views()
        for what in _unsaid(view)
    ]


def _unsaid(view: Any) -> Iterator[str]:
    if not (isinstance(view, type) and issubclass(view, APIView)):
        if f"{view.__module__}.{view.__qualname__}" not in _PUBLIC:
            yield "who may call it: it is no view of the API"
        return
    said = {
        name
        for base in view.__mro__
        if base.__module__.partition(".")[0] != "rest_framework"
        for name in vars(base)
    }
    if "authentication_classes" not in said:
        yield "how a caller is known"
    if "permission_classes" not in said or not view.permission_classes:
        yield "who may call it"
    elif view.authentication_classes and AllowAny in _permissions(view):
        yield "who may call it: everybody, though callers are known"


def _permissions(view: type[APIView]) -> list[type[BasePermission]]:
    return list(view.permission_classes)  # type: ignore[arg-type]  # ours combine none with operators


def _views() -> Iterator[tuple[str, Any]]:
    """Every route of the API and the class, or the function, that answers it."""
    yield from _below(get_resolver(getattr(settings, "ROOT_URLCONF", None)), "")


def _below(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, Any]]:
    for entry in resolver.url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            if path.startswith(_API) or _API.startswith(path):
                yield from _below(entry, path)
        elif path.startswith(_API):
            callback: Any = entry.callback
            yield f"/{path}", getattr(callback, "cls", None) or getattr(callback, "view_class", callback)
