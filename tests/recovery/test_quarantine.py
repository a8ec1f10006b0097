"""Yesterday's backup is put back: nothing that ended since is ever given out again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.keystore import open_version
from keyvault.models import (
    AuditEvent,
    ConsumerToken,
    Grant,
    Heartbeat,
    Key,
    KeyVersion,
    Quarantine,
    SetupLink,
    User,
    UserToken,
)
from keyvault.services import checkpoints, consumers, keys, people, quarantine, setup_links
from rotation.models import KeySchedule, Rotation, RotationPolicy
from rotation.services import journal, policies, reconciling, restoring, ticking
from tests.conftest import Tell
from tests.installations import Installation
from tests.integration.furniture import (
    Furniture,
    answered,
    ask,
    far_away,
    fresh_secret,
    furnish,
    reread,
    serving,
)
from tests.recovery.putting_back import Safe, back_up, command, new_host, restore

pytestmark = pytest.mark.xdist_group("recovery")


@dataclass
class Consumer:
    """A key, and the token that may read it."""

    furniture: Furniture
    key: Key
    token: ConsumerToken
    secret: Secret

    @property
    def service(self) -> str:
        return self.furniture.service.slug

    def gets(self) -> str:
        """The code of the refusal, or the value."""
        answer = ask(self.secret, self.service, "prod")
        return answer.code if answer.status != 200 else str(answer.document["key"])


def consumer() -> Consumer:
    furniture = furnish()
    key = furniture.key()
    token, secret = furniture.reader()
    return Consumer(furniture, key, token, secret)


def rotate(key: Key) -> Secret:
    """What a rotation does to a key, from first to last."""
    secret = fresh_secret()
    with transaction.atomic():
        key = keys.lock_key(key.id)
        version = keys.request_version(SYSTEM, key, now=clock.now())
        keys.fill_version(SYSTEM, key, version, secret, provider_key_id="", imported=False, now=clock.now())
        keys.offer(
            SYSTEM, key, version, salt=b"s" * 32, canaries=(), pinned=(), refresh_seconds=10, now=clock.now()
        )
        keys.promote(SYSTEM, key, now=clock.now())
        assert key.previous is not None
        keys.mark_revoked(SYSTEM, key, key.previous, now=clock.now())
    return secret


@dataclass
class Ended:
    """Ids of what ended after the backup, twenty in all."""

    tokens: list[ConsumerToken]
    user_tokens: list[UserToken]
    grants: list[Grant]
    versions: list[KeyVersion]
    people: list[User]

    def __len__(self) -> int:
        parts = (self.tokens, self.user_tokens, self.grants, self.versions, self.people)
        return sum(len(part) for part in parts)

    def alive(self) -> int:
        """How many of them would count now."""
        ids = [row.pk for row in self.tokens]
        return (
            ConsumerToken.objects.filter(pk__in=ids, revoked_at=None).count()
            + UserToken.objects.filter(pk__in=[row.pk for row in self.user_tokens], revoked_at=None).count()
            + Grant.objects.filter(pk__in=[row.pk for row in self.grants]).count()
            + KeyVersion.objects.filter(pk__in=[row.pk for row in self.versions], revoked_at=None).count()
            + User.objects.filter(pk__in=[row.pk for row in self.people], is_active=True).count()
        )


def to_end(furniture: Furniture) -> Ended:
    tokens = [furniture.reader()[0] for _ in range(9)]
    grants = [Grant.objects.get(consumer=furniture.reader()[0].consumer) for _ in range(3)]
    admin = people.ensure_admin("keeper", now=clock.now())
    user_tokens = [
        people.create_user_token(admin, expires_at=far_away(), now=clock.now())[0] for _ in range(4)
    ]
    versions = [key.current for key in (furnish().key() for _ in range(2)) if key.current is not None]
    others = [people.ensure_admin(f"leaver-{n}", now=clock.now()) for n in range(2)]
    return Ended(tokens, user_tokens, grants, versions, others)


def end(ended: Ended) -> None:
    now = clock.now()
    for token in ended.tokens:
        consumers.revoke_token(SYSTEM, token, now=now)
    for user_token in ended.user_tokens:
        with transaction.atomic():
            people.revoke_user_token(SYSTEM, user_token, now=now)
    for grant in ended.grants:
        consumers.remove_grant(SYSTEM, grant, now=now)
    for version in ended.versions:
        with transaction.atomic():
            keys.mark_revoked(SYSTEM, keys.lock_key(version.key_id), version, now=now)
    for user in ended.people:
        with transaction.atomic():
            people.set_active(SYSTEM, user, active=False, now=now)


def codes(of: Sequence[Consumer]) -> set[str]:
    return {one.gets() for one in of}


def test_twenty_revocations_and_five_rotations_after_the_backup(
    installation: Installation, tmp_path: Path, tell: Tell
) -> None:
    restoring.watch(clock.now())
    rotated, quiet = [consumer() for _ in range(5)], consumer()
    ended = to_end(quiet.furniture)
    safe = Safe(tmp_path)
    file = back_up(safe)
    restoring.watch(clock.now())
    end(ended)
    values = [rotate(one.key) for one in rotated]
    restoring.watch(clock.now())
    assert (len(ended), ended.alive()) == (20, 0)

    with new_host(installation, tmp_path / "new"):
        assert "keyturn restore_reconcile" in restore(file, safe)
        assert ended.alive() == 20, "the backup does not know of their end"
        everybody = [*rotated, quiet]
        assert codes(everybody) == {"quarantined"}
        restoring.watch(clock.now())
        assert AuditEvent.objects.filter(name="database:restored").count() == 1
        with pytest.raises(CommandError) as left:
            command("restore_reconcile")
        assert all(f"{one.service}/prod" in str(left.value) for one in rotated)
        assert ended.alive() == 0
        assert codes(rotated) == {"quarantined"}
        assert quiet.gets() == open_current(quiet.key)
        for one, value in zip(rotated, values, strict=True):
            reconciling.supply(SYSTEM, one.key, value, now=clock.now())
        assert [one.gets() for one in rotated] == [value.expose() for value in values]
        assert not Quarantine.objects.filter(key__in=[one.key for one in rotated]).exists()
        # Those that were revoked wait for their value too; whatever stood there is dead.
        assert {row.key_id for row in quarantine.held_keys()} == {row.key_id for row in ended.versions}
        assert checkpoints.newest(tmp_path / "new" / "data" / "checkpoints") is not None
        watched = restoring.watch(clock.now())
        assert watched == 0
        assert quarantine.everything() is None, "it is told once"
    tell("after the restore", {"ended again": len(ended), "values asked for": len(rotated)})


def open_current(key: Key) -> str:
    current = reread(key).current
    assert current is not None
    return open_version(current).expose()


def test_a_process_that_serves_hears_of_it_with_its_next_answer(installation: Installation) -> None:
    """Also where the answer stands in its memory; and of the end of it."""
    one, other = consumer(), consumer()

    def change(what: Callable[[], None]) -> None:
        try:
            what()
        finally:
            connection.close()

    def hold_all() -> None:
        quarantine.hold_everything("restored", sequence=3, now=clock.now())

    def hold_one() -> None:
        quarantine.hold(one.key, "restored", sequence=3, now=clock.now())

    def release_one() -> None:
        quarantine.release(one.key)

    async def story() -> list[tuple[int, int]]:
        seen = []
        for what in (None, None, hold_all, quarantine.release_everything, hold_one, None, release_one):
            if what is not None:
                await asyncio.to_thread(change, what)
            first, second = [await answered(each.secret, each.service) for each in (one, other)]
            seen.append((first.status, second.status))
        return seen

    held_all, held_one, free = (503, 503), (503, 200), (200, 200)
    assert serving(story) == [free, free, held_all, free, held_one, held_one, free]


def test_everything_says_so(installation: Installation, client: Client) -> None:
    one = consumer()
    keeper = people.ensure_admin("keeper", now=clock.now())
    setup_links.new_password(SYSTEM, keeper, now=clock.now())
    client.force_login(keeper)
    assert client.get("/").status_code == 200
    quarantine.hold_everything("the database was restored from a backup", sequence=3, now=clock.now())
    assert client.get("/").status_code == 302, "sessions end"
    assert not SetupLink.objects.exists()
    client.force_login(User.objects.get(pk=keeper.pk))
    assert b"restore_reconcile" in client.get("/").content
    assert client.get("/readyz").json()["checks"]["quarantine"]["status"] == "failed"
    assert [found.id for found in run_checks(databases=["default"]) if "rotation" in str(found.id)] == [
        "rotation.W001"
    ]
    quarantine.hold(one.key, "why", sequence=3, now=clock.now())
    quarantine.release_everything()
    assert [found.id for found in run_checks(databases=["default"]) if "rotation" in str(found.id)] == [
        "rotation.W002"
    ]
    assert client.get("/readyz").json()["checks"]["quarantine"] == {"status": "ok", "held": 1}
    assert b"--supply" in client.get("/").content


def test_no_rotation_goes_on_and_nothing_starts(installation: Installation) -> None:
    one, now = consumer(), clock.now()
    policies.assign_policy(SYSTEM, one.key, RotationPolicy.objects.get(slug="fast"), now=now)
    KeySchedule.objects.update(next_rotation_at=now)
    quarantine.hold_everything("the database was restored from a backup", sequence=3, now=now)
    ticking.tick(now, ring=lambda _: None)
    assert Heartbeat.objects.filter(name="beat", at=now).exists()
    assert not Rotation.objects.exists()
    quarantine.release_everything()
    ticking.tick(now, ring=lambda _: None)
    assert Rotation.objects.count() == 1


def test_without_a_journal_nothing_is_believed(installation: Installation, tmp_path: Path) -> None:
    one = consumer()
    admin = people.ensure_admin("keeper", now=clock.now())
    people.create_user_token(admin, expires_at=far_away(), now=clock.now())
    safe = Safe(tmp_path)
    file = back_up(safe)
    with new_host(installation, tmp_path / "new", beside=("keyring.json",)):
        assert "keyturn restore_reconcile" in restore(file, safe)
        with pytest.raises(CommandError, match="does not reach back"):
            command("restore_reconcile")
        assert one.gets() == "quarantined"
        out = StringIO()
        with pytest.raises(CommandError, match=f"{one.service}/prod"):
            call_command("restore_reconcile", "--without-journal", stdout=out)
        assert not UserToken.objects.filter(revoked_at=None).exists()
        assert one.gets() == "quarantined"
        command("restore_reconcile", "--keep", f"{one.service}/prod")
        assert one.gets() == open_current(one.key)


def test_the_journal_survives_a_torn_line_and_tells_no_secret(installation: Installation) -> None:
    restoring.watch(clock.now())
    one = consumer()
    consumers.revoke_token(SYSTEM, one.token, now=clock.now())
    restoring.watch(clock.now())
    path = journal.file()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes() + b'{"sequence": 7, "ma')
    rotate(one.key)
    restoring.watch(clock.now())
    text = path.read_text()
    assert one.secret.expose() not in text
    assert open_current(one.key) not in text
    assert journal.lost_since(0).complete
    assert journal.lost_since(0).lines == (), "all of it is in the database"
    names = [line.split('"name":"')[1].split('"')[0] for line in text.splitlines() if '"name"' in line]
    assert names[-3:] == ["key:version:issued", "key:promoted", "key:version:revoked"]
