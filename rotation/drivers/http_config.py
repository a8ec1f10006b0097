"""The management API of a provider, declared as data, and what may be wrong with the declaration. Pure.

Every part is optional; what is not declared needs a person:

    {"issue":   {"method": "POST", "path": "/keys", "body": {"name": "{label}"},
                 "secret": "/key", "id": "/id"},
     "list":    {"method": "GET", "path": "/keys", "items": "/keys", "id": "/id", "label": "/name",
                 "last_used": "/last_used_at", "next": "/next_cursor", "cursor": "cursor"},
     "disable": {"method": "POST", "path": "/keys/{id}/disable"},
     "enable":  {"method": "POST", "path": "/keys/{id}/enable"},
     "revoke":  {"method": "DELETE", "path": "/keys/{id}"},
     "idempotency_header": "Idempotency-Key",
     "admin_header": "Authorization", "admin_scheme": "Bearer",
     "quota_codes": ["key_quota_reached"]}

`{label}`, `{id}` and `{environment}` are filled in, and answers are read by JSON Pointer (RFC 6901). A list
that comes in pages names where the cursor of the next page stands (`next`) and the query parameter that takes
it (`cursor`). `last_used` may be left out where the provider does not tell it; what it points at must be in
each key, null for one that was never used. The admin secret is not part of this: it is sealed beside it.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from rotation.drivers.base import (
    METHODS,
    check_headers,
    is_header_name,
    is_header_value,
    is_request_path,
)

CALLS: Final = ("issue", "list", "disable", "enable", "revoke")
OPTIONS: Final = ("idempotency_header", "admin_header", "admin_scheme", "quota_codes")
PICKS: Final[dict[str, tuple[str, ...]]] = {
    "issue": ("secret", "id"),
    "list": ("items", "id", "label"),
    "disable": (),
    "enable": (),
    "revoke": (),
}
PAGING: Final = ("next", "cursor")  # of list, both or neither
OPTIONAL_PICKS: Final[dict[str, tuple[str, ...]]] = {"list": ("last_used",)}
# Which placeholders have a value at that moment; the id is known only once the key exists.
KNOWN: Final[dict[str, frozenset[str]]] = {
    "issue": frozenset({"label", "environment"}),
    "list": frozenset(),
    "disable": frozenset({"id"}),
    "enable": frozenset({"id"}),
    "revoke": frozenset({"id"}),
}
DEFAULT_QUOTA_CODES: Final = (
    "key_quota_reached",
    "quota_reached",
    "quota_exceeded",
    "max_keys_reached",
    "key_limit_reached",
)

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_POINTER = re.compile(r"\A(?:/(?:[^~/]|~[01])*)*\Z")


class PickError(LookupError):
    """A JSON Pointer found nothing."""


def check_config(config: object) -> list[str]:
    """Every problem of a driver configuration, as sentences for its author; none means it can be used."""
    if not isinstance(config, Mapping):
        return ["the driver configuration must be an object"]
    problems = [
        f"unknown field {name!r}" for name in config if name not in (*CALLS, *OPTIONS, "admin_secret")
    ]
    if "admin_secret" in config:
        problems.append("admin_secret must not be stored with the configuration: it is sealed on its own")
    for name in CALLS:
        if name in config:
            problems += _check_call(name, config[name])
    if "disable" in config and "enable" not in config:
        problems.append("disable needs enable: a version is only disabled where that can be undone")
    for name in ("idempotency_header", "admin_header"):
        value = config.get(name)
        if name in config and not (isinstance(value, str) and is_header_name(value)):
            problems.append(f"{name} must be the name of a header")
    scheme = config.get("admin_scheme", "")
    if not (isinstance(scheme, str) and is_header_value(scheme) and " " not in scheme):
        problems.append("admin_scheme must be one word, or empty")
    codes = config.get("quota_codes", [])
    if not (isinstance(codes, list | tuple) and all(isinstance(code, str) and code for code in codes)):
        problems.append("quota_codes must be a list of error codes")
    return problems


def _check_call(name: str, call: object) -> list[str]:
    if not isinstance(call, Mapping):
        return [f"{name} must be an object"]
    paging = PAGING if name == "list" else ()
    optional = OPTIONAL_PICKS.get(name, ())
    known = ("method", "path", "headers", "body", *PICKS[name], *optional, *paging)
    problems = [f"{name}: unknown field {field!r}" for field in call if field not in known]
    if call.get("method") not in METHODS:
        problems.append(f"{name}.method must be an HTTP method in capitals")
    path = call.get("path")
    if not isinstance(path, str) or not is_request_path(_PLACEHOLDER.sub("x", path)):
        problems.append(
            f"{name}.path must begin with one / and hold only printable ASCII, no space, # or backslash"
        )
    problems += check_headers(f"{name}.headers", call.get("headers", {}))
    body, body_problem = parse_body(call.get("body"))
    if body_problem:
        problems.append(f"{name}.body {body_problem}")
    used = _placeholders(path) | _placeholders(body)
    for stranger in sorted(used - KNOWN[name]):
        problems.append(f"{name}: the placeholder {{{stranger}}} has no value there")
    if "id" in KNOWN[name] and "id" not in used:
        problems.append(f"{name} must use {{id}} in its path or body, or it would not say which key")
    problems += _check_paging(call) if paging else []
    for pick in (*PICKS[name], *(pick for pick in optional if pick in call)):
        pointer = call.get(pick)
        whole = pick == "items"  # the list itself may be the whole answer
        if not isinstance(pointer, str) or not _POINTER.match(pointer) or not (pointer or whole):
            problems.append(f"{name}.{pick} must be a JSON Pointer such as /key")
    return problems


def _check_paging(call: Mapping[str, object]) -> list[str]:
    given = [name for name in PAGING if name in call]
    if not given:
        return []
    if len(given) == 1:
        return [f"list: {' and '.join(PAGING)} belong together"]
    pointer, parameter = call["next"], call["cursor"]
    problems = []
    if not (isinstance(pointer, str) and pointer and _POINTER.match(pointer)):
        problems.append("list.next must be a JSON Pointer such as /next_cursor")
    if not (isinstance(parameter, str) and re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", parameter)):
        problems.append("list.cursor must be the name of a query parameter")
    return problems


def parse_body(body: object) -> tuple[object, str | None]:
    """A body template as data, and what is wrong with it: it is given as JSON text, or as the data itself."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None, "must be JSON"
    if body is None or isinstance(body, Mapping | list):
        return body, None
    return None, "must be a JSON object or array"


