"""What a simulator can be told to do wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

Plane = Literal["data", "manage"]


class FaultError(ValueError):
    """The fault that was asked for does not exist or has the wrong type."""


@dataclass(frozen=True)
class Faults:
    """Every fault, off by default. Times in seconds."""

    reject_keys: tuple[str, ...] = ()  # ids of keys that are refused from now on, though they are live
    timeout: float = 0.0  # hold every request this long, then cut it
    retry_after: int | str | None = None  # answer 429 with this Retry-After (seconds, or a date)
    error_rate: float = 0.0  # share of requests answered with error_status, evenly spread
    error_status: int = 503
    planes: tuple[str, ...] = ("data",)  # where the four above strike: "data", "manage" or both
    lose_create_answers: int = 0  # so many next creates happen, but their answers are lost
    lose_revoke_answers: int = 0  # so many next revokes happen, but their answers are lost
    revoke_delay: float = 0.0  # a revoked key works for so long yet
    issue_delay: float = 0.0  # a new key is refused for so long
    repeats: bool = False  # "create" hands out the newest live key once more
    page_size: int | None = None  # keys on one page of the list; None: all of them
    max_keys: int | None = None  # keys an account may hold, revoked ones aside
    replaces: bool = False  # a new key kills the ones before it
    plan_lapsed: bool = False  # the account has no plan with API access any more
    rate_per_second: float | None = None  # requests per key; None: the provider's own limit

    def merged(self, changes: Mapping[str, object]) -> Self:
        """With these changes. `reject_key_id` adds one id to `reject_keys`. Raises FaultError."""
        known = {item.name: item.type for item in fields(self)}
        values: dict[str, object] = {}
        for name, value in changes.items():
            if name == "reject_key_id" and isinstance(value, str):
                values["reject_keys"] = tuple(dict.fromkeys((*self.reject_keys, value)))
            elif name not in known:
                raise FaultError(f"there is no fault {name!r}")
            else:
                values[name] = _checked(name, value)
        return replace(self, **values)  # type: ignore[arg-type]


def _checked(name: str, value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    whole = number and isinstance(value, int)
    if name in ("reject_keys", "planes"):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif name in ("replaces", "repeats", "plan_lapsed"):
        if isinstance(value, bool):
            return value
    elif name == "retry_after":
        if value is None or whole or isinstance(value, str):
            return value
    elif name in ("error_status", "lose_create_answers", "lose_revoke_answers"):
        if whole:
            return value
    elif name in ("max_keys", "page_size"):
        if value is None or whole:
            return value
    elif number or (name == "rate_per_second" and value is None):
        return value
    raise FaultError(f"the fault {name!r} does not take that value")
