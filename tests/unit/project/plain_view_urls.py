"""Routes whose views know nothing of our error shape."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.http import require_GET

from keyvault.project import urls


@require_GET
def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a mistake of ours")


def outage(request: HttpRequest) -> HttpResponse:
    raise OperationalError("the server closed the connection")


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


urlpatterns = [
    path("v1/plain/", plain),
    *(
        path(f"{prefix}/{view.__name__}/", view)
        for prefix in ("v1", "pages")
        for view in (crash, outage, forbidden)
    ),
    *urls.urlpatterns,
]
handler400, handler403, handler404, handler500 = (
    urls.handler400,
    urls.handler403,
    urls.handler404,
    urls.handler500,
)
