"""Live parts of a page: the same view answers the whole page, or only its fragment to htmx."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from keyvault.console.access import is_fragment

STOP_POLLING = 286


def live(
    request: HttpRequest, page: str, fragment: str, context: Mapping[str, Any], *, going_on: bool = True
) -> HttpResponse:
    """The page, or the fragment: 304 while it is what the browser shows, 286 (stop asking) when all is over.

    Pages must be the same as long as nothing has changed: distances from now are the browser's work.
    """
    if not is_fragment(request):
        return render(request, page, dict(context))
    response = render(request, fragment, dict(context))
    tag = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    if going_on and request.headers.get("If-None-Match") == tag:
        response = HttpResponse(status=304)
    elif not going_on:
        response.status_code = STOP_POLLING
    response["ETag"] = tag
    return response
