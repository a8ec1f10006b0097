"""Default deny: every route below /v1/ says who may call it, and means it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver
from rest_framework.views import APIView

from keyvault.api.authentication import UserTokenAuthentication
from keyvault.api.base import ManagementView
from keyvault.api.permissions import DenyAll, IsPerson
from keyvault.api.throttling import UserTokenThrottle
from tests.api.management.world import World, problem

# Reviewed by hand: what anybody may read.
PUBLIC = {"v1/schema/", "v1/docs/"}
# Not for people: who calls is known by a signature over the body; see test_scanning.py.
SIGNED = {"v1/token-scanning/report/"}
FILLING = {"user": "viewer", "uuid": str(uuid.UUID(int=1))}


def walk(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walk(pattern, route)
        elif route.startswith("v1/"):
            yield route, pattern.callback


ROUTES = dict(walk(get_resolver()))
PRIVATE = {route: view for route, view in ROUTES.items() if route not in PUBLIC | SIGNED}


def filled(route: str) -> str:
    """A path of this route."""
    parts = []
    for part in route.split("/"):
        kind, _, name = part.strip("<>").partition(":")
        parts.append(part if not name else FILLING.get(kind, FILLING.get(name, "thing")))
    return "/" + "/".join(parts)


def test_there_are_routes() -> None:
    assert len(PRIVATE) > 30
    assert set(ROUTES) >= PUBLIC


@pytest.mark.parametrize("route", PRIVATE)
def test_a_route_names_authentication_permission_and_limit(route: str) -> None:
    view = getattr(PRIVATE[route], "cls", None)
    assert view is not None, "a plain function answers this route"
    assert issubclass(view, ManagementView)
    assert view.authentication_classes == [UserTokenAuthentication]
    assert view.permission_classes == [IsPerson]
    assert [type(throttle) for throttle in view().get_throttles()] == [UserTokenThrottle]


@pytest.mark.parametrize("route", PRIVATE)
def test_every_post_can_be_repeated_safely(route: str) -> None:
    post = getattr(PRIVATE[route].cls, "post", None)
    assert post is None or getattr(post, "idempotent", False)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "PUT"])
@pytest.mark.parametrize("route", PRIVATE)
def test_nobody_gets_past_the_door(db: None, route: str, method: str) -> None:
    answer = Client().generic(method, filled(route))
    assert problem(answer)["code"] == "missing_api_key"


@pytest.mark.parametrize("route", [route for route in PRIVATE if "<" in route])
def test_nothing_of_a_stranger_is_found(world: World, route: str) -> None:
    """Every name in these paths is unknown, so each method that exists answers 404 and nothing else."""
    for method in ("get", "post", "patch", "delete"):
        if hasattr(PRIVATE[route].cls, method):
            assert problem(world.admin.call(method.upper(), filled(route), {}))["code"] == "not_found"


def test_a_view_that_says_nothing_lets_nobody_in() -> None:
    assert APIView.permission_classes == [DenyAll]
    assert APIView.authentication_classes == [UserTokenAuthentication]
