"""ISO 8601 durations, the form in which every interface gives and takes spans of time. Pure."""

from __future__ import annotations

import re
from datetime import timedelta

DURATION = re.compile(
    r"P(?:(?P<weeks>[0-9]+)W)?(?:(?P<days>[0-9]+)D)?"
    r"(?:T(?:(?P<hours>[0-9]+)H)?(?:(?P<minutes>[0-9]+)M)?(?:(?P<seconds>[0-9]+(?:\.[0-9]{1,6})?)S)?)?"
)
LONGEST = timedelta(days=3660)


def parse_duration(text: object) -> timedelta:
    """``PT10M`` -> 10 minutes. Raises ``ValueError`` for anything else, also for more than ten years."""
    match = DURATION.fullmatch(text) if isinstance(text, str) else None
    parts = {unit: float(n) for unit, n in match.groupdict().items() if n} if match else {}
    if not parts or str(text).endswith("T"):
        raise ValueError("Use an ISO 8601 duration such as P90D, PT10M or PT30S.")
    if any(amount > 1e8 for amount in parts.values()) or (length := timedelta(**parts)) > LONGEST:
        raise ValueError("This duration is longer than ten years.")
    return length


def format_duration(length: timedelta) -> str:
    """The shortest ISO 8601 form: 90 days -> ``P90D``, 90 seconds -> ``PT1M30S``, none -> ``PT0S``."""
    days, rest = length.days, length - timedelta(days=length.days)
    seconds, hours, minutes = rest.seconds, rest.seconds // 3600, rest.seconds % 3600 // 60
    seconds = seconds % 60
    clock = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if rest.microseconds:
        clock += f"{seconds + rest.microseconds / 1e6:.6f}".rstrip("0") + "S"
    elif seconds:
        clock += f"{seconds}S"
    return "P" + f"{days}D" * bool(days) + (f"T{clock}" if clock else "") if days or clock else "PT0S"
