"""Every route of the Django part, in one spelling, with the group in which it is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.contrib import admin
from django.urls import URLResolver, get_resolver
from django.urls.resolvers import RoutePattern
from django.utils.regex_helper import normalize

# The records are looked at through these tables; all others answer alike, which test_records.py holds.
TABLES = frozenset({"keyvault/key", "keyvault/keyversion", "keyvault/auditevent", "rotation/rotation"})
# One path, many meanings: each verb is a line of its own. Words of the console's own pages.
VERBS = {
    "/rotations/{rotation_id}/{verb}/": (
        "approve", "pause", "resume", "advance", "extend", "abort", "confirm-revoked", "force-revoke",
        "emergency", "no-verb",
    ),
    "/emergency/{run_id}/{verb}/": ("stop", "resume", "confirm", "no-verb"),
}  # fmt: skip
GROUPS = {
    "keyvault.api": "api-custody",
    "rotation.api": "api-rotation",
    "keyvault.console": "pages-custody",
    "rotation.console": "pages-rotation",
    "keyvault.project": "project",
}
# Whoever wrote the view, what lies there belongs together.
PLACES = {"/admin/": "records", "/accounts/": "accounts"}
# A page that does more where something was chosen.
CHOSEN = "scope=service&name=photos&mode=replace"
CHOICES = {"/emergency/": CHOSEN}
PAGE_METHODS = ("GET", "POST")
_CONVERTED = re.compile(r"<(?:[a-z_]+:)?([a-z0-9_]+)>")


@dataclass(frozen=True)
class Route:
    template: str  # "/keys/{service}/{environment}/"
    group: str
    methods: tuple[str, ...]

    @property
    def is_api(self) -> bool:
        return self.template.startswith("/v1/")


def _spelt(pattern: Any) -> str:
    """A pattern with its parameters in braces."""
    if isinstance(pattern, RoutePattern):
        return _CONVERTED.sub(r"{\1}", str(pattern))
    text, _ = normalize(pattern.regex.pattern)[0]
    return re.sub(r"%\((\w+)\)s", r"{\1}", text)


def _walk(resolver: URLResolver, prefix: str = "/") -> Iterator[tuple[str, Any]]:
    for entry in resolver.url_patterns:
        template = prefix + _spelt(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _walk(entry, template)
        else:
            yield template, entry.callback


def _group(template: str, callback: Any) -> str:
    for place, group in PLACES.items():
        if template.startswith(place):
            return group
    view = getattr(callback, "view_class", None) or getattr(callback, "cls", None) or callback
    module = view.__module__
    while module not in GROUPS:
        module, dot, _ = module.rpartition(".")
        if not dot:
            raise LookupError(f"{view.__module__} belongs to no group of routes")
    return GROUPS[module]


def _methods(template: str, callback: Any) -> tuple[str, ...]:
    if not template.startswith("/v1/"):
        return PAGE_METHODS
    view = getattr(callback, "cls", None)
    known = ("GET", "POST", "PATCH", "DELETE")
    return tuple(name for name in known if view is None or hasattr(view, name.lower()))


def _is_sampled(template: str) -> bool:
    """False for a table of the records that stands for no other one."""
    parts = template.split("/")
    tables = {f"{model._meta.app_label}/{model._meta.model_name}" for model in admin.site._registry}
    table = "/".join(parts[2:4])
    return parts[1] != "admin" or table not in tables or table in TABLES


def routes() -> list[Route]:
    """All of them, in the order of their templates."""
    found: dict[str, Route] = {}
    for template, callback in _walk(get_resolver()):
        if not _is_sampled(template):
            continue
        for verb in VERBS.get(template, ("{verb}",)):
            spelt = template.replace("{verb}", verb)
            # Of two patterns for one path the first one answers.
            found.setdefault(spelt, Route(spelt, _group(template, callback), _methods(template, callback)))
            if spelt in CHOICES:
                asked = f"{spelt}?{CHOICES[spelt]}"
                found[asked] = replace(found[spelt], template=asked)
    return [found[template] for template in sorted(found)]
