"""All routes of the Django part. The delivery paths are answered before Django is entered (asgi.py)."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from keyvault.project import health

urlpatterns: list[URLResolver | URLPattern] = [
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("accounts/", include("keyvault.project.account_urls")),
    path("admin/", admin.site.urls),
    path("v1/", include("keyvault.api.urls")),
    path("v1/", include("rotation.api.urls")),
    path("", include("keyvault.console.urls")),
    path("", include("rotation.console.urls")),
]

handler400 = "keyvault.project.failures.bad_request"
handler403 = "keyvault.project.failures.permission_denied"
handler404 = "keyvault.project.failures.page_not_found"
handler429 = "keyvault.project.failures.too_many_requests"  # asked for by allauth
handler500 = "keyvault.project.failures.server_error"
