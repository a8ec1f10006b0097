"""What a row of the catalogue is, and what every refusal must look like."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from keyvault import clock
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import OrganisationRole
from keyvault.models import Environment, Key, Provider, Service, User
from keyvault.services import catalogue, people
from rotation import operations
from rotation.facts import OperationState
from rotation.models import Operation
from rotation.services import adding
from tests.api.conftest import Server
from tests.api.delivery.world import World
from tests.api.wire import Reply, exchange, raw

MINT = "/v1/auth/access-token/"
_SHORT = 4  # what is shorter may stand in any text

Header = tuple[str, str]
# It asks. Where it has to set something up first, it yields between the two.
Ask = Callable[["Table"], Iterator[None] | None]


@dataclass(frozen=True)
class Row:
    """One row: its number, what is sent, and what asks it. ``writes``: it succeeds on purpose as well."""

    id: str
    title: str
    ask: Ask
    writes: bool = False

    def run(self, table: Table, before: Callable[[], None]) -> None:
        """Set up, call ``before``, ask."""
        if not inspect.isgeneratorfunction(self.ask):
            before()
            self.ask(table)
            return
        steps = self.ask(table)
        next(steps)
        before()
        for _ in steps:
            raise AssertionError(f"{self.id} sets up once")


ROWS: list[Row] = []


def row(id: str, title: str, *, writes: bool = False) -> Callable[[Ask], Ask]:
    def add(ask: Ask) -> Ask:
        ROWS.append(Row(id, title, ask, writes))
        return ask

    return add


@dataclass
class Table:
    """One consumer, one administrator and the server; counts what was sent."""

    world: World
    admin: str
    counted: int = 0
    names: dict[str, Any] = field(default_factory=dict)

    @property
    def server(self) -> Server:
        return self.world.server

    @property
    def path(self) -> str:
        return self.world.path

    # Asking ------------------------------------------------------------------------------------------

    def anonymous(
        self, method: str, path: str, *headers: Header, body: bytes | None = None, host: str = ""
    ) -> Reply:
        return exchange(self.server.port, method, path, headers, body, host)

    def consumer(self, method: str, path: str, *headers: Header, body: Any = None, host: str = "") -> Reply:
        return self.anonymous(method, path, self.world.auth, *headers, body=_bytes(body), host=host)

    def mint(self, body: Any, *headers: Header) -> Reply:
        return self.consumer("POST", MINT, *headers, body=body)

    def use(self, access_token: str, path: str = "") -> Reply:
        """Ask for the key with an access token."""
        return self.anonymous("GET", path or self.path, ("Authorization", f"AccessToken {access_token}"))

    def person(self, method: str, path: str, body: Any = None, *headers: Header, token: str = "") -> Reply:
        """A management request of the administrator, or of who has this token."""
        auth = ("X-API-Key", token or self.admin)
        return self.anonymous(method, path, auth, *headers, body=_bytes(body))

    def raw(self, text: str | bytes, *, method: str = "GET") -> Reply:
        """A whole request, as it goes over the wire."""
        return raw(
            self.server.port, text if isinstance(text, bytes) else text.encode("latin-1"), method=method
        )

    def lines(self, request_line: str, *headers: str, body: str = "") -> bytes:
        """A whole request of the consumer with these lines in its head."""
        head = (
            request_line,
            f"Host: 127.0.0.1:{self.server.port}",
            f"X-API-Key: {self.world.token}",
            *headers,
        )
        return ("\r\n".join(head) + "\r\n\r\n" + body).encode("latin-1")

    # What must be true -------------------------------------------------------------------------------

    def refused(
        self,
        reply: Reply,
        status: int | tuple[int, ...],
        code: str,
        *,
        sent: str = "",
        fields: Sequence[str] | None = None,
        hint: str = "",
    ) -> dict[str, Any]:
        """The whole envelope, and nothing of what was sent. Returns the error object."""
        self.counted += 1
        told = (sent[:60], reply.status, reply.body[:200])
        assert reply.status in (status if isinstance(status, tuple) else (status,)), told
        error = reply.error
        assert error["code"] == code, told
        assert list(reply.json) == ["error"], told
        assert error["status"] == reply.status, told
        assert error["message"], told
        assert error["request_id"] == reply.headers["x-request-id"], told
        assert reply.headers["content-type"] == "application/json", told
        assert reply.headers["cache-control"] == "no-store", told
        assert ("www-authenticate" in reply.headers) == (reply.status == 401), told
        assert ("retry-after" in reply.headers) == (reply.status in (429, 503)), told
        assert ("allow" in reply.headers) == (reply.status == 405), told
        assert "set-cookie" not in reply.headers, told
        self.not_repeated(reply, sent)
        if fields is not None:
            assert list(error.get("fields", ())) == list(fields), told
        assert hint in error["message"], told
        return error

    def invalid(self, reply: Reply, *fields: str, sent: str = "", code: str = "validation_error") -> None:
        """400, naming these fields."""
        self.refused(reply, 400, code, sent=sent, fields=fields or None)

    def not_repeated(self, reply: Reply, sent: str) -> None:
        text = reply.body.decode("utf-8")
        headers = {name: value for name, value in reply.headers.items() if name != "x-request-id"}
        for form in {sent, sent.strip(), json.dumps(sent)[1:-1], self.world.token, self.admin}:
            if len(form) >= _SHORT:
                assert form not in text, (form[:60], text[:200])
                assert form not in str(headers), form[:60]

    def bare(self, reply: Reply, *statuses: int) -> None:
        """Not HTTP that anybody reads: the server below us answers with a status and no body."""
        self.counted += 1
        assert reply.status in statuses, (reply.status, reply.body[:200])
        assert reply.body == b""

    # Setting up --------------------------------------------------------------------------------------

    def new_key(self, environment: str = "dev") -> Key:
        """A key of provider ``internal`` with an imported version, in a service of its own."""
        now = clock.now()
        service = catalogue.create_service(
            people_system(),
            slug=f"rotating-{uuid.uuid4().hex[:8]}",
            team=self.world.service.team,
            provider=Provider.objects.get(slug="internal"),
            description="",
            now=now,
        )
        place = Environment.objects.get(slug=environment)
        secret = mint(TokenKind.ISSUED, environment)
        return adding.add_key(people_system(), service, place, secret=secret, now=now).key

    def open_rotation(self, policy: str = "standard") -> tuple[str, str]:
        """The path of the key and that of its rotation, whose first operation was carried out."""
        key = self.new_key()
        path = f"/v1/keys/{key.service.slug}/{key.environment.slug}/"
        started = self.person("POST", f"{path}rotations/", {"policy": policy, "reason": "of age"})
        assert started.status == 201, started.body
        work()
        return path, f"/v1/rotations/{started.json['id']}/"

    def another(self) -> Service:
        """A service of another team."""
        from tests.api.delivery.world import build

        return build(self.server).service


def people_system() -> Any:
    from keyvault.actors import SYSTEM

    return SYSTEM


def work() -> None:
    """Carry out every operation that is pending, as a worker would."""
    while operation := Operation.objects.filter(state=OperationState.PENDING).order_by("created_at").first():
        operations.perform(operation.id, clock.now(), ring=lambda _: None)


def new_person(role: OrganisationRole = OrganisationRole.ADMIN) -> str:
    """The token of somebody new."""
    now = clock.now()
    user = User.objects.create(username=f"person-{uuid.uuid4().hex[:8]}", organisation_role=role)
    _, token = people.create_user_token(user, expires_at=now + timedelta(hours=1), now=now)
    return token.expose()


def _bytes(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return json.dumps(body).encode()
