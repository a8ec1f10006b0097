"""How many requests one subject made in this minute, counted exactly.

On one host all processes count in a file that they share as memory; with ``KEYTURN_RATE_LIMIT_URL`` all
hosts count in one Redis. ``limiter().hit(subject, now)`` is the whole interface; ``Window`` says what a
count means for a request.
"""

from __future__ import annotations

from keyvault.limits.limiter import Limiter, limiter, subject
from keyvault.limits.window import Window

__all__ = ["Limiter", "Window", "limiter", "subject"]
