"""Running the commands of manage.py in this process."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[str, CommandError]:
    """What the command printed before it gave up, and why it did."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue(), caught.value
