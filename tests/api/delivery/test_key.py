"""GET and HEAD /v1/keys/{service}/{environment}/"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.delivery.answer import always
from keyvault.integrity import sign
from keyvault.models import ConsumerToken, Grant, Key
from keyvault.services import consumers, keys, people, usage
from tests.api.delivery.outage import allow_deliveries, forbid_deliveries
from tests.api.delivery.world import World

Make = Callable[..., World]


class Test200:
    def test_the_shape_of_the_contract(self, world: World) -> None:
        reply = world.get()
        assert reply.status == 200
        assert reply.json == {
            "service": world.service.slug,
            "environment": "prod",
            "version": 1,
            "label": "current",
            "key": world.secret,
            "fingerprint": world.version(1).short_fingerprint,
            "provider": "backgrounderase",
            "auth": {
                "header": world.service.provider.auth_header,
                "scheme": world.service.provider.auth_scheme,
                "base_url": world.service.provider.base_url,
            },
            "weight": None,
            "refresh_after": 300,
            "expires_at": None,
        }
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["cache-control"] == "no-store"
        assert len(reply.headers["x-request-id"]) >= 8

    @pytest.mark.parametrize(
        "header",
        [
            ("X-API-Key", "{}"),
            ("x-api-KEY", "{}"),
            ("Authorization", "Bearer {}"),
            ("Authorization", "token {}"),
        ],
    )
    def test_each_way_to_present_the_token(self, world: World, header: tuple[str, str]) -> None:
        reply = world.server.send("GET", world.path, (header[0], header[1].format(world.token)))
        assert reply.status == 200

    def test_a_good_request_id_is_kept_and_another_replaced(self, world: World) -> None:
        assert world.get("", ("X-Request-ID", "job-12345678")).headers["x-request-id"] == "job-12345678"
        assert world.get("", ("X-Request-ID", "bad id!")).headers["x-request-id"] != "bad id!"

    def test_raw_is_the_bare_key(self, world: World) -> None:
        reply = world.get("?format=raw")
        assert reply.body == world.secret.encode()
        assert reply.headers["content-type"].startswith("text/plain")
        assert "etag" in reply.headers

    def test_env_lines_are_read_by_a_shell(self, make: Make) -> None:
        world = make(imported=False)
        awkward = "pa'ss$(id)`x`\\w"
        keys.import_first(SYSTEM, world.key, Secret(awkward), now=clock.now())
        reply = world.get("?format=env")
        prefix = world.service.slug.upper().replace("-", "_")
        script = reply.body.decode() + f'printf %s "${prefix}_API_KEY"'
        assert (
            subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode() == awkward
        )
        assert f"{prefix}_KEY_VERSION=1\n" in reply.body.decode()

    def test_the_answer_is_recorded_before_it_leaves(self, world: World) -> None:
        reply = world.get("?instance=web-7", ("X-Request-ID", "record-me-1"))
        assert reply.status == 200
        (row,) = world.deliveries()
        assert (row.instance, row.label, row.credential, row.status) == (
            "web-7",
            "current",
            "consumer_token",
            200,
        )
        assert (row.request_id, row.version_id, row.token_id) == (
            "record-me-1",
            world.version(1).id,
            world.token_row.id,
        )

    def test_the_instance_may_be_a_header_and_defaults_to_the_consumer(self, world: World) -> None:
        world.get("", ("X-Instance-ID", "pod-1"))
        world.get()
        assert [row.instance for row in world.deliveries()] == ["pod-1", world.consumer.slug]

    def test_rate_limit_headers_count_down(self, world: World) -> None:
        first, second = world.get().headers, world.get().headers
        assert first["ratelimit-limit"] == "100000"
        assert int(second["ratelimit-remaining"]) in (int(first["ratelimit-remaining"]) - 1, 99_999)
        assert 1 <= int(first["ratelimit-reset"]) <= 60

    def test_use_of_a_token_is_known_from_its_deliveries(self, world: World) -> None:
        world.get()
        world.get()
        usage.roll_up()
        token = ConsumerToken.objects.get(pk=world.token_row.pk)
        assert token.last_used_at == world.deliveries()[-1].at

    def test_an_allowed_address_and_what_a_header_claims(self, world: World) -> None:
        _, inside = world.new_token(cidrs=["127.0.0.0/8"])
        reply = world.server.send(
            "GET", world.path, ("X-API-Key", inside), ("X-Forwarded-For", "203.0.113.9")
        )
        assert reply.status == 200

    def test_a_browser_is_told_that_it_is_no_page(self, world: World, settings: Any) -> None:
        policy = "default-src 'none'; frame-ancestors 'none'; sandbox"
        ask = world.server.send
        for reply in (
            world.get(),
            ask("GET", world.path),
            ask("GET", "/v1/keys/none/such/"),
            ask("GET", "/v1//"),
        ):
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["content-security-policy"] == policy
            assert "strict-transport-security" not in reply.headers
        # The settings of https://: a browser stays with it for a year.
        settings.SECURE_HSTS_SECONDS = 31_536_000
        always.cache_clear()
        try:
            assert (b"strict-transport-security", b"max-age=31536000") in always()
        finally:
            always.cache_clear()

    def test_accept_html_still_gets_json(self, world: World) -> None:
        assert world.get("", ("Accept", "text/html")).headers["content-type"] == "application/json"


class Test304:
    def test_a_known_etag_brings_no_key_and_is_recorded(self, world: World) -> None:
        etag = world.get().headers["etag"]
        for held in (etag, f'W/{etag}, "other"', "*"):
            reply = world.get("", ("If-None-Match", held))
            assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
        assert [row.status for row in world.deliveries()] == [200, 304, 304, 304]

    def test_an_etag_changes_with_the_version_and_with_the_label(self, world: World) -> None:
        tags = [world.get().headers["etag"]]
        world.offer(100)
        tags.append(world.get().headers["etag"])
        world.promote()
        tags.append(world.get().headers["etag"])
        assert len(set(tags)) == 3
        assert world.get("", ("If-None-Match", tags[0])).status == 200

    def test_an_etag_says_nothing_of_the_secret(self, make: Make) -> None:
        first, second = make(environment="dev"), make(environment="dev", imported=False)
        keys.import_first(SYSTEM, second.key, Secret(first.secret), now=clock.now())
        assert first.get().headers["etag"] != second.get().headers["etag"]


class TestHead:
    def test_headers_only_and_recorded_as_without_a_key(self, world: World) -> None:
        reply = world.get(method="HEAD")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["etag"] == world.get().headers["etag"]
        assert [row.status for row in world.deliveries()] == [304, 200]

    def test_errors_have_no_body_either(self, world: World) -> None:
        reply = world.server.send("HEAD", world.path)
        assert (reply.status, reply.body) == (401, b"")
        assert "www-authenticate" in reply.headers


class Test401:
    def test_no_credential(self, world: World) -> None:
        reply = world.server.send("GET", world.path)
        assert (reply.status, reply.code) == (401, "missing_api_key")
        assert "Bearer" in reply.headers["www-authenticate"]
        assert reply.error["request_id"] == reply.headers["x-request-id"]

    def test_revoked_expired_unknown_and_mistyped_look_the_same(self, world: World) -> None:
        revoked_row, revoked = world.new_token()
        consumers.revoke_token(SYSTEM, revoked_row, now=clock.now())
        expired_row, expired = world.new_token()
        expired_row.expires_at = clock.now() - timedelta(seconds=1)
        sign(expired_row)
        expired_row.save()
        unknown_row, unknown = world.new_token()
        unknown_row.delete()
        mistyped = world.token[:-1] + ("a" if world.token[-1] != "a" else "b")
        errors = []
        for token in (revoked, expired, unknown, mistyped):
            reply = world.server.send("GET", world.path, ("X-API-Key", token))
            errors.append({name: text for name, text in reply.error.items() if name != "request_id"})
        assert errors == [errors[0]] * 4
        assert errors[0]["code"] == "invalid_api_key"

    def test_an_address_outside_the_list(self, world: World) -> None:
        _, outside = world.new_token(cidrs=["10.0.0.0/8", "2001:db8::/32"])
        reply = world.server.send("GET", world.path, ("X-API-Key", outside), ("X-Forwarded-For", "10.1.2.3"))
        assert (reply.status, reply.code) == (401, "invalid_api_key")


class Test403:
    def test_a_grant_without_read(self, make: Make) -> None:
        reply = make(verbs=["report"]).get()
        assert (reply.status, reply.code) == (403, "permission_denied")

    @pytest.mark.parametrize("version", ["current", "pending", "previous", "1"])
    def test_a_version_needs_the_verb_versions(self, make: Make, version: str) -> None:
        reply = make(verbs=["read"]).get(f"?version={version}")
        assert (reply.status, reply.code) == (403, "permission_denied")

    def test_the_token_of_a_person_is_told_so(self, world: World) -> None:
        person = people.ensure_admin("person-for-403", now=clock.now())
        _, token = people.create_user_token(
            person, expires_at=clock.now() + timedelta(hours=1), now=clock.now()
        )
        reply = world.server.send("GET", world.path, ("Authorization", f"Bearer {token.expose()}"))
        assert (reply.status, reply.code) == (403, "permission_denied")
        assert "consumer token" in reply.error["message"]


class Test404:
    def test_unknown_not_granted_and_another_environment_are_one_answer(self, make: Make) -> None:
        world, stranger, dev = make(), make(), make(environment="dev")
        targets = [
            "/v1/keys/no-such-service/prod/",
            stranger.path,
            dev.path,
            f"/v1/keys/{world.service.slug}/dev/",
            f"/v1/keys/{world.service.slug}/PROD/",
            f"/v1/keys/{'x' * 5000}/prod/",
        ]
        bodies = set()
        for target in targets:
            reply = world.send("GET", target, ("X-Request-ID", "same-id-each-time"))
            assert reply.status == 404
            bodies.add(reply.body)
        assert len(bodies) == 1
        assert json.loads(bodies.pop())["error"]["code"] == "not_found"

    def test_a_removed_grant(self, world: World) -> None:
        grant = Grant.objects.select_related("service", "environment", "consumer").get(
            consumer=world.consumer
        )
        consumers.remove_grant(SYSTEM, grant, now=clock.now())
        assert world.get().code == "not_found"

    def test_no_version_yet(self, make: Make) -> None:
        reply = make(imported=False).get()
        assert (reply.status, reply.code) == (404, "no_active_version")

    def test_a_label_that_nobody_has(self, world: World) -> None:
        assert world.get("?version=pending").code == "no_active_version"
        assert world.get("?version=previous").code == "no_active_version"

    def test_a_number_that_never_was(self, world: World) -> None:
        assert world.get("?version=99").code == "not_found"

    def test_withheld_and_disabled_versions_are_not_handed_out(self, world: World) -> None:
        version, _ = world.offer(0)
        keys.withhold(version, now=clock.now())
        assert world.get("?version=pending").code == "no_active_version"
        assert world.get("?version=2").code == "no_active_version"
        world.change(keys.mark_disabled, world.version(1))
        assert world.get().code == "no_active_version"


class Test410:
    def test_revoked_and_destroyed_versions_are_gone(self, world: World) -> None:
        world.offer(100)
        world.promote()
        world.change(keys.mark_revoked, world.version(1))
        assert (world.get("?version=1").status, world.get("?version=1").code) == (410, "version_gone")
        world.change(keys.mark_destroyed, world.version(1))
        assert world.get("?version=1").code == "version_gone"


class Test405:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    def test_other_methods(self, world: World, method: str) -> None:
        reply = world.send(method, world.path, ("X-HTTP-Method-Override", "GET"))
        assert (reply.status, reply.code) == (405, "method_not_allowed")
        assert reply.headers["allow"] == "GET, HEAD"


class Test429:
    def test_over_the_limit(self, make: Make) -> None:
        world = make(rate=3)
        replies = [world.get() for _ in range(8)]
        # A minute may end in between: then a second window begins.
        passed = [reply for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status == 429]
        assert 3 <= len(passed) <= 6
        assert refused
        assert len(passed) + len(refused) == 8
        assert refused[0].code == "rate_limited"
        assert 1 <= int(refused[0].headers["retry-after"]) <= 60
        assert refused[0].headers["ratelimit-remaining"] == "0"
        assert len(world.deliveries()) == len(passed)

    def test_refusals_count_too(self, make: Make) -> None:
        world = make(rate=3)
        codes = [world.send("GET", "/v1/keys/no-such-service/prod/").code for _ in range(8)]
        assert codes.count("not_found") <= 6
        assert "rate_limited" in codes


def _tamper(row: Key | ConsumerToken | Grant, **columns: object) -> None:
    type(row)._default_manager.filter(pk=row.pk).update(**columns)


class Test503:
    def test_integrity_of_the_key_row(self, world: World) -> None:
        _tamper(world.key, canaries=["somebody"])
        reply = world.get()
        assert (reply.status, reply.code) == (503, "integrity_error")
        assert "retry-after" in reply.headers
        assert world.deliveries() == []

    def test_integrity_of_the_token_row(self, world: World) -> None:
        _tamper(world.token_row, rate_per_minute=99)
        assert world.get().code == "integrity_error"

    def test_integrity_of_the_grant_row(self, world: World) -> None:
        _tamper(Grant.objects.get(consumer=world.consumer), verbs=["read", "versions", "verify"])
        assert world.get().code == "integrity_error"

    def test_a_withheld_version_that_is_let_out_again(self, world: World) -> None:
        version, _ = world.offer(0)
        keys.withhold(version, now=clock.now())
        type(version).objects.filter(pk=version.pk).update(withheld_at=None)
        assert world.get("?version=pending").code == "integrity_error"

    def test_a_version_that_is_made_to_look_revoked(self, world: World) -> None:
        version = world.version(1)
        type(version).objects.filter(pk=version.pk).update(state="revoked", revoked_at=clock.now())
        assert world.get("?version=1").code == "integrity_error"
        assert world.get().code == "integrity_error"

    def test_a_version_moved_back_to_active(self, world: World) -> None:
        world.offer(100)
        world.promote()
        world.change(keys.mark_disabled, world.version(1))
        type(world.version(1)).objects.filter(key_id=world.key_id, number=1).update(state="active")
        assert world.get("?version=1").code == "integrity_error"

    def test_no_kek_for_the_environment(self, world: World) -> None:
        path = world.server.keyring
        whole = path.read_text()
        document = json.loads(whole)
        del document["environments"]["prod"]
        try:
            path.write_text(json.dumps(document))
            reply = world.get()
        finally:
            path.write_text(whole)
        assert (reply.status, reply.code) == (503, "key_service_unavailable")
        assert world.deliveries() == []
        assert world.get().status == 200

    def test_nothing_leaves_that_cannot_be_recorded(self, world: World) -> None:
        forbid_deliveries()
        try:
            reply, not_modified = world.get(), world.get("", ("If-None-Match", "*"))
        finally:
            allow_deliveries()
        for refused in (reply, not_modified):
            assert (refused.status, refused.code) == (503, "audit_unavailable")
        assert world.secret.encode() not in reply.body
        assert world.get().status == 200
