"""The one way out: every call to a provider, a webhook or a chat goes through `request`.

A URL comes from a person or a database row, so it is treated as hostile:

1. It is parsed once, by one strict pattern, and the parts are used as parsed; no second parser may disagree.
2. https on 443 or 8443. An explicit development list of "host:port" may use plain http, any port, any
   address.
3. The name is resolved once, every answer must be a public address, and the connection goes to an address
   that was checked. TLS still verifies the name.
4. No redirects, no proxy or credentials from the environment, no cookies, no decompression.
5. One deadline for name look-up, connection, handshake and answer together; an answer of 1 MiB at most.
"""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httpcore

from keyvault.crypto.secret import Secret

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

MAX_URL: Final = 2_048
MAX_ANSWER: Final = 1_048_576
TOTAL_SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 5.0  # for one address, so that a dead one leaves time for the next
LOOK_UP_SECONDS: Final = 2.0  # somebody waits for a page
PORTS: Final = frozenset({443, 8443})

_SCHEME = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*):")
_URL = re.compile(
    r"\A(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!-~]*)?\Z"
)
_LABEL = re.compile(r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_FIELD_NAME = re.compile(r"\A[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")
_FIELD_VALUE = re.compile(r"\A(?:[!-~](?:[ -~]*[!-~])?)?\Z")

# Names that only ever mean this machine, this network or a cloud's metadata service.
_LOCAL_SUFFIXES: Final = (
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "corp",
    "home",
)

# ipaddress.is_global of Python 3.11 calls some of these public: translation and tunnel prefixes carry a
# private IPv4 address inside, the others are cloud services or reserved.
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16",
        "fc00::/7", "fd00:ec2::/32", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip


class EgressError(Exception):
    """A call that gave no answer. `code` and `message` are safe to show; neither holds a header or a body."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class EgressRefused(EgressError):
    """Not allowed (url_scheme, url_invalid, url_forbidden_host, header_invalid); nothing was sent."""


class EgressConnectError(EgressError):
    """No usable connection (dns, connect, connect_timeout, tls); the request was not sent."""


class EgressTimeout(EgressError):
    """The request was sent, at least in part, and the answer did not end in time."""


class EgressInterrupted(EgressError):
    """The request was sent, at least in part, and the answer was cut, malformed or too large."""


@dataclass(frozen=True)
class EgressResponse:
    """An answer: header names in lower case, a body of at most 1 MiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Target:
    """A URL after its only parse. `allowed` means that it is on the development list."""

    scheme: str
    host: str
    port: int
    target: str
    allowed: bool


def parse_url(
    url: str, *, allow_hosts: frozenset[str] = frozenset(), ports: frozenset[int] = PORTS
) -> Target:
    """Parse and judge a URL without asking the network. Raises EgressRefused.

    Forms may call it before they save an address; `request` always calls it again.
    """
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() not in ("http", "https"):
        raise EgressRefused("url_scheme", "the address must begin with https://")
    authority = re.split(r"[/?#\\]", url.partition("://")[2], maxsplit=1)[0]
    if not authority.isascii():
        raise EgressRefused("url_forbidden_host", "the host must be written in ASCII")
    match = _URL.match(url) if len(url) <= MAX_URL and "\\" not in url and "#" not in url else None
    if match is None:
        raise EgressRefused("url_invalid", "the address is not a plain https URL")
    host = match["host"].lower()
    port = int(match["port"] or (443 if match["scheme"] == "https" else 80))
    target = match["target"] or "/"
    parsed = Target(
        scheme=match["scheme"],
        host=host.strip("[]"),
        port=port,
        target=target if target.startswith("/") else f"/{target}",
        allowed=f"{host}:{port}" in allow_hosts,
    )
    if not 1 <= port <= 65_535:
        raise EgressRefused("url_invalid", "the port does not exist")
    if parsed.allowed:
        return parsed
    if parsed.scheme != "https":
        raise EgressRefused("url_scheme", "the address must begin with https://")
    _check_host(host)
    if port not in ports:
        raise EgressRefused("url_invalid", "only the ports 443 and 8443 may be called")
    return parsed


def _check_host(host: str) -> None:
    address = _literal(host)
    if address is not None:
        if not is_public(address):
            raise EgressRefused("url_forbidden_host", "the address is not on the public internet")
        return
    labels = host.split(".")
    # A last label of digits, or 0x..., makes C libraries read the whole name as a number: 127.1, 0x7f.1,
    # 2130706433.
    numeric = labels[-1][:1].isdigit()
    local = any(host == suffix or host.endswith(f".{suffix}") for suffix in _LOCAL_SUFFIXES)
    if len(labels) < 2 or numeric or local or not all(_LABEL.match(label) for label in labels):
        raise EgressRefused("url_forbidden_host", "the host is not a public name")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """May we connect there? An IPv4 address mapped into IPv6 is judged as the IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Every address of a name, as the operating system knows it. Raises OSError."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def look_up(
    url: str,
    *,
    allow_hosts: frozenset[str] = frozenset(),
    timeout: float = LOOK_UP_SECONDS,
    resolver: Resolver = system_resolver,
) -> None:
    """Ask where the name of a URL leads, for whoever is about to save it. Nothing is connected to.

    `request` asks again and believes nothing of this: names change. Raises EgressRefused, also where one
    answer is not public, and EgressConnectError (dns) where the name has no address or nobody can tell.
    """
    target = parse_url(url, allow_hosts=allow_hosts)
    if not target.allowed:
        _addresses(target, resolver, time.monotonic() + timeout)


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str | Secret],
    content: bytes | None = None,
    allow_hosts: frozenset[str] = frozenset(),
    timeout: float = TOTAL_SECONDS,
    ports: frozenset[int] = PORTS,
    resolver: Resolver = system_resolver,
) -> EgressResponse:
    """Send one request and return its answer, whatever the status. `timeout`: seconds for all of it.

    A header value may be a Secret, so that no caller has to hold it as text. Raises EgressRefused,
    EgressConnectError (both: nothing was sent), EgressTimeout, EgressInterrupted (both: it may have been
    carried out).
    """
    deadline = time.monotonic() + timeout
    target = parse_url(url, allow_hosts=allow_hosts, ports=ports)
    fields = _fields(target, headers, content)
    backend = _PinnedBackend(_addresses(target, resolver, deadline), deadline)
    url_parts = httpcore.URL(
        scheme=target.scheme.encode(),
        host=target.host.encode(),
        port=target.port,
        target=target.target.encode(),
    )
    failure: EgressError
    # The errors below are turned into values and raised outside: an exception chained to one from the HTTP
    # library would carry frames, and with them the credentials, to whatever prints tracebacks.
    try:
        with httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend, http2=False) as pool:
            left = max(0.001, deadline - time.monotonic())
            limits = dict.fromkeys(("connect", "read", "write", "pool"), left)
            with pool.stream(
                method, url_parts, headers=fields, content=content, extensions={"timeout": limits}
            ) as answer:
                body = _read(answer.iter_stream())
                if body is not None:
                    return EgressResponse(answer.status, _joined(answer.headers), body)
                failure = EgressInterrupted("answer_too_large", "the answer was larger than 1 MiB")
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        failure = _failure(error, expired=backend.expired)
    finally:
        backend.release()
    raise failure


def _fields(
    target: Target, headers: Mapping[str, str | Secret], content: bytes | None
) -> list[tuple[bytes, bytes]]:
    host = f"[{target.host}]" if ":" in target.host else target.host
    standard = 443 if target.scheme == "https" else 80
    fields = {
        "host": (b"Host", (host if target.port == standard else f"{host}:{target.port}").encode()),
        "user-agent": (b"User-Agent", b"keyturn"),
        "accept": (b"Accept", b"application/json, */*;q=0.5"),
        "accept-encoding": (b"Accept-Encoding", b"identity"),
        "connection": (b"Connection", b"close"),
    }
    if content is not None:
        fields["content-length"] = (b"Content-Length", str(len(content)).encode())
    for name, value in headers.items():
        text = value.expose() if isinstance(value, Secret) else value
        reserved = name.lower() in ("host", "content-length", "transfer-encoding", "connection")
        if reserved or not _FIELD_NAME.match(name) or not _FIELD_VALUE.match(text):
            raise EgressRefused("header_invalid", "a header cannot be sent as it is")
        fields[name.lower()] = (name.encode(), text.encode())
    return list(fields.values())


def _addresses(target: Target, resolver: Resolver, deadline: float) -> list[str]:
    if _literal(target.host) is not None:
        return [target.host]
    answers = _resolve_in_time(target, resolver, deadline)
    if not target.allowed:
        for answer in answers:
            address = _literal(answer.partition("%")[0])
            if address is None or not is_public(address):
                raise EgressRefused("url_forbidden_host", "the name leads to an address that is not public")
    if not answers:
        raise EgressConnectError("dns", "the name has no address")
    return answers


def _resolve_in_time(target: Target, resolver: Resolver, deadline: float) -> list[str]:
    """The system's resolver knows no deadline, so it works in a thread that we stop waiting for."""
    answers: list[str] = []
    failed = threading.Event()

    def look_up() -> None:
        try:
            answers.extend(resolver(target.host, target.port))
        except (OSError, UnicodeError):
            failed.set()

    thread = threading.Thread(target=look_up, name="egress-dns", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise EgressConnectError("dns", "the name was not resolved in time")
    if failed.is_set():
        raise EgressConnectError("dns", "the name could not be resolved")
    return answers


class _PinnedBackend(httpcore.SyncBackend):
    """Connects to the addresses that were checked, whatever the name, and cuts at the deadline.

    Time limits of sockets are per operation: an answer that drips a byte a second never meets one. Hence
    the timer. It shuts down a duplicate of the socket, because TLS takes the original one over in the
    middle.
    """

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        self.expired = False
        self._addresses = addresses
        self._deadline = deadline
        self._watched: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectTimeout("no time left")
        for address in self._addresses:
            left = self._deadline - time.monotonic()
            if left <= 0:
                break
            try:
                stream = super().connect_tcp(
                    address, port, min(left, CONNECT_SECONDS), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            self._watch(stream)
            return stream
        raise failure

    def _watch(self, stream: httpcore.NetworkStream) -> None:
        self._watched = stream.get_extra_info("socket").dup()
        self._timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _cut(self) -> None:
        self.expired = True
        watched = self._watched
        if watched is not None:
            # An OSError means that the other side was faster, and the reader already knows.
            with suppress(OSError):
                watched.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Stop the timer and close the duplicate."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._watched is not None:
            self._watched.close()


def _read(chunks: Iterable[bytes]) -> bytes | None:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_ANSWER:
            return None
    return bytes(body)


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _failure(error: Exception, *, expired: bool) -> EgressError:
    if isinstance(error, httpcore.ConnectTimeout) or (expired and isinstance(error, httpcore.ConnectError)):
        return EgressConnectError("connect_timeout", "no connection was made in time")
    if isinstance(error, httpcore.ConnectError):
        # The library hands the cause over as the argument, and drops it as the cause.
        if error.args and isinstance(error.args[0], ssl.SSLError):
            return EgressConnectError("tls", "the TLS handshake or the certificate failed")
        return EgressConnectError("connect", "the connection was refused or the host is unreachable")
    if expired or isinstance(error, httpcore.TimeoutException):
        return EgressTimeout("timeout", "the answer did not come in time")
    return EgressInterrupted("cut", "the connection broke or the answer was malformed")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Loading the certificate store takes longer than a request, so it is done once.
    return httpcore.default_ssl_context()
