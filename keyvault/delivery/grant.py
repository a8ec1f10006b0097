"""Step 2: may this caller do that with this key. Without a grant the key does not exist for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from keyvault.delivery.authenticate import Caller
from keyvault.delivery.cache import View
from keyvault.delivery.records import GrantRecord, KeyRecord
from keyvault.exceptions import denied
from keyvault.models.base import SLUG

_SLUG = re.compile(SLUG)


@dataclass(slots=True, eq=False)
class Permit:
    """A key that this caller has a grant on."""

    caller: Caller
    grant: GrantRecord
    key: KeyRecord

    def demand(self, verb: str) -> None:
        """Raise ``permission_denied`` unless the grant has the verb. The caller knows the key already."""
        if verb not in self.grant.verbs:
            raise denied(f"The grant on this key does not include {verb!r}.")


def find_permit(view: View, caller: Caller, service: str, environment: str) -> Permit | None:
    """The permit; None alike for an unknown key, one without a grant, and one of another environment."""
    token = caller.token
    if environment != token.environment or not _SLUG.fullmatch(service):
        return None
    grant = view.grant(token.consumer_id, token.environment_id, service)
    if grant is None:
        return None
    key = view.key_of(grant)
    return None if key is None else Permit(caller, grant, key)
