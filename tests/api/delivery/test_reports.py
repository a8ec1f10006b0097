"""POST /v1/keys/{service}/{environment}/reports/"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from keyvault import clock
from keyvault.models import UsageLine, UsageReport
from tests.api.delivery.world import World
from tests.api.wire import Reply

Make = Callable[..., World]


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def report(world: World, **changes: object) -> dict[str, object]:
    now = clock.now()
    return {
        "instance": "web-1",
        "sequence": 1,
        "from": text(now - timedelta(seconds=30)),
        "to": text(now),
        "versions": [{"version": 1, "credential": "key", "ok": 5, "auth_invalid": 1, "jobs_opened": 2}],
        **changes,
    }


def send(world: World, body: object) -> Reply:
    return world.send("POST", f"{world.path}reports/", body=json.dumps(body).encode())


@pytest.fixture
def used(world: World) -> World:
    """A world whose instance ``web-1`` was given version 1."""
    world.get("?instance=web-1")
    return world


class Test202:
    def test_a_report_is_stored(self, used: World) -> None:
        reply = send(used, report(used))
        assert (reply.status, reply.json) == (202, {"accepted": True, "duplicate": False})
        line = UsageLine.objects.get(key_id=used.key_id)
        assert (line.instance, line.ok, line.auth_invalid, line.timeout, line.jobs_opened) == (
            "web-1",
            5,
            1,
            0,
            2,
        )
        assert line.version_id == used.version(1).id

    def test_the_same_sequence_is_stored_once(self, used: World) -> None:
        send(used, report(used))
        reply = send(used, report(used, versions=[{"version": 1, "ok": 99}]))
        assert (reply.status, reply.json) == (202, {"accepted": True, "duplicate": True})
        assert UsageLine.objects.get(key_id=used.key_id).ok == 5

    def test_another_instance_may_use_the_same_sequence(self, used: World) -> None:
        used.get("?instance=web-2")
        send(used, report(used))
        assert send(used, report(used, instance="web-2")).json["duplicate"] is False
        assert UsageReport.objects.filter(key_id=used.key_id).count() == 2

    def test_a_report_without_requests_is_a_sign_of_life(self, used: World) -> None:
        assert send(used, report(used, versions=[])).status == 202

    def test_the_instance_may_come_from_the_header(self, used: World) -> None:
        body = report(used)
        del body["instance"]
        target = f"{used.path}reports/"
        reply = used.send("POST", target, ("X-Instance-ID", "web-1"), body=json.dumps(body).encode())
        assert reply.status == 202
        assert UsageReport.objects.get(key_id=used.key_id).instance == "web-1"

    def test_a_time_may_have_any_zone(self, used: World) -> None:
        now = clock.now()
        local = (now + timedelta(hours=2)).replace(tzinfo=None).isoformat(timespec="milliseconds") + "+02:00"
        assert send(used, report(used, to=local)).status == 202

    def test_an_access_token_may_report(self, used: World) -> None:
        token = used.access_token(f"{used.path}reports/")
        reply = used.server.send(
            "POST",
            f"{used.path}reports/",
            ("Authorization", f"AccessToken {token}"),
            body=json.dumps(report(used)).encode(),
        )
        assert reply.status == 202


def _line(**more: object) -> list[dict[str, object]]:
    return [{"version": 1, **more}]


class Test400:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("sequence", -1),
            ("sequence", "1"),
            ("sequence", True),
            ("sequence", 1.0),
            ("sequence", None),
            ("sequence", 2**63),
            ("instance", "a b"),
            ("instance", ""),
            ("instance", "x" * 129),
            ("instance", "a\u0000"),
            ("instance", "\u202eweb"),
            ("instance", "\ud800"),
            ("instance", 7),
            ("from", "2026-01-01T00:00:00"),
            ("from", 1_760_000_000),
            ("from", "10000-01-01T00:00:00Z"),
            ("from", "2026-01-01T24:00:00Z"),
            ("from", "2026-02-30T00:00:00Z"),
            ("from", "２026-01-01T00:00:00Z"),
            ("from", "0001-01-01T00:00:00+14:00"),
            ("to", "9999-12-31T23:59:59-14:00"),
            ("to", None),
            ("versions", None),
            ("versions", {}),
            ("versions", [1]),
            ("versions", [{"version": 1}] * 51),
            ("versions", [{"version": 1}, {"version": 1}]),
            ("versions", [{}]),
            ("versions", _line(ok="5")),
            ("versions", _line(ok=-1)),
            ("versions", _line(ok=True)),
            ("versions", _line(ok=2**31)),
            ("versions", _line(ok=1e400)),
            ("versions", _line(credential="token")),
            ("versions", _line(credential=["key"])),
            ("versions", [{"version": 0}]),
            ("versions", [{"version": "1"}]),
        ],
    )
    def test_a_wrong_field_is_named(self, used: World, field: str, value: object) -> None:
        reply = send(used, report(used, **{field: value}))
        assert (reply.status, reply.code) == (400, "validation_error")
        assert list(reply.error["fields"]) == [field]

    @pytest.mark.parametrize("field", ["sequence", "from", "to", "versions"])
    def test_a_missing_field_is_named(self, used: World, field: str) -> None:
        body = report(used)
        del body[field]
        reply = send(used, body)
        assert (reply.code, list(reply.error["fields"])) == ("validation_error", [field])

    def test_unknown_fields(self, used: World) -> None:
        assert send(used, report(used, extra=1)).code == "unknown_field"
        assert send(used, report(used, versions=_line(okay=1))).code == "unknown_field"

    def test_times_that_cannot_be(self, used: World) -> None:
        now = clock.now()
        for changes in (
            {"to": text(now + timedelta(minutes=6))},
            {"from": text(now - timedelta(hours=25))},
            {"to": text(now - timedelta(minutes=2))},
        ):
            assert send(used, report(used, **changes)).code == "validation_error"

    def test_a_version_that_this_instance_was_never_given(self, used: World) -> None:
        used.offer(0)
        assert send(used, report(used, versions=[{"version": 2, "ok": 1}])).code == "validation_error"
        assert send(used, report(used, instance="web-9")).code == "validation_error"
        assert UsageReport.objects.filter(key_id=used.key_id).count() == 0


class Test401:
    def test_no_credential(self, used: World) -> None:
        assert used.server.send("POST", f"{used.path}reports/", body=b"{}").code == "missing_api_key"


class Test403:
    def test_a_grant_without_report(self, make: Make) -> None:
        world = make(verbs=["read"])
        world.get("?instance=web-1")
        reply = send(world, report(world))
        assert (reply.status, reply.code) == (403, "permission_denied")


class Test404:
    def test_a_key_of_somebody_else(self, make: Make) -> None:
        used, stranger = make(), make()
        reply = used.send("POST", f"{stranger.path}reports/", body=json.dumps(report(used)).encode())
        assert (reply.status, reply.code) == (404, "not_found")


class Test405:
    def test_other_methods(self, used: World) -> None:
        reply = used.send("GET", f"{used.path}reports/")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
