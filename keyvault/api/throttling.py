"""How many requests one user token may make in a minute. Counted exactly, whichever process answers."""

from __future__ import annotations

import re
from typing import Final

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from keyvault import clock
from keyvault.api.authentication import UserCredential
from keyvault.limits import Window, limiter, subject

DEFAULT_RATE: Final = "600/min"
MAX_RATE: Final = 1_000_000
RATE: Final = re.compile(r"(?P<count>[1-9][0-9]{0,6})/min")


def parse_rate(text: object) -> int:
    """``"600/min"`` -> 600. Raises ``ValueError`` for anything else."""
    match = RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["count"]) > MAX_RATE:
        raise ValueError(f"Use a rate such as 600/min, at most {MAX_RATE}/min.")
    return int(match["count"])


def format_rate(per_minute: int) -> str:
    return f"{per_minute}/min"


class UserTokenThrottle(BaseThrottle):
    """Counts the request; every answer then carries the headers of ``window``."""

    window: Window | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        credential = request.auth
        if not isinstance(credential, UserCredential):
            return True  # there is nobody to count for; the permission has refused it already
        now = clock.now()
        limit = parse_rate(getattr(settings, "KEYTURN_API_RATE", DEFAULT_RATE))
        self.window = Window.at(limit, limiter().hit(subject(credential.subject), now), now)
        return not self.window.exceeded

    def wait(self) -> float | None:
        return float(self.window.reset) if self.window is not None else None
