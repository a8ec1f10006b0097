"""KEKs are added, promoted and left behind while keys go on being read, whatever dies in between."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from django.db import transaction

from keyvault.actors import SYSTEM
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.secret import Secret
from keyvault.integrity import verify
from keyvault.keystore import keys as present_keys
from keyvault.keystore import open_admin_secret, open_version, seal_admin_secret
from keyvault.models import AuditEvent, IdempotentReply, KeyVersion, Provider
from keyvault.project.cli import main
from keyvault.services import keys, replies
from keyvault.services.rewrap import rewrap_environment
from tests.integration.furniture import (
    NOW,
    Furniture,
    ask,
    at_once,
    broken_at,
    fresh_kek,
    fresh_secret,
    furnish,
    raised,
    second_version,
)

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).parents[2]


@pytest.fixture
def furniture(data_dir: Path, db: None) -> Furniture:
    return furnish()


def run(*arguments: str) -> str:
    done = kek(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def kek(*arguments: str) -> Result:
    """``keyturn kek``, in this process."""
    return CliRunner().invoke(main, ["kek", *arguments], catch_exceptions=False)


def fill(furniture: Furniture, environment: str, n: int) -> dict[Any, Secret]:
    """A key with ``n`` versions; the secret of each by its id."""
    secrets = {}
    key = furniture.key(environment)
    assert key.current is not None
    secrets[key.current.id] = open_version(key.current)
    for _ in range(n - 1):
        secret = fresh_secret()
        secrets[second_version(key, secret=secret).id] = secret
    return secrets


def all_open(secrets: dict[Any, Secret]) -> None:
    """Every row has an intact signature and opens to what was put in."""
    rows = KeyVersion.objects.select_related("key__service", "key__environment").in_bulk(list(secrets))
    assert len(rows) == len(secrets)
    for version_id, secret in secrets.items():
        verify(rows[version_id])
        assert open_version(rows[version_id]) == secret


def kids(environment: str) -> set[str]:
    held = KeyVersion.objects.filter(key__environment__slug=environment, ciphertext__isnull=False)
    return set(held.values_list("kek_kid", flat=True))


def primary(environment: str) -> str:
    return present_keys().keks.primary(environment)


# Step by step --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_keys_are_delivered_after_every_step(data_dir: Path, transactional_db: None) -> None:
    furniture = furnish()
    secret = fresh_secret()
    furniture.key(secret=secret)
    _, token = furniture.reader()
    old = primary("prod")

    def delivered() -> bool:
        answer = ask(token, furniture.service.slug)
        return answer.status == 200 and answer.document["key"] == secret.expose()

    # The file is changed as another process would: nothing in this one is told.
    elsewhere = Keyring.from_file(data_dir / "keyring.json")
    assert delivered()
    kid = elsewhere.add("prod")
    assert delivered()
    assert primary("prod") == old
    elsewhere.promote("prod", kid)
    assert delivered()
    assert primary("prod") == kid
    assert kids("prod") == {old}
    assert rewrap_environment(SYSTEM, "prod", now=NOW).rows == 1
    assert delivered()
    assert kids("prod") == {kid}
    elsewhere.retire("prod", old)
    assert delivered()
    assert present_keys().keks.describe()["prod"].kids == (kid,)


def test_new_versions_are_sealed_under_the_promoted_kek(furniture: Furniture) -> None:
    kid = fresh_kek("prod")
    version = furniture.key().current
    assert version is not None
    assert version.kek_kid == kid == primary("prod")
    event = AuditEvent.objects.get(name="kek:promoted")
    assert event.details["kid"] == kid
    assert event.details["was"] != kid


def test_one_environment_is_moved_and_the_others_stay(furniture: Furniture) -> None:
    prod, dev = fill(furniture, "prod", 3), fill(furniture, "dev", 2)
    dev_kid = primary("dev")
    fresh_kek("prod")
    said = run("rewrap", "prod")
    assert f"prod: 3 row(s) moved to {primary('prod')}" in said
    assert kids("prod") == {primary("prod")}
    assert kids("dev") == {dev_kid} == {primary("dev")}
    all_open(prod | dev)


def test_whatever_holds_a_secret_is_moved_and_what_holds_none_is_not(furniture: Furniture) -> None:
    secrets = fill(furniture, "prod", 3)
    with transaction.atomic():
        key = keys.lock_key(furniture.service.keys.get().id)
        active, disabled, revoked = key.versions.order_by("number")
        keys.mark_disabled(SYSTEM, key, disabled, now=NOW)
        keys.mark_revoked(SYSTEM, key, revoked, now=NOW)
        gone = keys.request_version(SYSTEM, key, now=NOW)
        keys.mark_destroyed(SYSTEM, key, gone, now=NOW)
    fresh_kek("prod")
    assert json.loads(run("rewrap", "prod", "--json"))[0]["rows"] == 3
    all_open(secrets)
    assert KeyVersion.objects.get(pk=gone.pk).kek_kid == ""
    verify(KeyVersion.objects.get(pk=gone.pk))


def test_system_rows_are_moved_too(furniture: Furniture) -> None:
    admin = fresh_secret()
    provider = Provider.objects.get(slug="removit")
    seal_admin_secret(provider, admin)
    provider.save()
    claim = replies.claim("someone", "key-1", "digest", now=NOW)
    assert isinstance(claim, replies.Claim)
    replies.keep(claim, 201, Secret('{"token": "shown once"}'))
    replies.claim("someone", "key-2", "digest", now=NOW)  # still at work: nothing to move
    old = primary("system")

    fresh_kek("system")
    result = json.loads(run("rewrap", "system", "--json"))
    assert result == [{"environment": "system", "kid": primary("system"), "rows": 2, "broken": []}]
    present_keys().keks.retire("system", old)
    assert open_admin_secret(Provider.objects.get(slug="removit")) == admin
    again = replies.claim("someone", "key-1", "digest", now=NOW)
    assert isinstance(again, replies.Reply)
    assert again.document == Secret('{"token": "shown once"}')
    assert set(IdempotentReply.objects.values_list("kek_kid", flat=True)) == {primary("system"), ""}


def test_it_can_be_run_again_and_then_has_nothing_to_do(furniture: Furniture) -> None:
    fill(furniture, "prod", 4)
    fill(furniture, "dev", 1)
    for environment in ("prod", "dev"):
        fresh_kek(environment)
    run("rewrap")
    before = AuditEvent.objects.count()
    said = run("rewrap")
    assert said.count(" 0 row(s) moved") == 4  # dev, staging, prod, system
    assert AuditEvent.objects.count() == before
    rows = [event.details["rows"] for event in AuditEvent.objects.filter(name="kek:rewrapped")]
    assert sorted(rows) == [1, 4]


def test_long_work_is_recorded_in_between(furniture: Furniture) -> None:
    fill(furniture, "prod", 7)
    fresh_kek("prod")
    assert rewrap_environment(SYSTEM, "prod", now=NOW, batch=3).rows == 7
    events = AuditEvent.objects.filter(name="kek:rewrapped").order_by("sequence")
    assert [event.details["rows"] for event in events] == [3, 3, 1]


# What goes wrong -----------------------------------------------------------------------------------


def test_a_row_that_was_changed_is_reported_and_does_not_stop_the_others(furniture: Furniture) -> None:
    secrets = fill(furniture, "prod", 5)
    bad = list(secrets)[2]
    KeyVersion.objects.filter(pk=bad).update(wrapped_dek=b"another")
    secrets.pop(bad)
    fresh_kek("prod")
    for verb, tells in (("rewrap", "4 row(s) moved"), ("verify", "4 of 5 row(s) open")):
        done = kek(verb, "prod")
        assert done.exit_code == 1
        assert tells in done.output
        assert f"version {bad} does not open" in done.output
        assert "1 row(s) do not open" in done.output
    all_open(secrets)
    assert KeyVersion.objects.get(pk=bad).kek_kid != primary("prod")


def test_a_row_whose_signature_is_broken_is_not_signed_again(furniture: Furniture) -> None:
    secrets = fill(furniture, "prod", 2)
    bad = list(secrets)[1]
    KeyVersion.objects.filter(pk=bad).update(withheld_at=NOW)
    fresh_kek("prod")
    result = rewrap_environment(SYSTEM, "prod", now=NOW)
    assert (result.rows, [(one.id, one.why) for one in result.broken]) == (1, [(str(bad), "integrity")])


def test_a_row_whose_kek_is_gone_says_which(furniture: Furniture) -> None:
    fill(furniture, "prod", 1)
    old = primary("prod")
    fresh_kek("prod")
    present_keys().keks.retire("prod", old)
    done = kek("rewrap", "prod")
    assert done.exit_code == 1
    assert "Keep the older KEKs" in done.output
    assert f"needs {old}, which is not to be had here" in done.output


def test_an_environment_that_is_not_held_is_named(furniture: Furniture) -> None:
    done = kek("rewrap", "moon", "prod")
    assert done.exit_code == 1
    assert "no KEK of moon. It holds dev, staging, prod, system." in done.output


def test_a_keyring_from_the_environment_is_not_changed(furniture: Furniture, settings: Any) -> None:
    secrets = fill(furniture, "prod", 1)
    settings.KEYTURN_KEYRING_JSON = Path(settings.KEYTURN_KEYRING).read_text(encoding="utf-8")
    kid = primary("prod")
    for arguments in (("add", "prod"), ("promote", "prod", kid), ("retire", "prod", kid)):
        done = kek(*arguments)
        assert done.exit_code == 1
        assert "came from the environment" in done.output
    assert not AuditEvent.objects.filter(name__startswith="kek:").exists()
    assert "0 row(s) moved" in run("rewrap")
    all_open(secrets)


# While others work ---------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_readers_never_fail_while_keks_come_and_rows_move(data_dir: Path, transactional_db: None) -> None:
    furniture = furnish()
    secrets = fill(furniture, "prod", 40)
    over = threading.Event()

    def move() -> int:
        try:
            for _ in range(4):
                fresh_kek("prod")
                rewrap_environment(SYSTEM, "prod", now=NOW, batch=10)
        finally:
            over.set()
        return 0

    def read() -> int:
        dice, count = random.Random(), 0
        while not over.is_set() or not count:
            version_id = dice.choice(list(secrets))
            version = KeyVersion.objects.select_related("key__service", "key__environment").get(pk=version_id)
            verify(version)
            assert open_version(version) == secrets[version_id]
            count += 1
        return count

    outcomes = at_once(move, read, read, read)
    assert not raised(outcomes), raised(outcomes)
    assert kids("prod") == {primary("prod")}
    all_open(secrets)
    assert broken_at() is None


@pytest.mark.django_db(transaction=True)
def test_two_rewraps_and_a_promotion_at_once_end_on_one_kek(data_dir: Path, transactional_db: None) -> None:
    furniture = furnish()
    secrets = fill(furniture, "prod", 30)
    fresh_kek("prod")

    def rewrap() -> int:
        return rewrap_environment(SYSTEM, "prod", now=NOW).rows

    def promote() -> int:
        fresh_kek("prod")
        return rewrap_environment(SYSTEM, "prod", now=NOW).rows

    outcomes = at_once(rewrap, promote, rewrap)
    assert not raised(outcomes), raised(outcomes)
    assert kids("prod") == {primary("prod")}
    all_open(secrets)
