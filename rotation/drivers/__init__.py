"""Drivers, by the kind of provider they speak to. A new kind is one file here and one line in DRIVERS."""

from importlib import import_module
from typing import Final

from rotation.drivers.base import Driver

DRIVERS: Final[dict[str, str]] = {
    "manual": "rotation.drivers.manual.ManualDriver",
    "http": "rotation.drivers.http.HttpDriver",
    "generated": "rotation.drivers.generated.GeneratedDriver",
}


class UnknownDriver(LookupError):
    """A kind that is not in DRIVERS. There is no fallback."""


def load_driver(kind: str) -> Driver:
    """The driver of that kind. Raises UnknownDriver."""
    try:
        module, _, name = DRIVERS[kind].rpartition(".")
    except KeyError:
        raise UnknownDriver(f"no driver of kind {kind!r}; known: {', '.join(sorted(DRIVERS))}") from None
    driver: Driver = getattr(import_module(module), name)()
    return driver
