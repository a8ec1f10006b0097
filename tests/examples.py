"""How examples of hypothesis are tried, wherever they are: imported by the rooms that have some.

No example has a time of its own: a busy machine may hold up any of them. Nothing is kept between runs.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "keyturn", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("keyturn")
