"""Examples are tried here."""

from __future__ import annotations

import tests.examples  # noqa: F401  its profile
