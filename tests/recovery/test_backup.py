"""A backup is whole, genuine and closed to all but its recipients; put back, every row is what it was."""

from __future__ import annotations

import json
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management.base import CommandError
from django.db import connection, transaction

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto import archive
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Backup, ConsumerToken, Delivery, Key, KeyVersion, Team
from keyvault.services import backups, keks, people, quarantine, tables
from rotation.services import restoring
from tests.conftest import Tell
from tests.installations import Installation
from tests.integration.furniture import fresh_secret, furnish
from tests.recovery.putting_back import Safe, back_up, command, everything, new_host, restore

pytestmark = pytest.mark.xdist_group("recovery")


def deliver(token: ConsumerToken, key: Key, count: int) -> None:
    Delivery.objects.bulk_create(
        Delivery(
            at=clock.now(),
            key=key,
            version=key.current,
            consumer_id=token.consumer_id,
            token=token,
            instance=f"web-{number} \u00fc",
            label="current",
            credential="consumer_token",
            status=200,
            request_id="r",
        )
        for number in range(count)
    )


def test_every_row_comes_back_as_it_was(installation: Installation, tmp_path: Path, tell: Tell) -> None:
    furniture = furnish()
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    token, _ = furniture.reader()
    assert key.current is not None
    deliver(token, key, 1200)  # more than two batches of one table
    keks.check_canaries(now=clock.now())
    safe = Safe(tmp_path)
    restoring.watch(clock.now())
    file = back_up(safe)
    before = everything()
    with new_host(installation, tmp_path / "new"):
        printed = restore(file, safe)
        assert printed.endswith("Next: keyturn serve\n")
        after = everything()
        # The backup is listed, and told in the audit, when it is made: after what it holds.
        told = {"keyvault.backup", "keyvault.auditevent", "keyvault.audithead"}
        assert {name for name in before if before[name] != after[name]} == told
        assert after["keyvault.auditevent"] == before["keyvault.auditevent"][:-1]
        again = Key.objects.get(pk=key.pk)
        assert again.current is not None
        assert open_version(again.current).expose() == secret.expose()
        assert quarantine.everything() is None
        deliver(token, key, 1)
        people.create_team(SYSTEM, slug="after-the-restore", name="", now=clock.now())
    tell("put back", {"rows, byte by byte": sum(len(rows) for rows in before.values())})


def test_only_whole_and_genuine_files_are_taken(installation: Installation, tmp_path: Path) -> None:
    furnish().key()
    safe, other = Safe(tmp_path), Safe(tmp_path, "other")
    file = back_up(safe)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(safe.file).st_mode) == 0o600
    assert command("backup", "--verify", str(file)).startswith("whole and genuine")
    whole = file.read_bytes()
    places = {
        "one byte of a part": whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:],
        "one byte of the header": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "cut off": whole[:-1000],
        "something more": whole[:-2000] + b"x" + whole[-2000:],
        "another manifest": whole.replace(b'"made_at": "20', b'"made_at": "19'),
        "no backup": b"hello",
    }
    with new_host(installation, tmp_path / "new"):
        for name, data in places.items():
            file.with_name("bad").write_bytes(data)
            with pytest.raises(CommandError):
                command("backup", "--verify", str(file.with_name("bad")))
            with pytest.raises(CommandError):
                restore(file.with_name("bad"), safe)
            assert not Team.objects.exists(), name
        with pytest.raises(CommandError, match="not sealed for this identity"):
            restore(file, other)
        assert not tables.first_with_rows(list(tables.tables().values()))


def test_nothing_of_it_is_readable(installation: Installation, tmp_path: Path) -> None:
    furniture = furnish()
    secret = fresh_secret()
    furniture.key(secret=secret)
    data = back_up(Safe(tmp_path)).read_bytes()
    parts = data[: data.rindex(b'"format"')]
    for text in (secret.expose(), furniture.team.slug, furniture.service.slug, str(furniture.team.id)):
        assert text.encode() not in parts
    keyring = json.loads((installation.data / "keyring.json").read_text())
    for held in (*keyring["environments"]["prod"]["keks"].values(), keyring["service"]["row_mac"]):
        assert held.encode() not in data
    assert list(installation.data.rglob("*writing*")) == []


def test_a_backup_that_breaks_off_leaves_nothing(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: archive.ArchiveWriter, manifest: object) -> None:
        raise OSError(28, "No space left on device", "x")

    safe = Safe(tmp_path)
    monkeypatch.setattr(archive.ArchiveWriter, "finish", full)
    with pytest.raises(CommandError, match="No space left"):
        back_up(safe)
    assert list((installation.data / "backups").iterdir()) == []
    assert not Backup.objects.exists()


def test_a_restore_wants_an_empty_database_and_undoes_itself(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish().key()
    safe = Safe(tmp_path)
    file = back_up(safe)
    with pytest.raises(CommandError, match="not empty"):
        restore(file, safe)
    with new_host(installation, tmp_path / "new"):
        real, seen = tables.write, []

        def half(model: type, *more: object) -> None:
            seen.append(model)
            if len(seen) == 20:
                raise backups.CannotBackUp("the disk is full")
            real(model, *more)  # type: ignore[arg-type]

        monkeypatch.setattr(tables, "write", half)
        with pytest.raises(backups.CannotBackUp):
            restore(file, safe)
        assert not tables.first_with_rows(list(tables.tables().values()))
        monkeypatch.setattr(tables, "write", real)
        restore(file, safe)
        assert Team.objects.exists()


def test_a_backup_is_of_one_moment_and_keeps_nobody_waiting(
    installation: Installation, tmp_path: Path
) -> None:
    """A writer commits while the tables are read; nothing of it is in the snapshot."""
    furnish()
    with tables.snapshot():
        before = list(tables.read(Team))
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("UPDATE keyvault_team SET name = 'meanwhile'")
        finally:
            other.close()
        assert list(tables.read(Team)) == before
    assert set(Team.objects.values_list("name", flat=True)) == {"meanwhile"}


def test_keks_are_needed_until_the_backup_expires(installation: Installation, tmp_path: Path) -> None:
    key = furnish().key("prod")
    assert key.current is not None
    kid = key.current.kek_kid
    back_up(Safe(tmp_path), "--keep", "3")
    now = clock.now()
    assert backups.kids_in_backups(now + timedelta(days=2)) == {kid}
    assert backups.kids_in_backups(now + timedelta(days=4)) == set()
    assert KeyVersion.objects.filter(kek_kid=kid).count() == backups.kids_in_use()["prod"][kid]
    assert AuditEvent.objects.get(name="backup:made").details["kids"] == [kid]


def test_it_says_what_is_missing(installation: Installation, tmp_path: Path, settings: object) -> None:
    with pytest.raises(CommandError, match="KEYTURN_BACKUP_RECIPIENTS"):
        command("backup")
    with pytest.raises(CommandError, match="begins with keyturn-recipient-"):
        command("backup", "--recipient", "keyturn-recipient-" + "A" * 48)
    safe = Safe(tmp_path)
    with pytest.raises(CommandError, match="File exists"):
        command("backup", "keygen", str(safe.file))
    with transaction.atomic():
        assert tables.is_migrated()
