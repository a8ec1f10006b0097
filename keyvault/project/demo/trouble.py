"""The one exception of the demo: something did not go as it should, and what to look at."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message tells a person why."""
