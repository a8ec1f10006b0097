"""The site of Django's admin: our tables only, for superusers only, through the console's own entrance."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme


class Records(AdminSite):
    """Where rows are looked at. Signing in, signing out and passwords belong to the console's accounts."""

    site_header = site_title = "Keyturn records"

    def has_permission(self, request: HttpRequest) -> bool:
        return request.user.is_active and request.user.is_superuser

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """On to the page that asked, or to the console's sign-in. 403 for anybody else who is signed in."""
        wanted = request.GET.get("next", "")
        if not url_has_allowed_host_and_scheme(wanted, allowed_hosts=None):
            wanted = "/admin/"
        if self.has_permission(request):
            return redirect(wanted)
        if request.user.is_authenticated:
            raise PermissionDenied("The records are for superusers only.")
        return redirect_to_login(wanted)

    def logout(  # type: ignore[override]  # Django's own may redirect as well
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # 307: the form of the admin's header signs out there with its own token.
        return redirect("account_logout", preserve_request=True)

    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return redirect("account_change_password")
