"""One cell: a caller asks for a route, and nothing of what that does is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.core.cache import cache
from django.db import transaction
from django.test import Client

from keyvault.errors import code_for_status
from tests.access.bodies import body
from tests.access.house import CALLERS, House, credential
from tests.access.routes import Route

# A refused page names who may do it instead. In the records nobody may change anything.
WHO_ELSE = ("the role", "administrator of", "Another person")
UNSAFE = frozenset({"POST", "PATCH", "DELETE"})


def cells(house: House, route: Route, method: str) -> dict[str, str]:
    """The answer to every caller, in words of the file."""
    return {caller: _cell(house, route, method, caller) for caller in CALLERS}


def _cell(house: House, route: Route, method: str, caller: str) -> str:
    if caller == "absent" and "{" not in route.template:
        return "-"
    if caller == "stale" and route.is_api:
        return "-"
    given = body(house, method, route.template, caller) if method in UNSAFE else {}
    answer, text = ask(house, route, method, caller, given)
    told = _told(answer, text)
    wrong = [name for name, secret in house.secrets.items() if secret in text]
    # Revealing is one route; whoever gets a secret anywhere else is found here.
    if wrong and not route.template.endswith("/reveal/"):
        return f"{told} SECRET OF {', '.join(wrong)}"
    return f"{told} secret" if wrong else told


def ask(house: House, route: Route, method: str, caller: str, given: Mapping[str, Any]) -> tuple[Any, str]:
    """The response and its text; whatever the request changed is taken back."""
    sent = credential(house, caller, api=route.is_api)
    client = Client(raise_request_exception=False)
    for name, text in sent["cookies"].items():
        client.cookies[name] = text
    path = house.path(route.template, absent=caller == "absent")
    if path.startswith("/accounts/"):
        cache.clear()  # attempts to sign in are counted there
    with transaction.atomic():
        if route.is_api:
            data = json.dumps(given).encode() if given else b""
            answer = client.generic(
                method, path, data, content_type="application/json", headers=dict(sent["headers"])
            )
        elif method == "GET":
            answer = client.get(path, headers=dict(sent["headers"]))
        else:
            answer = client.post(path, dict(given), headers=dict(sent["headers"]))
        text = answer.getvalue().decode()  # also of a stream, which reads rows
        transaction.set_rollback(True)
    return answer, text


def _told(answer: Any, text: str) -> str:
    if answer.status_code in (301, 302, 303, 307, 308):
        return _place(urlsplit(answer["Location"]).path, answer.status_code)
    if answer.status_code == 403 and not _is_json(answer):
        # A refused page says what it is called and what role would do.
        if "permission_denied" not in text:
            return "403 WITHOUT CODE"
        records = answer.wsgi_request.path.startswith("/admin/")
        if not records and not any(word in text for word in WHO_ELSE):
            return "403 WITHOUT ROLE"
    if answer.status_code >= 400 and _is_json(answer):
        # Health tells its own way what is wrong.
        code = json.loads(text).get("error", {}).get("code", code_for_status(answer.status_code))
        if code != code_for_status(answer.status_code):
            return f"{answer.status_code} {code}"
    return str(answer.status_code)


def _place(path: str, status: int) -> str:
    if path == "/accounts/login/":
        return "login"
    if path.startswith("/accounts/") and path.endswith("/reauthenticate/"):
        return "password"
    if path in ("/admin/", "/admin/login/"):
        return "entrance"  # whose own lines tell the rest
    return str(status)


def _is_json(answer: Any) -> bool:
    return str(answer.headers.get("Content-Type", "")).startswith("application/json")


def lines(house: House, routes: list[Route]) -> Iterator[dict[str, str]]:
    """The lines of the file for these routes."""
    for route in routes:
        for method in route.methods:
            yield {"route": route.template, "method": method, **cells(house, route, method)}
