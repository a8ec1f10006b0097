"""How many requests one user token may make in a minute. The database counts, so the limit is exact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from keyvault import clock
from keyvault.api.authentication import UserCredential
from keyvault.services import usage

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


@dataclass(frozen=True)
class RateState:
    """Where a caller stands in this minute; ``reset`` is in whole seconds."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset),
        }


class UserTokenThrottle(BaseThrottle):
    """Counts the request; every answer then carries ``RateLimit-*``."""

    state: RateState | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        credential = request.auth
        if not isinstance(credential, UserCredential):
            return True  # there is nobody to count for; the permission has refused it already
        now = clock.now()
        limit = parse_rate(getattr(settings, "KEYTURN_API_RATE", DEFAULT_RATE))
        count = usage.hit(credential.subject, now=now)
        self.state = RateState(limit, max(0, limit - count), 60 - now.second)
        return count <= limit

    def wait(self) -> float | None:
        return float(self.state.reset) if self.state is not None else None
