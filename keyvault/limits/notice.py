"""A warning that would otherwise be written thousands of times a second."""

from __future__ import annotations

import time
from typing import Final

import structlog

log = structlog.get_logger("keyturn.limits")

PAUSE: Final = 60.0  # seconds


class Notice:
    """Writes one kind of warning at most once a minute in this process."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._silent_until = 0.0

    def warn(self, **fields: object) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + PAUSE
            log.warning(self._event, **fields)
