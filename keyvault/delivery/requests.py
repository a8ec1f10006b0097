"""An ASGI scope becomes a ``Request``: parsed once, checked, frozen.

The front has checked the Host header, and the path and the size of the body as well; those two are checked
here again, because everything behind relies on them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from keyvault.crypto.tokens import looks_like_ours
from keyvault.delivery.credentials import Credential, find_credential
from keyvault.delivery.limit import Tally
from keyvault.delivery.routes import Endpoint, Route
from keyvault.errors import MAX_BODY_BYTES
from keyvault.exceptions import KeyturnError, invalid
from keyvault.strict_json import is_json_type, refuse_unknown

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_MAX_QUERY_BYTES = 4096
_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUERY: Mapping[Endpoint, frozenset[str]] = {
    Endpoint.LIST: frozenset({"cursor", "limit"}),
    Endpoint.KEY: frozenset({"instance", "version", "format"}),
    Endpoint.WATCH: frozenset({"instance", "version", "format", "etag", "timeout"}),
    Endpoint.FORWARD_AUTH: frozenset({"service", "environment"}),
}
_CREDENTIAL_NAMES = frozenset(
    {"access_token", "api_key", "apikey", "auth", "authorization", "key", "secret", "token", "x_api_key"}
)
_HEADERS = frozenset({b"x-api-key", b"authorization", b"if-none-match", b"x-instance-id"})
_SAID = _HEADERS | {b"content-type", b"content-encoding"}
# Endpoints whose body must be a JSON object; the others take none.
_WITH_BODY = frozenset({Endpoint.REPORTS, Endpoint.ACCESS_TOKEN, Endpoint.VERIFY})


class ClientGone(Exception):
    """The caller closed the connection while we were still reading."""


@dataclass(slots=True, eq=False)
class Request:
    """One request, after every check that needs no row. Nobody changes it; freezing it would be slow.

    ``peer`` is the address of the TCP connection, whatever a header claims. ``instance`` is "" where the
    caller named none. ``words`` tells apart whatever may be decided differently (see ``words_of``); b"" where
    it is not worth knowing. ``tally`` counts this request.
    """

    method: str
    route: Route
    request_id: str
    query: Mapping[str, str]
    credential: Credential | None
    instance: str
    if_none_match: str
    peer: str | None
    tally: Tally
    words: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def head(self) -> bool:
        return self.method == "HEAD"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for found, value in scope["headers"]:
        if found == name:
            return str(value.decode("latin-1"))
    return None


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent."""
    return scope.get("raw_path") or str(scope["path"]).encode("utf-8", "surrogateescape")


class Asked(NamedTuple):
    """What is known of a request before it is understood."""

    request_id: str
    tally: Tally
    words: bytes
    body: bytes


def words_of(scope: Scope, body: bytes) -> bytes:
    """A digest of all that a decision can depend on in a request, but for the address of the caller.

    Neither a path nor a header can contain a line break, and the body comes last.
    """
    said = [scope["method"].encode(), raw_path(scope), scope["query_string"]]
    for pair in scope["headers"]:
        if pair[0] in _SAID:
            said += pair
    said.append(body)
    return sha256(b"\n".join(said)).digest()


def parse(scope: Scope, route: Route, asked: Asked) -> Request:
    """Check everything. Raises ``KeyturnError`` with the code of the HTTP contract."""
    query = _parse_query(scope.get("query_string", b""), route.endpoint)
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            headers.setdefault(name, []).append(value)
    client = scope.get("client")
    gateway = route.endpoint is Endpoint.FORWARD_AUTH
    tags = headers.get(b"if-none-match")
    request = Request(
        method=scope["method"],
        route=route,
        request_id=asked.request_id,
        query=query,
        credential=_credential_of_original(headers) if gateway else _credential(headers),
        # The headers of a gateway's request are those of somebody else's.
        instance="" if gateway else _instance(headers.get(b"x-instance-id"), query.get("instance")),
        if_none_match=tags[0].decode("latin-1") if tags else "",
        peer=client[0] if client else None,
        tally=asked.tally,
        words=asked.words,
        body=asked.body,
    )
    if asked.body or (request.method == "POST" and route.endpoint in _WITH_BODY):
        _check_content_type(scope)
    return request


def _credential(headers: Mapping[bytes, Sequence[bytes]]) -> Credential | None:
    return find_credential(headers.get(b"x-api-key", ()), headers.get(b"authorization", ()))


def _credential_of_original(headers: Mapping[bytes, Sequence[bytes]]) -> Credential | None:
    """The credential in the request that a gateway asks about. To a gateway every no is a 401."""
    try:
        return _credential(headers)
    except KeyturnError as error:
        raise KeyturnError("invalid_api_key", error.message) from error


# The same instances ask the same way again and again. A refused query is not kept.
@lru_cache(maxsize=4096)
def _parse_query(raw: bytes, endpoint: Endpoint) -> Mapping[str, str]:
    if not raw:
        return {}
    text = raw.decode("latin-1")
    if looks_like_ours(unquote(text)):
        raise KeyturnError("credential_in_url", "Credentials are not accepted in the URL.")
    try:
        pairs = [] if len(raw) > _MAX_QUERY_BYTES else _pairs(text)
    except ValueError:
        pairs = []
    if not pairs:
        raise KeyturnError("validation_error", "The query is not valid.")
    if any(name.lower().replace("-", "_") in _CREDENTIAL_NAMES for name, _ in pairs):
        raise KeyturnError("credential_in_url", "Credentials are not accepted in the URL.")
    query = dict(pairs)
    refuse_unknown(query, _QUERY.get(endpoint, frozenset()))
    if len(query) != len(pairs):
        raise KeyturnError("validation_error", "A parameter stands twice in the query.")
    return query


def _pairs(text: str) -> list[tuple[str, str]]:
    return parse_qsl(
        text,
        keep_blank_values=True,
        strict_parsing=True,
        encoding="utf-8",
        errors="strict",
        max_num_fields=16,
    )


def check_instance(name: object, field: str = "instance") -> str:
    """A name of an instance. Raises ``validation_error``."""
    if not isinstance(name, str) or not _INSTANCE.fullmatch(name):
        raise invalid(field, "Use 1 to 128 letters, digits and . _ : - for an instance.")
    return name


def _instance(headers: Sequence[bytes] | None, in_query: str | None) -> str:
    if headers is None:
        return "" if in_query is None else check_instance(in_query)
    named = [value.decode("latin-1") for value in headers]
    named += [] if in_query is None else [in_query]
    if len(set(named)) > 1:
        raise invalid("instance", "The request names two instances.")
    return check_instance(named[0])


def _check_content_type(scope: Scope) -> None:
    packed = (header(scope, b"content-encoding") or "identity").strip().lower() != "identity"
    if packed or not is_json_type(header(scope, b"content-type") or ""):
        raise KeyturnError("unsupported_media_type", "Send application/json in UTF-8, not compressed.")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body, at most 64 KiB. Raises ``payload_too_large`` and ``ClientGone``."""
    read: bytes | None = scope.get("body")  # by the front
    if read is not None:
        return read
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise KeyturnError("payload_too_large", "The body is larger than 64 KiB.")
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)
