"""What lists are narrowed by. It stands in the address, so that a list can be sent to somebody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils.http import urlencode

PAGE = 50
LAST_PAGE = 200  # further down nobody reads; a filter is the way

Row = TypeVar("Row", bound=Model)


def chosen(request: HttpRequest, *names: str) -> dict[str, str]:
    """The members of the address with these names, cut to the length of a name."""
    return {name: request.GET.get(name, "").strip()[:127] for name in names}


def narrowed(text: str, *, service: str, environment: str) -> Q:
    """Keys by text: each word a part of the service's name, or ``service/environment``.

    ``service`` and ``environment`` are the paths to the two slugs.
    """
    found = Q()
    for word in text.lower().split()[:8]:  # slugs are in lower case, and so is found what is written there
        name, _, place = word.partition("/")
        found &= Q(**{f"{service}__contains": name})
        if place:
            found &= Q(**{f"{environment}__startswith": place})
    return found


@dataclass(frozen=True)
class Count:
    """How many rows there are; beyond ``most`` not exactly, for that would mean to visit them all."""

    number: int
    most: int

    def __bool__(self) -> bool:
        return self.number > 0

    def __str__(self) -> str:
        return f"{self.number:,}" if self.number <= self.most else f"{self.most:,}+"


def counted(rows: QuerySet[Any], most: int = 1_000) -> Count:
    return Count(rows.order_by().values("pk")[: most + 1].count(), most)


def paged(request: HttpRequest, rows: QuerySet[Row], wanted: Mapping[str, str]) -> tuple[list[Row], Any]:
    """One page of rows, and the addresses of the pages before and after it ("" where there is none)."""
    given = request.GET.get("page", "")
    page = min(int(given), LAST_PAGE) if given.isascii() and given.isdecimal() and given != "0" else 1
    first = (page - 1) * PAGE
    found = list(rows[first : first + PAGE + 1])
    kept: dict[str, str | int] = {name: value for name, value in wanted.items() if value}
    links = {
        "before": urlencode({**kept, "page": page - 1}) if page > 1 else "",
        "after": urlencode({**kept, "page": page + 1}) if len(found) > PAGE and page < LAST_PAGE else "",
    }
    return found[:PAGE], links
