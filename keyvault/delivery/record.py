"""Step 6: the record. Nothing is answered that could not be recorded."""

from __future__ import annotations

from django.db import DatabaseError

from keyvault.delivery.choose import Choice
from keyvault.delivery.grant import Permit
from keyvault.services import usage

WITH_KEY = 200
WITHOUT_KEY = 304


class NotRecorded(Exception):
    """The access could not be written down, so it does not happen."""


def record_answer(permit: Permit, choice: Choice, *, instance: str, status: int, request_id: str) -> None:
    """Write down one answer; durable once the caller's transaction has committed.

    ``status`` is ``WITH_KEY`` or ``WITHOUT_KEY``. Raises ``NotRecorded``.
    """
    try:
        usage.record_delivery(
            key=permit.key,
            version=choice.version,
            token=permit.caller.token,
            instance=instance,
            label=choice.label,
            credential=permit.caller.credential,
            status=status,
            request_id=request_id,
            now=permit.at,
        )
    except DatabaseError as error:
        raise NotRecorded from error
