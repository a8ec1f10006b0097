"""The programs: what they exchange, of which version they are, and what is left when one dies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from keyvault.project import guard
from keyvault.project.celery import app

# Below these a weakness is known that reaches us.
FLOORS: Final[Mapping[str, str]] = {
    "django": "5.2.19",
    "djangorestframework": "3.18.3",
    "cryptography": "50.0.2",
    "pyjwt": "2.15.1",
    "celery": "5.2.2",
    "sqlparse": "0.6.1",
    "psycopg": "3.3.9",
}
_CELERY: Final = ("task_serializer", "result_serializer", "event_serializer")
_JSON_CACHES: Final = frozenset({"keyvault.project.caches.FileCache"})
_JSON_SERIALIZER: Final = "keyvault.project.caches.JSONSerializer"
_ACCEPTED: Final = ("accept_content", "result_accept_content")


def nothing_is_pickled(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{place} may be unpickled: whoever writes there runs code here.",
            hint="Use JSON for tasks and sessions, and keep secrets out of caches.",
            id="keyvault.E005",
        )
        for place in _pickled()
    ]


def _pickled() -> Iterator[str]:
    for name in _CELERY:
        if app.conf[name] != "json":
            yield f"Celery's {name}"
    for name in _ACCEPTED:
        if {str(kind).rpartition("/")[2] for kind in app.conf[name] or ["json"]} != {"json"}:
            yield f"Celery's {name}"
    if not settings.SESSION_SERIALIZER.endswith("JSONSerializer"):
        yield "SESSION_SERIALIZER"
    for name, cache in settings.CACHES.items():
        serializer = str(cache.get("OPTIONS", {}).get("serializer", ""))
        if cache["BACKEND"] not in _JSON_CACHES and serializer != _JSON_SERIALIZER:
            yield f'CACHES["{name}"]'


def versions(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for package, floor in FLOORS.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "0"
        if _numbers(installed) < _numbers(floor):
            found.append(
                Error(
                    f"{package} {installed} has known weaknesses.",
                    hint=f"Install {floor} or later: uv sync --frozen, or the locked requirements.",
                    id="keyvault.E015",
                )
            )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def tasks_survive(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """A worker that dies gives its task back, and holds none that it is not working on."""
    wrong = []
    if not (app.conf.task_acks_late and app.conf.task_reject_on_worker_lost):
        wrong.append("A task is lost with the worker that has taken it.")
    if app.conf.worker_prefetch_multiplier != 1:
        wrong.append("A busy worker keeps tasks from idle ones.")
    return [
        Error(
            text,
            hint="keyvault/project/broker.py sets task_acks_late, task_reject_on_worker_lost and"
            " worker_prefetch_multiplier: take the change back.",
            id="keyvault.E016",
        )
        for text in wrong
    ]


def no_core_files(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Of this process, which begins like the server's: see ``guard.leave_no_core``."""
    if not guard.may_dump_core():
        return []
    return [
        Error(
            "A process that crashes would leave its memory, and the keys in it, in a file.",
            hint="Start it with keyturn or manage.py, or call keyvault.project.guard.leave_no_core() first.",
            id="keyvault.E017",
        )
    ]


def checkpoints_leave(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    if settings.KEYTURN_CHECKPOINTS_TO:
        return []
    return [
        Warning(
            "Signed checkpoints of the audit are kept nowhere outside the database.",
            hint="Set KEYTURN_CHECKPOINTS_TO: until then nobody sees that the end of the chain was cut off.",
            id="keyvault.W018",
        )
    ]
