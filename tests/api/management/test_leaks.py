"""Reporting a secret that was found in the open"""

from __future__ import annotations

from typing import Any

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, Environment, Key, KeyVersion
from keyvault.services import consumers
from rotation.models import EmergencyRun, Rotation
from rotation.services import runs
from tests.api.management.world import Person, World, new_secret, problem

PATH = "/v1/leaks/"


def report(person: Person, secret: str) -> Any:
    return person.post(PATH, {"secret": secret, "reason": "In a public log"})


def leaked(key: Key) -> KeyVersion:
    return KeyVersion.objects.get(key=key, number=1)


class TestReport202:
    def test_a_known_secret_is_marked_and_an_emergency_proposed(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        answer = report(world.viewer, secret)
        assert answer.status_code == 202
        shown = answer.json()
        assert shown["keys"] == [{"service": key.service.slug, "environment": "prod", "version": 1}]
        assert leaked(key).compromised_at is not None
        run = EmergencyRun.objects.get()
        assert (shown["emergency"], run.state) == (str(run.id), "proposed")
        runs.carry_on(clock.now(), ring=lambda _: None)
        assert not Rotation.objects.exists()
        event = AuditEvent.objects.get(name="leak:reported")
        assert (event.actor, event.details["versions"]) == ("viewer", [f"{key} v1"])

    def test_a_lead_confirms_it(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        path = f"/v1/emergency/{report(world.viewer, secret).json()['emergency']}/"
        proposal = world.lead.get(path).json()["proposal"]
        body = {"reason": "yes", "plan": proposal["plan"], "count": proposal["count"]}
        assert world.viewer.post(f"{path}confirm/", body).status_code == 403
        assert world.lead.post(f"{path}confirm/", {**body, "count": 2}).status_code == 412
        answer = world.lead.post(f"{path}confirm/", body)
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        runs.carry_on(clock.now(), ring=lambda _: None)
        assert Rotation.objects.get().key_id == key.id

    def test_it_starts_at_once_where_the_installation_is_set_so(self, world: World, settings: Any) -> None:
        settings.KEYTURN_LEAK_REPORTS_START = True
        secret = new_secret()
        world.key("prod", secret=secret)
        report(world.stranger, secret)
        runs.carry_on(clock.now(), ring=lambda _: None)
        assert Rotation.objects.get().requested_by == "keyturn"

    def test_a_second_report_proposes_nothing_more(self, world: World) -> None:
        secret = new_secret()
        world.key("prod", secret=secret)
        first, second = report(world.viewer, secret).json(), report(world.lead, secret).json()
        assert first == second
        assert EmergencyRun.objects.count() == 1
        assert AuditEvent.objects.filter(name="key:version:compromised").count() == 1

    def test_it_is_no_oracle(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        known, unknown = report(world.stranger, secret), report(world.stranger, new_secret())
        assert known.status_code == unknown.status_code == 202
        assert known.json() == unknown.json() == {"received": True, "keys": [], "emergency": None}
        assert known.headers.keys() == unknown.headers.keys()
        assert leaked(key).compromised_at is not None
        assert world.stranger.get("/v1/emergency/").json()["items"] == []
        run = EmergencyRun.objects.get()
        assert world.stranger.get(f"/v1/emergency/{run.id}/").status_code == 404

    def test_the_secret_stays_nowhere(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        secret = new_secret()
        world.key("prod", secret=secret)
        answer = report(world.lead, secret)
        assert secret not in answer.content.decode()
        assert secret not in caplog.text
        assert secret not in "".join(str(event.__dict__) for event in AuditEvent.objects.all())

    def test_a_consumer_token(self, world: World) -> None:
        dev = Environment.objects.get(slug="dev")
        token, secret = consumers.create_token(SYSTEM, world.consumer(), dev, expires_at=None, now=world.now)
        assert report(world.stranger, secret.expose()).json()["keys"] == []
        run = EmergencyRun.objects.get()
        assert (run.mode, run.items.get().token_id) == ("kill", token.id)


class TestReport400:
    @pytest.mark.parametrize(
        "body", [{}, {"secret": "x1y2z3"}, {"secret": "", "reason": "x"}, {"reason": "x"}]
    )
    def test_secret_and_reason_are_needed(self, world: World, body: dict[str, str]) -> None:
        assert problem(world.lead.post(PATH, body))["code"] == "validation_error"
