"""Drills: what docs/recovery.md promises, done with its commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management.base import CommandError
from django.db import connection, connections

from keyvault import clock, keystore
from keyvault.actors import SYSTEM
from keyvault.crypto.errors import KeyringError
from keyvault.crypto.keyring import Keyring
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Key, KeyVersion
from keyvault.models import Installation as InstallationRow
from keyvault.project import installation as starting
from keyvault.project.databases import database_settings
from keyvault.services import keks, quarantine
from rotation import operations
from rotation.services import policies, reconciling, restoring
from rotation.simulators import RunningSimulator, start
from tests.installations import Installation
from tests.integration.furniture import ask, broken_at, fresh_secret, furnish
from tests.migrated import migrate
from tests.recovery.putting_back import Safe, back_up, command, everything, new_host, restore
from tests.stories.conftest import BRISK
from tests.stories.world import World

pytestmark = pytest.mark.xdist_group("recovery")


@pytest.fixture
def provider() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


# During a rotation ---------------------------------------------------------------------------------


def values() -> dict[Any, str]:
    rows = KeyVersion.objects.filter(ciphertext__isnull=False).select_related(
        "key__service", "key__environment"
    )
    return {row.pk: open_version(row).expose() for row in rows}


def test_a_restore_during_a_rotation(
    installation: Installation, provider: RunningSimulator, settings: Any, tmp_path: Path
) -> None:
    """All values are what they were; after a look and a resume the rotation goes to its end."""
    w = World(provider, settings, policy=BRISK, now=clock.now())
    restoring.watch(w.now)
    w.start()
    w.run_to("monitor")
    safe = Safe(tmp_path)
    file = back_up(safe)
    before, stage = values(), w.rotation.stage
    w.run_to("revoke")
    restoring.watch(w.now)
    with new_host(installation, tmp_path / "new"):
        restore(file, safe)
        assert values() == before
        assert len(before) == 2
        assert (w.rotation.stage, w.rotation.attention) == (stage, "restored")
        w.now += timedelta(minutes=1)
        w.tick(60, traffic=False)
        assert w.rotation.stage == stage, "nothing goes on in quarantine"
        done = reconciling.reconcile(SYSTEM, now=w.now)
        assert done.held == [], "the provider honours what stands here"
        del w.desk
        w.verb("resume")
        w.run_to("succeeded")
        assert w.failures == {}
        assert not w.honoured(1)
        assert w.honoured(2)


def test_in_quarantine_no_provider_is_called(
    installation: Installation, provider: RunningSimulator, settings: Any
) -> None:
    w = World(provider, settings, policy=BRISK, now=clock.now())
    w.start()
    operation, made = w.rung.popleft(), len(w.control.keys())
    quarantine.hold_everything("restored", sequence=1, now=w.now)
    assert not operations.perform(operation, w.now)
    assert len(w.control.keys()) == made
    quarantine.release_everything()
    assert operations.perform(operation, w.now, ring=w.rung.append)
    assert len(w.control.keys()) == made + 1


# The keyring ---------------------------------------------------------------------------------------


def kids(data: Path) -> set[str]:
    document = json.loads((data / "keyring.json").read_text())
    return {kid for of in document["environments"].values() for kid in of["keks"]}


def test_a_lost_keyring_is_recovered_from_escrow(installation: Installation, tmp_path: Path) -> None:
    """By docs/recovery.md alone: escrow, loss, a start that refuses, recovery, and a delivery."""
    furniture, secret = furnish(), fresh_secret()
    furniture.key(secret=secret)
    _, token = furniture.reader()
    keks.check_canaries(now=clock.now())
    alice, bob, eve = (Safe(tmp_path, name) for name in ("alice", "bob", "eve"))
    whom = ("--recipient", alice.recipient, "--recipient", bob.recipient)
    each, both = tmp_path / "each.sealed", tmp_path / "both.sealed"
    command("keyring", "escrow", str(each), *whom)
    command("keyring", "escrow", str(both), *whom, "--together")
    needed = kids(installation.data)
    assert AuditEvent.objects.filter(name="keyring:escrowed").count() == 2
    keyring = installation.data / "keyring.json"
    assert not any(
        json.loads(keyring.read_text())["service"]["pepper"].encode() in file.read_bytes()
        for file in (each, both)
    )

    keyring.unlink()
    with pytest.raises(KeyringError, match="There is no keyring") as refused:
        starting.prepare()
    assert all(kid in str(refused.value) for kid in needed)
    assert not keyring.exists(), "no fresh one is made in its place"
    for file, holders in ((each, (eve,)), (both, (alice,)), (both, (bob, eve))):
        with pytest.raises(CommandError, match="None of these identities"):
            recover(file, *holders)
    for file, holders in ((each, (bob,)), (both, (bob, alice))):
        keyring.unlink(missing_ok=True)
        recover(file, *holders)
        assert kids(installation.data) == needed
        assert keyring.stat().st_mode & 0o777 == 0o600
        assert ask(token, furniture.service.slug).document["key"] == secret.expose()
    with pytest.raises(CommandError, match="never overwritten"):
        recover(each, alice)


def recover(file: Path, *holders: Safe) -> str:
    more = [word for holder in holders for word in ("--identity", str(holder.file))]
    return command("keyring", "recover", str(file), *more)


def test_a_strange_keyring_opens_nothing_and_says_what_is_missing(
    installation: Installation, tmp_path: Path
) -> None:
    key = furnish().key()
    assert key.current is not None
    safe = Safe(tmp_path)
    file = back_up(safe)
    keyring = installation.data / "keyring.json"
    keyring.rename(tmp_path / "right.json")
    Keyring.create_file(keyring, ["dev", "staging", "prod", "system"])
    with pytest.raises(KeyringError, match=f"prod/{key.current.kek_kid}"):
        starting.prepare()
    with new_host(installation, tmp_path / "new", beside=("keyring.json",)):
        with pytest.raises(CommandError, match="not genuine"):
            restore(file, safe)
        assert not Key.objects.exists()


def test_a_backup_needs_the_keks_that_it_names(installation: Installation, tmp_path: Path) -> None:
    key = furnish().key()
    assert key.current is not None
    safe = Safe(tmp_path)
    file = back_up(safe)
    with new_host(installation, tmp_path / "new") as fresh:
        path = fresh.data / "keyring.json"
        document = json.loads(path.read_text())
        del document["environments"]["prod"]
        path.write_text(json.dumps(document))
        with pytest.raises(CommandError, match=f"lacks the KEKs prod/{key.current.kek_kid}"):
            restore(file, safe)
        assert not Key.objects.exists()
        restore(file, safe, "--without-keks")
        assert Key.objects.exists()


# From SQLite to PostgreSQL -------------------------------------------------------------------------


def parsed(rows: dict[str, list[bytes]]) -> dict[str, list[Any]]:
    """PostgreSQL keeps the members of a JSON object in an order of its own."""
    return {name: [json.loads(line) for line in lines] for name, lines in rows.items()}


@contextmanager
def on_sqlite(data: Path) -> Iterator[Installation]:
    """An installation of a small beginning, in force: this process talks to a SQLite file meanwhile."""
    data.mkdir(mode=0o700)
    Keyring.create_file(data / "keyring.json", ["dev", "staging", "prod", "system"])
    held = connections.settings["default"]
    old, paths = dict(held), (django_settings.KEYTURN_DATA, django_settings.KEYTURN_KEYRING)
    _connect({**old, **database_settings("", data, pool_size=0)})
    django_settings.KEYTURN_DATA, django_settings.KEYTURN_KEYRING = data, data / "keyring.json"
    try:
        migrate()
        yield Installation(data, "")
    finally:
        _connect(old)
        django_settings.KEYTURN_DATA, django_settings.KEYTURN_KEYRING = paths


def _connect(settings: dict[str, Any]) -> None:
    connection.close()
    held = connections.settings["default"]
    held.clear()
    held.update(settings)
    del connections["default"]
    keystore.forget_installation()


@pytest.mark.postgresql
def test_from_sqlite_to_postgresql(installation: Installation, tmp_path: Path) -> None:
    """Every row is the same, and consumers go on with the tokens that they have."""
    safe = Safe(tmp_path)
    with on_sqlite(tmp_path / "small") as small:
        assert connection.vendor == "sqlite"
        furniture, secret = furnish(), fresh_secret()
        furniture.key(secret=secret)
        _, token = furniture.reader()
        policies.install_all(now=clock.now())
        keks.check_canaries(now=clock.now())
        restoring.watch(clock.now())
        file = back_up(safe)
        before = parsed(everything())
        identity = InstallationRow.objects.get().id
    moved = Installation(small.data, installation.url)
    with new_host(moved, tmp_path / "new"):
        assert connection.vendor == "postgresql"
        assert restore(file, safe).endswith("Next: keyturn serve\n")
        after = parsed(everything())
        assert {name for name in before if before[name] != after[name]} == {
            "keyvault.backup",
            "keyvault.auditevent",
            "keyvault.audithead",
        }
        assert InstallationRow.objects.get().id == identity
        assert quarantine.everything() is None
        assert broken_at() is None
        starting.prepare()
        assert ask(token, furniture.service.slug).document["key"] == secret.expose()
