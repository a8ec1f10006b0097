"""In which time zone a person reads times: that of their profile, else their browser's, else UTC."""

from __future__ import annotations

import zoneinfo
from functools import lru_cache

from django.http import HttpRequest

COOKIE = "keyturn_zone"  # set by the script: the name of the browser's zone


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo:
    """A name that is no zone counts as none."""
    for name in (getattr(request.user, "time_zone", ""), request.COOKIES.get(COOKIE, "")):
        if name in _known():
            return zoneinfo.ZoneInfo(name)
    return zoneinfo.ZoneInfo("UTC")
