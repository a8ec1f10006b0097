"""One OpenAPI document for both planes: the consumers' paths join those of the management API."""

from __future__ import annotations

from typing import Any

from keyvault.api.openapi import METHODS, Document
from keyvault.delivery import schema as delivery


def add_consumer_paths(result: Document, **_: Any) -> Document:
    """Consumers' paths are served outside of Django and describe themselves."""
    for section, items in delivery.components().items():
        known = result["components"].setdefault(section, {})
        for name, item in items.items():
            # Both planes speak of some headers; a schema of the same name would be another one.
            if name in known and section != "headers":
                raise ValueError(f"Two descriptions of {section}/{name}")
            known.setdefault(name, item)
    for path, item in delivery.paths().items():
        # The generator goes through path items as if they held operations only.
        shared = item.get("parameters", [])
        for method in METHODS:
            if method in item:
                operation = {**item[method], "parameters": [*shared, *item[method].get("parameters", [])]}
                result["paths"].setdefault(path, {})[method] = operation
    result["paths"] = dict(sorted(result["paths"].items()))
    return result
