"""Which index answers a question: the plans of everything that was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection


class Statements:
    """Collects what is asked, to explain it afterwards."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not many and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", sql) and "VALUES" not in sql:
            self.seen.append((sql, params))
        return execute(sql, params, many, context)


def read_whole(sql: str, params: Any, large: frozenset[str]) -> list[str]:
    """The large tables that this statement reads from end to end, with the line of the plan that says so."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            lines = [row[3] for row in cursor.fetchall()]
            return [line for line in lines if line.startswith("SCAN") and large & set(line.split())]
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        (found,) = cursor.fetchone()
    document = json.loads(found) if isinstance(found, str) else found
    return list(_whole(document[0]["Plan"], large))


def _whole(node: dict[str, Any], large: frozenset[str], *, limited: bool = False) -> Iterator[str]:
    reads = "Relation Name" in node and "Scan" in node["Node Type"]
    searched = "Index Cond" in node or "Recheck Cond" in node or "TID Cond" in node
    # The first row of an index, as for the greatest id, needs no condition.
    searched |= limited and node["Node Type"].startswith("Index")
    if reads and not searched and node["Relation Name"] in large:
        yield f"{node['Node Type']} on {node['Relation Name']}"
    for part in node.get("Plans", ()):
        yield from _whole(part, large, limited=node["Node Type"] == "Limit")


def all_read_whole(ask: Callable[[], object], large: frozenset[str]) -> dict[str, list[str]]:
    """Ask, and explain every statement that touches a large table: those that read one from end to end."""
    statements = Statements()
    with connection.execute_wrapper(statements):
        ask()
    touched = [one for one in statements.seen if any(table in one[0] for table in large)]
    assert touched, "The question does not ask what it is meant to."
    return {sql: whole for sql, params in touched if (whole := read_whole(sql, params, large))}


def prefer_indexes() -> None:
    """Tables of a test are so small that reading them whole is quickest; ask what an index could answer."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
            cursor.execute("SET LOCAL enable_seqscan = off")
