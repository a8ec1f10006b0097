"""``Idempotency-Key`` on POST: the first request works, its twins get the same answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, Protocol, TypeVar, cast

from django.db import transaction
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault import clock
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.services import replies

HEADER: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[!-+\--~]{1,255}")  # printable ASCII; a comma would be a header sent twice
_KEPT_HEADERS: Final = ("ETag", "Location")


class _View(Protocol):
    def before(self, request: Request) -> None: ...

    def handle_exception(self, exc: Exception) -> Response: ...


Method = TypeVar("Method", bound=Callable[..., Response])


def idempotent(method: Method) -> Method:
    """Make a POST method repeatable. Without the header nothing changes.

    Only answers below 500 are kept. A refusal rolls its own work back and is kept as well: trying again
    with the same key gives the same refusal. The method runs in a transaction; what has to ask the network
    first is done by ``before(request)`` of the view, outside of it.
    """

    @wraps(method)
    def wrapper(self: _View, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.META.get(f"HTTP_{HEADER.upper().replace('-', '_')}")
        if key is None:
            self.before(request)
            return method(self, request, *args, **kwargs)
        if not _KEY.fullmatch(key):
            raise invalid(HEADER, "Use 1 to 255 printable ASCII characters without spaces and commas.")
        return _once(self, request, key, lambda: method(self, request, *args, **kwargs))

    wrapper.idempotent = True  # type: ignore[attr-defined]  # a test looks for it on every POST
    return cast(Method, wrapper)


def _once(view: _View, request: Request, key: str, work: Callable[[], Response]) -> Response:
    body = json.dumps(request.data, sort_keys=True, separators=(",", ":"))
    precondition = str(request.META.get("HTTP_IF_MATCH", ""))
    digest = replies.request_digest(str(request.method), request.path, precondition, body)
    held = replies.claim(f"user:{request.user.pk}", key, digest, now=clock.now())
    if isinstance(held, replies.Reply):
        return _replay(held)
    try:
        refused = _refused_before(view, request)
        with transaction.atomic():
            response = refused or _answer(view, work)
            replies.keep(held, response.status_code, _document(response))
    except BaseException:
        replies.release(held)
        raise
    return response


def _refused_before(view: _View, request: Request) -> Response | None:
    try:
        view.before(request)
    except Exception as exc:
        return _refusal(view, exc)
    return None


def _answer(view: _View, work: Callable[[], Response]) -> Response:
    """What the work answers; a refusal is an answer too, after its own changes were rolled back."""
    try:
        with transaction.atomic():
            return work()
    except Exception as exc:
        return _refusal(view, exc)


def _refusal(view: _View, exc: Exception) -> Response:
    """The answer to an exception; what is no refusal is raised again."""
    refused = view.handle_exception(exc)
    if refused.status_code >= 500:
        raise exc
    return refused


def _document(response: Response) -> Secret:
    kept = {name: response[name] for name in _KEPT_HEADERS if response.has_header(name)}
    # Rendered, so that what is kept is exactly what is sent.
    body = json.loads(JSONRenderer().render(response.data) or b"null")
    return Secret(json.dumps({"body": body, "headers": kept}))


def _replay(reply: replies.Reply) -> Response:
    document = json.loads(reply.document.expose())
    headers = {**document["headers"], "Idempotent-Replayed": "true"}
    return Response(document["body"], status=reply.status, headers=headers)
