"""What every page shows: how much waits for the person who reads it."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from keyvault.console.access import actor_of
from rotation.console.queue import waiting_for


def waiting(request: HttpRequest) -> dict[str, object]:
    """Asked only by a page that shows it."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {}
    return {"approvals_waiting": SimpleLazyObject(lambda: waiting_for(actor_of(request)))}
