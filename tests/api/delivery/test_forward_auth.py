"""ANY /v1/forward-auth/: a gateway asks whether a request may pass"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.integrity import sign
from keyvault.models import KeyVersion, Verification
from keyvault.services import keys
from tests.api.both import of_both
from tests.api.conftest import Server
from tests.api.delivery.expiring import good_at_first
from tests.api.delivery.issued import FORWARD_AUTH, Issued, issue
from tests.api.delivery.world import World
from tests.integration.processes import wait_for

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"]


@pytest.fixture
def issued(installed: Server) -> Issued:
    return issue(installed)


class Test200:
    def test_it_names_the_key_in_headers_and_has_no_body(self, issued: Issued) -> None:
        reply = issued.pass_by()
        assert (reply.status, reply.body) == (200, b"")
        assert {name: text for name, text in reply.headers.items() if name.startswith("x-keyturn")} == {
            "x-keyturn-service": issued.world.service.slug,
            "x-keyturn-environment": "prod",
            "x-keyturn-version": "1",
        }
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["content-length"] == "0"

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("X-API-Key", "{}"),
            ("x-api-key", "{}"),
            ("X-Api-KEY", "{}"),
            ("Authorization", "Bearer {}"),
            ("authorization", "bearer {}"),
            ("Authorization", "Token {}"),
            ("AUTHORIZATION", "TOKEN {}"),
        ],
    )
    def test_where_the_key_may_stand(self, issued: Issued, name: str, form: str) -> None:
        assert issued.pass_by((name, form.format(issued.key))).status == 200

    @pytest.mark.parametrize("method", METHODS)
    def test_whatever_the_method_of_the_original(self, issued: Issued, method: str) -> None:
        reply = issued.pass_by(method=method)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["x-keyturn-version"] == "1"
        assert issued.pass_by(("X-API-Key", "wrong"), method=method).status == 401

    def test_headers_of_the_original_do_not_matter(self, issued: Issued) -> None:
        reply = issued.pass_by(
            ("X-API-Key", issued.key),
            ("X-Instance-Id", "?!{} not a name of ours"),
            ("X-Instance-Id", "another"),
            ("If-None-Match", "*"),
            ("Content-Type", "multipart/form-data"),
            ("Content-Encoding", "br"),
            ("Accept", "nothing/at-all"),
            ("Cookie", "api_key=x"),
            ("X-Request-ID", "\xff?"),
            ("X-Forwarded-For", "10.0.0.1, forged"),
            ("X-Forwarded-Uri", f"/?api_key={issued.key}"),
            ("X-Keyturn-Service", "forged"),
        )
        assert reply.status == 200
        assert reply.headers["x-keyturn-service"] == issued.world.service.slug

    def test_a_body_of_the_original(self, issued: Issued) -> None:
        reply = issued.world.server.send("POST", FORWARD_AUTH, ("X-API-Key", issued.key), body=b"\x00{[")
        assert reply.status == 200

    def test_every_version_that_is_honoured(self, issued: Issued) -> None:
        incoming = issued.offer()
        told = [issued.pass_by(("X-API-Key", key)).headers for key in (issued.key, incoming)]
        assert [headers["x-keyturn-version"] for headers in told] == ["1", "2"]
        issued.world.promote()
        assert issued.pass_by(("X-API-Key", issued.key)).status == 200

    def test_narrowed_to_its_service_and_environment(self, issued: Issued) -> None:
        service = issued.world.service.slug
        for query in (
            f"?service={service}",
            "?environment=prod",
            f"?service={service}&environment=prod",
        ):
            assert issued.pass_by(query=query).status == 200


class Test401:
    def refused(self, issued: Issued, *headers: tuple[str, str], query: str = "") -> str:
        reply = issued.pass_by(*headers, query=query)
        assert reply.status == 401, reply.body
        assert "www-authenticate" in reply.headers
        assert not [name for name in reply.headers if name.startswith("x-keyturn")]
        return reply.code

    def test_no_key(self, issued: Issued) -> None:
        for header in (("Accept", "*/*"), ("X-API-Key", ""), ("X-API-Key", " "), ("Authorization", "Bearer")):
            assert self.refused(issued, header) == "missing_api_key"

    def test_two_keys(self, issued: Issued) -> None:
        key, bearer = ("X-API-Key", issued.key), ("Authorization", f"Bearer {issued.key}")
        for headers in ((key, bearer), (key, key), (bearer, bearer), (key, ("Authorization", "Basic YTpi"))):
            assert self.refused(issued, *headers) == "invalid_api_key"
        assert issued.rows() == []

    @pytest.mark.parametrize("form", ["{}", "Basic {}", "AccessToken {}", "Bearer  {}", "Bearer {} x"])
    def test_another_form(self, issued: Issued, form: str) -> None:
        assert self.refused(issued, ("Authorization", form.format(issued.key))) == "invalid_api_key"

    def test_what_is_none_of_ours(self, issued: Issued, world: World) -> None:
        before = Verification.objects.count()
        for text in (
            mint(TokenKind.ISSUED, "prod").expose(),
            issued.key[:-1],
            issued.key.lower(),
            issued.world.token,
            world.secret,
            "\xff",
            "k" * 8000,
        ):
            assert self.refused(issued, ("X-API-Key", text)) == "invalid_api_key"
        assert Verification.objects.count() == before

    def test_an_access_token(self, issued: Issued) -> None:
        token = issued.world.access_token("*")
        assert self.refused(issued, ("Authorization", f"AccessToken {token}")) == "invalid_api_key"

    @pytest.mark.parametrize(
        ("kill", "code"),
        [
            (lambda issued: issued.world.change(keys.mark_revoked, issued.version()), "revoked"),
            (lambda issued: issued.world.change(keys.mark_disabled, issued.version()), "disabled"),
        ],
        ids=["revoked", "disabled"],
    )
    def test_from_the_commit_on(self, issued: Issued, kill: Callable[[Issued], None], code: str) -> None:
        assert {reply.status for reply in of_both(issued.pass_by)} == {200}
        kill(issued)
        replies = of_both(issued.pass_by)
        assert {(reply.status, reply.code) for reply in replies} == {(401, "invalid_api_key")}
        assert issued.total(code=code) == len(replies)

    def test_expired(self, issued: Issued) -> None:
        def end(seconds: int) -> None:
            version = issued.version()
            version.expires_at = clock.now() + timedelta(seconds=seconds)
            sign(version)
            version.save()

        good_at_first(end, lambda _: issued.pass_by().status == 200)
        wait_for(lambda: issued.pass_by().status == 401, "the key expires")

    def test_narrowed_to_something_else(self, installed: Server, issued: Issued) -> None:
        other = issue(installed)
        for query in (
            f"?service={other.world.service.slug}",
            "?environment=dev",
            f"?service={issued.world.service.slug}&environment=dev",
            "?service=",
            "?environment=",
            "?service=%2A",
        ):
            assert self.refused(issued, query=query) == "invalid_api_key"
        # It was presented for something that it is not for: that is no use of it.
        assert issued.rows() == []


class TestOnlyNoOfTheGateway:
    """To a gateway every other answer is a fault, so only its own configuration can cause one."""

    def test_a_query_that_it_should_not_send(self, issued: Issued) -> None:
        assert issued.pass_by(query="?services=x").code == "unknown_field"
        assert issued.pass_by(query=f"?service={issued.key}").code == "credential_in_url"

    def test_a_large_body_that_it_should_not_send(self, issued: Issued) -> None:
        reply = issued.world.server.send("POST", FORWARD_AUTH, ("X-API-Key", issued.key), body=b"x" * 70_000)
        assert reply.status == 413


class Test503:
    def test_a_row_that_somebody_changed(self, issued: Issued) -> None:
        assert issued.pass_by().status == 200
        KeyVersion.objects.filter(pk=issued.version().pk).update(expires_at=clock.now() + timedelta(days=9))
        replies = of_both(issued.pass_by)
        assert {(reply.status, reply.code) for reply in replies} == {(503, "integrity_error")}
        assert all(reply.headers["retry-after"] for reply in replies)


class TestRecords:
    def test_a_gateway_is_no_consumer(self, issued: Issued) -> None:
        before = clock.now()
        issued.pass_by()
        (row,) = issued.rows()
        assert (row.version_id, row.consumer_id, row.code, row.count) == (
            issued.version().id,
            None,
            "valid",
            1,
        )
        assert before - timedelta(minutes=1) <= row.at <= clock.now()

    def test_many_at_once_lose_none(self, issued: Issued) -> None:
        with ThreadPoolExecutor(32) as pool:
            statuses = set(pool.map(lambda _: issued.pass_by().status, range(320)))
        assert statuses == {200}
        assert issued.total(code="valid", consumer=None) == 320

    def test_the_presented_key_is_in_no_log_and_no_answer(self, issued: Issued) -> None:
        strange = mint(TokenKind.ISSUED, "prod").expose()
        replies = [
            issued.pass_by(),
            issued.pass_by(("X-API-Key", strange)),
            issued.pass_by(("Authorization", f"Basic {issued.key}")),
            issued.pass_by(("X-API-Key", issued.key), ("X-API-Key", strange)),
            issued.pass_by(query=f"?service={issued.key}"),
        ]
        log = issued.world.server.log.read_bytes()
        for key in (issued.key.encode(), strange.encode()):
            assert not [reply for reply in replies if key in reply.body or key in repr(reply).encode()]
            assert key not in log
