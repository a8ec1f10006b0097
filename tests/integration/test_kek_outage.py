"""An installation whose KEKs are in a real OpenBao, which goes away for longer and longer, and comes back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client, RequestFactory

from keyvault import clock, keystore
from keyvault.actors import SYSTEM
from keyvault.console.health import health_lines, last_beat
from keyvault.crypto.environment_keys import AGAIN_AFTER, RETRY_AFTER, EnvironmentKeys
from keyvault.crypto.errors import KeyServiceUnavailable
from keyvault.crypto.remote import KekSettings, connect
from keyvault.crypto.secret import Secret
from keyvault.keystore import keys, open_version
from keyvault.models import AuditEvent, KeyVersion
from keyvault.project import health, installation
from keyvault.project.checks.keyring import every_key_is_its_own
from keyvault.services import keks, people
from keyvault.services.rewrap import rewrap_environment, verify_environment
from tests.integration.furniture import NOW, Furniture, ask, fresh_kek, fresh_secret, furnish
from tests.integration.kek_servers import OpenBao

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("keks"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("patient_providers"),
]

STALE = 3600.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    furniture: Furniture
    secret: Secret
    token: Secret
    time: Clock
    keyring: Path

    def asked(self) -> tuple[int, str]:
        """What a consumer gets: status, and the key or the code."""
        answer = ask(self.token, self.furniture.service.slug)
        return answer.status, answer.document["key"] if answer.status == 200 else answer.code

    def after(self, seconds: float) -> None:
        self.time.now += seconds
        keystore.environment_keys().refresh()

    def written(self) -> tuple[int, str]:
        """What an administrator gets for a new key: status, and "" or the code."""
        now = clock.now()
        row = people.ensure_admin("ada", now=now)
        _, token = people.create_user_token(row, expires_at=now + timedelta(hours=1), now=now)
        answer = Client().post(
            f"/v1/services/{furnish().service.slug}/keys/",
            json.dumps({"environment": "prod", "secret": fresh_secret().expose()}),
            content_type="application/json",
            headers={"X-API-Key": token.expose()},
        )
        return answer.status_code, answer.json()["error"]["code"] if answer.status_code >= 400 else ""


def begin(settings: Any, chosen: KekSettings) -> Clock:
    """From now on KEKs are had as ``chosen`` says, by a clock of our own."""
    time = Clock()
    settings.KEYTURN_KEK = chosen
    held = EnvironmentKeys(
        lambda kind: connect(kind, chosen.providers), stale=chosen.stale, clock=time, background=False
    )
    keystore._environment_keys = chosen, os.getpid(), held
    return time


@pytest.fixture
def house(openbao: OpenBao, tmp_path: Path, settings: Any, transactional_db: None) -> Iterator[House]:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    settings.KEYTURN_DATA, settings.KEYTURN_KEYRING = folder, folder / "keyring.json"
    settings.KEYTURN_KEYRING_JSON = ""
    chosen = KekSettings(openbao.by_role("keyturn"), "transit", {"staging": "file"}, "", STALE)
    time = begin(settings, chosen)
    installation.prepare()  # the first start makes the keyring
    furniture, secret = furnish(), fresh_secret()
    furniture.key(secret=secret)
    _, token = furniture.reader()
    yield House(furniture, secret, token, time, folder / "keyring.json")
    keystore._environment_keys = None


def ready() -> tuple[int, Any]:
    answer = health.readyz(RequestFactory().get("/readyz"))
    return answer.status_code, json.loads(answer.content)["checks"]["key_service"]


def figures() -> dict[str, float]:
    text = health.metrics(RequestFactory().get("/metrics")).content.decode()
    found = (line.rpartition(" ") for line in text.splitlines() if line.startswith("keyturn_kek_"))
    return {name: float(value) for name, _, value in found}


def key_service() -> tuple[str, str]:
    (line,) = (line for line in health_lines(clock.now(), last_beat()) if line.name == "Key service")
    return line.tone, line.text


def test_an_outage_from_its_beginning_to_its_end(house: House, openbao: OpenBao) -> None:
    served = 200, house.secret.expose()
    kid = keys().keks.primary("prod")
    stale = f'keyturn_kek_stale{{environment="prod",kid="{kid}"}}'
    age = f'keyturn_kek_age_seconds{{environment="prod",kid="{kid}"}}'
    assert house.asked() == served
    assert house.written() == (201, "")
    assert "stale" not in ready()[1]
    assert figures()[stale] == 0.0
    assert key_service() == ("good", "ready")
    before, before_all = keys(), KeyVersion.objects.count()

    openbao.kill()
    try:
        house.after(AGAIN_AFTER)
        assert house.asked() == served, "reading goes on"
        assert house.written() == (503, "key_service_unavailable"), "nothing is sealed"
        assert KeyVersion.objects.count() == before_all
        assert ready()[1]["stale"][kid] == AGAIN_AFTER
        assert (figures()[stale], figures()[age]) == (1.0, AGAIN_AFTER)
        assert key_service() == ("warn", "provider down, reading only")
        assert {one.health for one in keks.status(now=NOW) if one.environment == "prod"} == {"stale"}

        house.after(STALE - AGAIN_AFTER)
        assert house.asked() == served
        assert keys() is before

        house.after(1)
        assert house.asked() == (503, "key_service_unavailable")
        assert keys() is not before, "what was decided with the forgotten key is let go of"
        assert ready()[0] == 503
        assert ready()[1]["reason"] == "A KEK cannot be had from its provider."
        assert (figures()[stale], figures()[age]) == (1.0, -1.0)
        assert key_service() == ("bad", "unavailable")
        installation.prepare()  # a start meanwhile is no crash
    finally:
        openbao.start()
    house.after(RETRY_AFTER)
    assert house.asked() == served
    assert house.written() == (201, "")
    assert ready()[1] == {"status": "ok", "keks": 4, "canaries": 4}
    assert key_service() == ("good", "ready")


def test_a_process_that_starts_while_the_provider_is_down(
    house: House, openbao: OpenBao, settings: Any
) -> None:
    openbao.kill()
    try:
        started = begin(settings, settings.KEYTURN_KEK)
        installation.prepare()
        assert house.asked() == (503, "key_service_unavailable")
        assert keys().keks.describe()["prod"].kids, "it knows the kids"
    finally:
        openbao.start()
    started.now += RETRY_AFTER
    assert house.asked() == (200, house.secret.expose())


def test_keks_are_replaced_at_the_provider_and_moved_to_another(house: House, settings: Any) -> None:
    old = keys().keks.primary("prod")
    new = fresh_kek()
    assert {one.provider for one in keys().keks.keks() if one.environment == "prod"} == {"transit"}
    assert rewrap_environment(SYSTEM, "prod", now=NOW).rows == 1
    local = keks.add(SYSTEM, "prod", now=NOW, provider="file")
    keks.promote(SYSTEM, "prod", local, now=NOW)
    assert rewrap_environment(SYSTEM, "prod", now=NOW).rows == 1
    assert verify_environment("prod").broken == ()
    assert house.asked() == (200, house.secret.expose())
    # Two kids may be at one KEK, whose name may be long: that is not one key in two places.
    settings.KEYTURN_KEYRING_JSON = house.keyring.read_text().replace(
        "keyturn-prod", "arn:aws:kms:" + "x" * 40
    )
    assert every_key_is_its_own(None) == []
    settings.KEYTURN_KEYRING_JSON = ""
    found = {one.kid: (one.provider, one.key) for one in keys().keks.keks()}
    assert found[old] == found[new] == ("transit", "keyturn-prod")
    assert found[local] == ("file", "")
    providers = AuditEvent.objects.filter(name="kek:added").order_by("sequence")
    assert [event.details["provider"] for event in providers] == ["transit", "file"]


def test_the_keyring_holds_no_key_of_a_remote_environment(house: House) -> None:
    document = json.loads(house.keyring.read_text())
    for environment, held in document["environments"].items():
        for kek in held["keks"].values():
            assert isinstance(kek, str) == (environment == "staging")


def test_a_role_that_may_use_the_key_of_dev_only_cannot_open_prod(
    house: House, openbao: OpenBao, settings: Any
) -> None:
    secret = fresh_secret()
    house.furniture.key("dev", secret)
    _, token = house.furniture.reader("dev")
    # The whole document, and a role that the provider allows one key.
    begin(settings, KekSettings(openbao.by_role("dev-only"), "transit", {}, "", STALE))
    installation.prepare()
    answer = ask(token, house.furniture.service.slug, "dev")
    assert (answer.status, answer.document["key"]) == (200, secret.expose())
    assert house.asked() == (503, "key_service_unavailable")
    current = KeyVersion.objects.get(key__environment__slug="prod")
    with pytest.raises(KeyServiceUnavailable, match="403"):
        open_version(current)


def test_adding_at_a_provider_that_is_down_changes_nothing(house: House, openbao: OpenBao) -> None:
    before = house.keyring.read_bytes()
    openbao.kill()
    try:
        with pytest.raises(KeyServiceUnavailable, match="ConnectError"):
            keks.add(SYSTEM, "prod", now=NOW)
    finally:
        openbao.start()
    assert house.keyring.read_bytes() == before
    assert not AuditEvent.objects.filter(name="kek:added").exists()


def test_a_keyring_in_the_environment_may_name_providers(house: House, settings: Any) -> None:
    settings.KEYTURN_KEYRING_JSON = house.keyring.read_text()
    house.keyring.unlink()
    assert house.asked() == (200, house.secret.expose())
