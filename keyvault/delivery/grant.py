"""Step 2: may this caller do that with this key. Without a grant the key does not exist for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from keyvault import integrity
from keyvault.delivery.authenticate import Caller
from keyvault.exceptions import denied
from keyvault.models import Grant, Key
from keyvault.models.base import SLUG

# What answering needs of the key and its neighbours, in one query.
_TOGETHER = ("service__provider", "environment", "current", "pending", "previous")
_SLUG = re.compile(SLUG)


@dataclass(frozen=True, slots=True)
class Permit:
    """A key that this caller has a grant on."""

    caller: Caller
    grant: Grant
    key: Key
    at: datetime

    def demand(self, verb: str) -> None:
        """Raise ``permission_denied`` unless the grant has the verb. The caller knows the key already."""
        if verb not in self.grant.verbs:
            raise denied(f"The grant on this key does not include {verb!r}.")


def find_permit(caller: Caller, service: str, environment: str, now: datetime) -> Permit | None:
    """The permit; None alike for an unknown key, one without a grant, and one of another environment."""
    if environment != caller.environment or not _SLUG.fullmatch(service):
        return None
    grants = Grant.objects.order_by().filter(
        consumer_id=caller.token.consumer_id,
        environment_id=caller.token.environment_id,
        service__slug=service,
    )
    row = next(iter(grants), None)
    if row is None:
        return None
    integrity.verify(row)
    named = Key.objects.select_related(*_TOGETHER).order_by()
    key = next(iter(named.filter(service_id=row.service_id, environment_id=row.environment_id)), None)
    if key is None:
        return None
    integrity.verify(key)
    return Permit(caller, row, key, now)
