"""POST /v1/verify/: is a key that we issued good"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.integrity import sign
from keyvault.models import Grant, KeyVersion, Verification
from keyvault.services import consumers, keys
from tests.api.both import of_both
from tests.api.conftest import Server
from tests.api.delivery.expiring import good_at_first
from tests.api.delivery.issued import VERIFY, Issued, issue
from tests.api.delivery.world import World
from tests.api.wire import Reply
from tests.integration.processes import wait_for

NOT_FOUND = {"valid": False, "code": "not_found"}


@pytest.fixture
def issued(installed: Server) -> Issued:
    return issue(installed)


def end(version: KeyVersion, at: datetime) -> None:
    """Give the version an end, as one of our writers would."""
    version.expires_at = at
    sign(version)
    version.save()


def ask(issued: Issued, body: bytes, *headers: tuple[str, str]) -> Reply:
    return issued.world.server.send("POST", VERIFY, issued.world.auth, *headers, body=body)


class Test200Valid:
    def test_the_shape_of_the_contract(self, issued: Issued) -> None:
        reply = issued.verify(issued.key)
        assert reply.status == 200
        assert reply.json == {
            "valid": True,
            "code": "valid",
            "service": issued.world.service.slug,
            "environment": "prod",
            "version": 1,
            "label": "current",
        }
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["ratelimit-limit"] == "100000"
        assert int(reply.headers["ratelimit-remaining"]) < 100_000

    def test_every_label_of_a_rotation(self, issued: Issued) -> None:
        incoming = issued.offer()
        assert issued.verify(incoming).json["label"] == "pending"
        assert issued.verify(issued.key).json["label"] == "current"
        issued.world.promote()
        told = issued.verify(issued.key).json
        assert (told["valid"], told["version"], told["label"]) == (True, 1, "previous")
        told = issued.verify(incoming).json
        assert (told["valid"], told["version"], told["label"]) == (True, 2, "current")

    def test_a_version_without_a_label_is_good_until_it_is_revoked(self, issued: Issued) -> None:
        issued.offer()
        issued.world.promote()
        issued.world.change(keys.retire_previous)
        told = issued.verify(issued.key).json
        assert (told["valid"], told["label"]) == (True, None)

    def test_one_that_ends_later(self, issued: Issued) -> None:
        end(issued.version(), clock.now() + timedelta(hours=1))
        assert issued.code() == "valid"

    @pytest.mark.parametrize("paths", [[VERIFY], ["*"], ["/v1/*"]])
    def test_an_access_token_of_a_caller_who_may(self, issued: Issued, paths: list[str]) -> None:
        token = issued.world.access_token(*paths)
        assert issued.verify(issued.key, ("Authorization", f"AccessToken {token}")).json["valid"] is True


class Test200Dead:
    def test_disabled_and_enabled_again(self, issued: Issued) -> None:
        issued.world.change(keys.mark_disabled, issued.version())
        assert issued.verify(issued.key).json == {"valid": False, "code": "disabled"}
        issued.world.change(keys.mark_enabled, issued.version())
        assert issued.code() == "valid"

    def test_revoked_and_destroyed_look_the_same(self, issued: Issued) -> None:
        issued.world.change(keys.mark_revoked, issued.version())
        assert issued.verify(issued.key).json == {"valid": False, "code": "revoked"}
        issued.world.change(keys.mark_destroyed, issued.version())
        assert issued.verify(issued.key).json == {"valid": False, "code": "revoked"}

    def test_expired(self, issued: Issued) -> None:
        end(issued.version(), clock.now() - timedelta(seconds=1))
        assert issued.verify(issued.key).json == {"valid": False, "code": "expired"}

    def test_one_that_expires_while_it_is_known(self, issued: Issued) -> None:
        good_at_first(
            lambda seconds: end(issued.version(), clock.now() + timedelta(seconds=seconds)),
            lambda _: issued.code() == "valid",
        )
        wait_for(lambda: issued.code() == "expired", "the key expires")

    def test_a_revoked_one_does_not_become_expired(self, issued: Issued) -> None:
        end(issued.version(), clock.now() - timedelta(seconds=1))
        issued.world.change(keys.mark_revoked, issued.version())
        assert issued.code() == "revoked"


class Test200NotFound:
    @pytest.mark.parametrize(
        "spell",
        [
            lambda key: mint(TokenKind.ISSUED, "prod").expose(),
            lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"),
            lambda key: f" {key}",
            lambda key: f"{key}\n",
            lambda key: key.upper(),
            lambda key: f"Bearer {key}",
            lambda key: "not-a-key",
            lambda key: "\ud800",
            lambda key: "ключ",
            lambda key: "k" * 60_000,
        ],
        ids=["unknown", "typo", "space", "line", "upper", "scheme", "text", "surrogate", "cyrillic", "long"],
    )
    def test_what_is_none_of_ours(self, issued: Issued, spell: Callable[[str], str]) -> None:
        before = Verification.objects.count()
        reply = issued.verify(spell(issued.key))
        assert (reply.status, reply.json) == (200, NOT_FOUND)
        assert Verification.objects.count() == before

    def test_a_key_of_another_environment(self, installed: Server, issued: Issued) -> None:
        elsewhere = issue(installed, environment="dev")
        consumers.set_grant(
            SYSTEM,
            issued.world.consumer,
            elsewhere.world.service,
            elsewhere.world.environment,
            verbs=["verify"],
            now=clock.now(),
        )
        assert issued.verify(elsewhere.key).json == NOT_FOUND
        assert elsewhere.rows() == []

    def test_a_key_that_the_caller_has_no_grant_on(self, installed: Server, issued: Issued) -> None:
        stranger = issue(installed)
        assert issued.verify(stranger.key).json == NOT_FOUND
        assert stranger.rows() == []

    def test_an_imported_secret_of_another_provider(self, make: Callable[..., World]) -> None:
        world = make(verbs=["read", "verify"])
        assert Issued(world, world.secret).verify(world.secret).json == NOT_FOUND

    def test_the_callers_own_token(self, issued: Issued) -> None:
        assert issued.verify(issued.world.token).json == NOT_FOUND


class TestAtOnce:
    """What is committed is true for the very next request, whichever process takes it."""

    def codes(self, issued: Issued, key: str = "") -> set[str]:
        return {reply.json["code"] for reply in of_both(lambda: issued.verify(key or issued.key))}

    def statuses(self, issued: Issued, key: str) -> set[int]:
        return {reply.status for reply in of_both(lambda: issued.verify(key))}

    def test_disabled_enabled_revoked(self, issued: Issued) -> None:
        assert self.codes(issued) == {"valid"}
        issued.world.change(keys.mark_disabled, issued.version())
        assert self.codes(issued) == {"disabled"}
        issued.world.change(keys.mark_enabled, issued.version())
        assert self.codes(issued) == {"valid"}
        issued.world.change(keys.mark_revoked, issued.version())
        assert self.codes(issued) == {"revoked"}

    def test_a_key_that_was_unknown_a_moment_ago(self, installed: Server) -> None:
        issued = issue(installed)
        issued.world.change(keys.mark_revoked, issued.version())
        secret = mint(TokenKind.ISSUED, "prod")
        assert self.codes(issued, secret.expose()) == {"not_found"}
        keys.import_first(SYSTEM, issued.world.key, secret, now=clock.now())
        assert self.codes(issued, secret.expose()) == {"valid"}

    def test_a_grant_that_comes_and_goes(self, installed: Server, issued: Issued) -> None:
        other = issue(installed)
        assert self.codes(issued, other.key) == {"not_found"}
        grant = consumers.set_grant(
            SYSTEM,
            issued.world.consumer,
            other.world.service,
            other.world.environment,
            verbs=["verify"],
            now=clock.now(),
        )
        assert self.codes(issued, other.key) == {"valid"}
        consumers.remove_grant(SYSTEM, Grant.objects.get(pk=grant.pk), now=clock.now())
        assert self.codes(issued, other.key) == {"not_found"}

    def test_the_last_grant_with_the_verb(self, issued: Issued) -> None:
        unknown = mint(TokenKind.ISSUED, "prod").expose()
        assert self.statuses(issued, unknown) == {200}
        issued.world.grant(["read"])
        assert self.statuses(issued, unknown) == {403}
        assert self.statuses(issued, issued.key) == {403}


class TestRecords:
    def test_every_verification_of_a_key_of_ours(self, issued: Issued) -> None:
        before = clock.now()
        issued.code()
        issued.code()
        issued.world.change(keys.mark_disabled, issued.version())
        issued.code()
        rows = issued.rows()
        assert [(row.version_id, row.consumer_id, row.code, row.count) for row in rows] == [
            (issued.version().id, issued.world.consumer.id, "valid", 1),
            (issued.version().id, issued.world.consumer.id, "valid", 1),
            (issued.version().id, issued.world.consumer.id, "disabled", 1),
        ]
        assert all(before - timedelta(minutes=1) <= row.at <= clock.now() for row in rows)

    def test_the_version_that_was_presented(self, issued: Issued) -> None:
        incoming = issued.offer()
        issued.code(incoming)
        assert [row.version_id for row in issued.rows()] == [issued.version(2).id]

    def test_many_at_once_lose_none(self, issued: Issued) -> None:
        with ThreadPoolExecutor(16) as pool:
            codes = list(pool.map(lambda _: issued.code(), range(160)))
        assert codes == ["valid"] * 160
        assert issued.total(code="valid", consumer=issued.world.consumer) == 160

    def test_a_refused_caller_leaves_none(self, issued: Issued) -> None:
        issued.verify(issued.key, ("X-API-Key", mint(TokenKind.CONSUMER, "prod").expose()))
        issued.world.grant(["read"])
        issued.verify(issued.key)
        assert issued.rows() == []


class TestSecrecy:
    def test_the_presented_key_is_in_no_log_and_no_answer(self, issued: Issued) -> None:
        strange = mint(TokenKind.ISSUED, "prod").expose()
        bodies = [
            *(issued.verify(key).body for key in (issued.key, strange)),
            ask(issued, json.dumps({"key": issued.key, strange: 1}).encode()).body,
            ask(issued, json.dumps({"key": [issued.key]}).encode()).body,
            ask(issued, issued.key.encode()).body,
            issued.world.send("POST", f"{VERIFY}?x={issued.key}", body=b"{}").body,
        ]
        issued.world.grant(["read"])
        bodies.append(issued.verify(issued.key).body)
        log = issued.world.server.log.read_bytes()
        for key in (issued.key.encode(), strange.encode()):
            assert not [body for body in bodies if key in body]
            assert key not in log
            assert key[9:-6] not in log  # nor a part of it


class Test400:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "validation_error"),
            (b"{", "malformed_json"),
            (b'{"key": "a", "key": "b"}', "malformed_json"),
            (b'{"key": "\xff"}', "malformed_json"),
            (b"[]", "validation_error"),
            (b'"ktk_x"', "validation_error"),
            (b"null", "validation_error"),
            (b"{}", "validation_error"),
            (b'{"key": ""}', "validation_error"),
            (b'{"key": null}', "validation_error"),
            (b'{"key": 1}', "validation_error"),
            (b'{"key": true}', "validation_error"),
            (b'{"key": ["a"]}', "validation_error"),
            (b'{"key": {"a": "b"}}', "validation_error"),
            (b'{"key": "a", "service": "b"}', "unknown_field"),
            (b'{"Key": "a"}', "unknown_field"),
        ],
        ids=lambda value: repr(value) if isinstance(value, bytes) else "",
    )
    def test_bad_bodies(self, issued: Issued, body: bytes, code: str) -> None:
        reply = ask(issued, body)
        assert (reply.status, reply.code) == (400, code)

    def test_the_key_in_the_query(self, issued: Issued) -> None:
        for query in (f"?key={issued.key}", "?key=x", f"?x={issued.key}"):
            reply = issued.world.send("POST", VERIFY + query, body=b"{}")
            assert (reply.status, reply.code) == (400, "credential_in_url")

    def test_a_query(self, issued: Issued) -> None:
        assert issued.world.send("POST", f"{VERIFY}?service=x", body=b"{}").code == "unknown_field"

    def test_two_credentials(self, issued: Issued) -> None:
        bearer = ("Authorization", f"Bearer {issued.world.token}")
        assert issued.verify(issued.key, issued.world.auth, bearer).code == "ambiguous_credentials"


class Test401:
    def test_no_credential(self, issued: Issued) -> None:
        reply = issued.world.server.send("POST", VERIFY, body=b'{"key": "x"}')
        assert (reply.status, reply.code) == (401, "missing_api_key")
        assert "www-authenticate" in reply.headers

    def test_the_key_itself_is_no_credential(self, issued: Issued) -> None:
        assert issued.verify(issued.key, ("X-API-Key", issued.key)).code == "invalid_api_key"

    def test_a_revoked_caller(self, issued: Issued) -> None:
        assert issued.code() == "valid"
        consumers.revoke_token(SYSTEM, issued.world.token_row, now=clock.now())
        replies = of_both(lambda: issued.verify(issued.key))
        assert {reply.code for reply in replies} == {"invalid_api_key"}

    def test_an_access_token_for_other_paths(self, issued: Issued) -> None:
        token = issued.world.access_token("/v1/keys/*")
        reply = issued.verify(issued.key, ("Authorization", f"AccessToken {token}"))
        assert (reply.status, reply.code) == (401, "path_not_allowed")


class Test403:
    def test_a_grant_on_this_key_without_the_verb(self, issued: Issued) -> None:
        issued.world.grant(["read", "versions", "report"])
        reply = issued.verify(issued.key)
        assert (reply.status, reply.code) == (403, "permission_denied")

    def test_a_caller_who_may_verify_nothing_learns_nothing(
        self, issued: Issued, make: Callable[..., World]
    ) -> None:
        world = make()
        for key in (issued.key, mint(TokenKind.ISSUED, "prod").expose(), "text"):
            reply = Issued(world, "").verify(key)
            assert (reply.status, reply.code) == (403, "permission_denied")
            assert "No grant of this consumer" in reply.error["message"]

    def test_the_verb_in_another_environment_is_not_enough(self, installed: Server) -> None:
        elsewhere = issue(installed, environment="dev")
        issued = issue(installed)
        _, token = consumers.create_token(
            SYSTEM, issued.world.consumer, elsewhere.world.environment, expires_at=None, now=clock.now()
        )
        reply = issued.verify(issued.key, ("X-API-Key", token.expose()))
        assert (reply.status, reply.code) == (403, "permission_denied")


class Test405:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
    def test_other_methods(self, issued: Issued, method: str) -> None:
        reply = issued.world.send(method, VERIFY)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


class Test413:
    def test_a_long_body(self, issued: Issued) -> None:
        reply = ask(issued, json.dumps({"key": "k" * 70_000}).encode())
        assert (reply.status, reply.code) == (413, "payload_too_large")


class Test415:
    def test_a_form(self, issued: Issued) -> None:
        reply = ask(issued, b"key=x", ("Content-Type", "application/x-www-form-urlencoded"))
        assert (reply.status, reply.code) == (415, "unsupported_media_type")


class Test429:
    def test_the_callers_own_limit(self, installed: Server) -> None:
        issued = issue(installed, rate=3)
        replies = [issued.verify(issued.key) for _ in range(8)]
        refused = [reply for reply in replies if reply.status == 429]
        # A minute may end among them.
        assert len(refused) >= 2
        assert {reply.code for reply in refused} == {"rate_limited"}
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        assert issued.total() == len(replies) - len(refused)


class Test503:
    def test_a_row_that_somebody_changed(self, issued: Issued) -> None:
        assert issued.code() == "valid"
        KeyVersion.objects.filter(pk=issued.version().pk).update(expires_at=clock.now() + timedelta(days=9))
        replies = of_both(lambda: issued.verify(issued.key))
        assert {(reply.status, reply.code) for reply in replies} == {(503, "integrity_error")}