def _placeholders(template: object) -> set[str]:
    if isinstance(template, str):
        return set(_PLACEHOLDER.findall(template))
    if isinstance(template, Mapping):
        return {found for value in template.values() for found in _placeholders(value)}
    if isinstance(template, list):
        return {found for value in template for found in _placeholders(value)}
    return set()


def fill_path(template: str, values: Mapping[str, str]) -> str:
    """The path, values percent-encoded. Raises ValueError for one that would climb out of its segment."""
    if any(value in ("", ".", "..") for value in values.values()):
        raise ValueError("a placeholder's value cannot stand in a path")
    return _PLACEHOLDER.sub(lambda match: quote(values[match[1]], safe=""), template)


def fill_body(template: object, values: Mapping[str, str]) -> object:
    """The body with placeholders filled inside its texts; a value can never add structure."""
    if isinstance(template, str):
        return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
    if isinstance(template, Mapping):
        return {name: fill_body(value, values) for name, value in template.items()}
    if isinstance(template, list):
        return [fill_body(value, values) for value in template]
    return template


def read_time(value: object) -> datetime | None:
    """A time as an API tells it: ISO 8601 with a zone, or seconds since 1970; None for null.

    Raises ValueError.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError) as error:
            raise ValueError("no time") from error
    if not isinstance(value, str):
        raise ValueError("no time")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment


def pick(data: object, pointer: str) -> object:
    """What a JSON Pointer finds. Raises PickError."""
    for raw in pointer.split("/")[1:]:
        token = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(data, Mapping) and token in data:
            data = data[token]
        elif isinstance(data, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", token) and int(token) < len(data):
            data = data[int(token)]
        else:
            raise PickError(pointer)
    return data
