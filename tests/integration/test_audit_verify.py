"""audit_verify: whatever is changed in the trail is found, and what is whole is called whole."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.crypto.keyring import Keyring
from keyvault.models import AuditEvent, AuditHead, Delivery, Key, KeyVersion
from keyvault.services import checkpoints, keys, retention, sealing, usage, verifying
from rotation.services import anchoring, replaying
from tests.conftest import Tell
from tests.integration.furniture import NOW, furnish, without_guards
from tests.integration.records import Traffic, two_versions

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MUTATIONS = 500


@pytest.fixture
def trail(data_dir: Path) -> Traffic:
    """Fifty events, twelve deliveries in four seals, two checkpoints, the second at the end."""
    reader, _ = two_versions(furnish())
    for n in range(4):
        for _ in range(3):
            reader.deliver(NOW + n * SECOND)
        sealing.seal(NOW + n * SECOND)
    happen(14)
    anchoring.keep(NOW)
    happen(14)
    assert anchoring.keep(NOW + timedelta(minutes=1)) is not None
    return reader


def happen(times: int) -> None:
    for n in range(times):
        audit.record("team:created", actor=SYSTEM, now=NOW, reason=f"r{n}", team=f"t{n}")


def prove(now: Any = NOW) -> verifying.Proof:
    return verifying.prove([anchoring.own_directory()], now)


def verify(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the answer of the command."""
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify", "--json", *arguments, stdout=out)
    return int(str(ended.value.code)), json.loads(out.getvalue())


# Whole ---------------------------------------------------------------------------------------------


def test_a_trail_as_it_was_written_is_intact(trail: Traffic) -> None:
    code, told = verify()
    assert (code, told["verdict"], told["finding"]) == (0, "intact", None)
    assert (told["events"], told["seals"], told["deliveries"]) == (AuditEvent.objects.count(), 4, 12)
    assert told["checkpoints"] == 2
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("audit_verify", stdout=out)
    assert out.getvalue().startswith("intact: every event")


def test_a_new_installation_is_intact(data_dir: Path) -> None:
    assert verify()[0] == 0


def test_what_goes_on_while_it_is_verified_is_no_tampering(trail: Traffic) -> None:
    seen = verifying.events(until=verifying._head().sequence)
    next(seen)
    happen(3)
    sealing.seal(NOW)
    assert prove().finding is None


def test_many_pages_are_read_like_one(trail: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "PAGE", 3)
    monkeypatch.setattr(sealing, "BATCH", 2)
    found = prove()
    assert (found.finding, found.deliveries) == (None, 12)


def test_what_was_forgotten_on_purpose_is_not_missed(trail: Traffic, settings: Any) -> None:
    settings.KEYTURN_DELIVERIES_KEPT = 8
    usage.roll_up()
    assert retention.tidy(NOW + timedelta(days=30))["deliveries"] == 12
    anchoring.keep(NOW + timedelta(hours=1))
    found = prove()
    assert (found.finding, found.deliveries, found.forgotten) == (None, 0, 12)


# Unanchored, unknown -------------------------------------------------------------------------------


def test_events_that_no_checkpoint_holds_are_told(trail: Traffic) -> None:
    happen(5)
    assert prove().unanchored == 0  # they are young: a checkpoint is on its way
    found = prove(NOW + timedelta(minutes=3))
    assert (found.finding, found.unanchored, found.unanchored_since) == (None, 5, NOW)
    code, told = verify()  # by now they are
    assert (code, told["verdict"]) == (2, "unanchored")


def test_deliveries_that_no_seal_holds_are_told(trail: Traffic) -> None:
    trail.deliver(NOW)
    anchoring.keep(NOW + timedelta(minutes=5))
    code, told = verify()
    assert (code, told["unsealed"]) == (2, 1)


def test_no_checkpoint_at_all_is_told(trail: Traffic, tmp_path: Path, settings: Any) -> None:
    settings.KEYTURN_DATA = tmp_path / "empty"
    assert verify()[0] == 2


def test_with_another_keyring_nothing_can_be_said(trail: Traffic, tmp_path: Path, settings: Any) -> None:
    Keyring.create_file(tmp_path / "other.json", ["dev", "staging", "prod", "system"])
    settings.KEYTURN_KEYRING = tmp_path / "other.json"
    code, told = verify()
    assert (code, told["verdict"]) == (3, "unknown")
    settings.KEYTURN_KEYRING = tmp_path / "gone.json"
    assert verify()[0] == 3


def test_checkpoints_that_are_not_there_are_asked_for(trail: Traffic, tmp_path: Path) -> None:
    code, told = verify("--checkpoints", str(tmp_path / "elsewhere"))
    assert code == 3
    assert "elsewhere" in told["message"]


def test_a_copy_of_the_checkpoints_proves_as_much(trail: Traffic, tmp_path: Path) -> None:
    (file,) = anchoring.own_directory().iterdir()
    (tmp_path / "copy.jsonl").write_bytes(file.read_bytes())
    file.unlink()
    assert verify()[0] == 2
    assert verify("--checkpoints", str(tmp_path / "copy.jsonl"))[0] == 0


# Tampered ------------------------------------------------------------------------------------------


@pytest.fixture
def unguarded(trail: Traffic) -> Iterator[Traffic]:
    """The database in the hands of somebody who may do everything in it."""
    with without_guards():
        yield trail


def test_a_database_without_its_end_is_found_by_the_checkpoint(unguarded: Traffic) -> None:
    cut_off(AuditHead.objects.get().sequence - 3)
    code, told = verify()
    assert (code, told["finding"]["sequence"]) == (1, AuditHead.objects.get().sequence + 1)
    assert "checkpoint" in told["message"]


def test_everything_gone_is_found(unguarded: Traffic) -> None:
    AuditEvent.objects.all().delete()
    AuditHead.objects.all().delete()
    assert verify()[0] == 1


def test_a_trail_that_was_written_anew_is_found(unguarded: Traffic) -> None:
    """By somebody who has no key of the chain, though the rest of it fits."""
    rebuild(b"\7" * 32)
    assert prove().finding == verifying.Finding("Event 1 is not as it was written.", 1)


def test_a_checkpoint_that_was_changed_is_found(trail: Traffic) -> None:
    (file,) = anchoring.own_directory().iterdir()
    file.write_text(file.read_text().replace('"sequence":', '"sequence":1'))
    code, told = verify()
    assert code == 1
    assert "line" in told["message"]


def test_what_a_person_gave_up_in_a_restore_is_no_tampering(unguarded: Traffic) -> None:
    last = AuditHead.objects.get().sequence - 5
    cut_off(last)
    assert prove().finding is not None
    anchoring.write(checkpoints.here(NOW, restored_to=last))
    found = prove()
    assert (found.finding, found.given_up) == (None, 5)


@pytest.mark.parametrize("change", ["labels", "state", "state put back", "gone"])
def test_tables_that_stand_otherwise_than_their_events_tell_are_found(trail: Traffic, change: str) -> None:
    assert list(replaying.differences(until=10**6)) == []
    with without_guards():
        if change == "labels":
            Key.objects.update(previous=KeyVersion.objects.get(number=2))
        elif change == "state":
            KeyVersion.objects.filter(number=2).update(state="disabled", disabled_at=NOW)
        elif change == "state put back":
            keys.mark_disabled(SYSTEM, trail.key, trail.version, now=NOW)
            KeyVersion.objects.filter(number=1).update(state="active")
        else:
            KeyVersion.objects.filter(number=2).delete()
    assert len(list(replaying.differences(until=10**6))) == 1


# Five hundred ways -----------------------------------------------------------------------------------


def rebuild(key: bytes) -> None:
    previous = b""
    for event in AuditEvent.objects.order_by("sequence"):
        previous = audit.chain_mac(previous, event, key)
        AuditEvent.objects.filter(pk=event.pk).update(mac=previous)
    AuditHead.objects.update(mac=previous)


def cut_off(last: int) -> None:
    AuditEvent.objects.filter(sequence__gt=last).delete()
    mac = AuditEvent.objects.get(sequence=last).mac
    AuditHead.objects.update(sequence=last, mac=mac)


def change_event(dice: random.Random, sequence: int) -> None:
    columns: dict[str, Any] = {
        "at": NOW + timedelta(microseconds=dice.randint(1, 10**9)),
        "name": "user:created",
        "actor_kind": "user",
        "actor": "mallory",
        "team_id": "00000000-0000-0000-0000-00000000000a",
        "service": "another",
        "environment": "nowhere",
        "subject": "another",
        "reason": "a better one",
        "details": {"team": "another"},
        "request_id": "another",
        "mac": dice.randbytes(32),
    }
    name = dice.choice(sorted(columns))
    AuditEvent.objects.filter(pk=sequence).update(**{name: columns[name]})


def delete_event(dice: random.Random, sequence: int) -> None:
    AuditEvent.objects.filter(pk=sequence).delete()


def close_the_gap(dice: random.Random, sequence: int) -> None:
    """Delete one and number the later ones anew."""
    AuditEvent.objects.filter(pk=sequence).delete()
    for later in AuditEvent.objects.filter(sequence__gt=sequence).order_by("sequence"):
        AuditEvent.objects.filter(pk=later.pk).update(sequence=later.sequence - 1)
    AuditHead.objects.update(sequence=AuditEvent.objects.count())


def cut_off_the_end(dice: random.Random, sequence: int) -> None:
    cut_off(sequence)


def swap_two(dice: random.Random, sequence: int) -> None:
    one, other = AuditEvent.objects.get(pk=sequence), AuditEvent.objects.get(pk=sequence + 1)
    for row, given in ((one, other), (other, one)):
        AuditEvent.objects.filter(pk=row.pk).update(
            at=given.at, name=given.name, details=given.details, reason=given.reason, mac=given.mac
        )


def append_a_copy(dice: random.Random, sequence: int) -> None:
    event = AuditEvent.objects.get(pk=sequence)
    event.sequence = AuditHead.objects.get().sequence + 1
    event.save(force_insert=True)
    if dice.random() < 0.5:
        AuditHead.objects.update(sequence=event.sequence, mac=event.mac)


def forge_one(dice: random.Random, sequence: int) -> None:
    last = AuditHead.objects.get().sequence + 1
    mac = dice.randbytes(32)
    AuditEvent.objects.create(sequence=last, at=NOW, name="team:created", details={}, mac=mac)
    AuditHead.objects.update(sequence=last, mac=mac)


def write_anew_from(dice: random.Random, sequence: int) -> None:
    """The MACs of everything from here on, with a key of one's own."""
    key, previous = dice.randbytes(32), bytes(AuditEvent.objects.get(pk=sequence).mac)
    for event in AuditEvent.objects.filter(sequence__gt=sequence).order_by("sequence"):
        previous = audit.chain_mac(previous, event, key)
        AuditEvent.objects.filter(pk=event.pk).update(mac=previous)
    AuditHead.objects.update(mac=previous)


def move_the_head(dice: random.Random, sequence: int) -> None:
    AuditHead.objects.update(sequence=sequence)


def change_a_delivery(dice: random.Random, sequence: int) -> None:
    columns: dict[str, Any] = {
        "at": NOW + timedelta(microseconds=dice.randint(1, 999)),
        "instance": "another",
        "label": "pending",
        "credential": "access_token",
        "status": 304,
        "request_id": "another",
        "consumer_id": "00000000-0000-0000-0000-00000000000b",
    }
    name = dice.choice(sorted(columns))
    Delivery.objects.filter(pk=_some_delivery(dice)).update(**{name: columns[name]})


def delete_a_delivery(dice: random.Random, sequence: int) -> None:
    Delivery.objects.filter(pk=_some_delivery(dice)).delete()


def exchange_a_delivery(dice: random.Random, sequence: int) -> None:
    chosen = _some_delivery(dice)
    row = Delivery.objects.get(pk=chosen)
    row.delete()
    row.id, row.instance = chosen, "forged"
    row.save(force_insert=True)


def _some_delivery(dice: random.Random) -> int:
    return dice.choice(list(Delivery.objects.values_list("id", flat=True)))


def forget_on_the_quiet(dice: random.Random, sequence: int) -> None:
    """Deliveries taken out, with the seal of a range changed to fit."""
    seal = dice.choice(list(AuditEvent.objects.filter(name=sealing.EVENT)))
    Delivery.objects.filter(pk=seal.details["last"]).delete()
    count, sha256 = sealing.digest_of(seal.details["first"], seal.details["last"])
    AuditEvent.objects.filter(pk=seal.pk).update(details={**seal.details, "count": count, "sha256": sha256})


WAYS: tuple[Callable[[random.Random, int], None], ...] = (
    change_event,
    delete_event,
    close_the_gap,
    cut_off_the_end,
    swap_two,
    append_a_copy,
    forge_one,
    write_anew_from,
    move_the_head,
    change_a_delivery,
    delete_a_delivery,
    exchange_a_delivery,
    forget_on_the_quiet,
)


def test_five_hundred_changes_are_all_found(unguarded: Traffic, tell: Tell) -> None:
    dice, last = random.Random(20261121), AuditHead.objects.get().sequence
    found = 0
    assert prove().finding is None
    for n in range(MUTATIONS):
        way = WAYS[n % len(WAYS)]
        with transaction.atomic():
            sequence = dice.randint(1, last - 1)
            way(dice, sequence)
            missed = prove().finding is None
            transaction.set_rollback(True)
        assert not missed, f"{way.__name__} at {sequence} was not found"
        found += 1
    assert prove().finding is None
    tell("changes to the audit trail", {"made": MUTATIONS, "found": found, "missed": MUTATIONS - found})


def test_the_database_refuses_what_it_can(trail: Traffic) -> None:
    statements = [
        "UPDATE keyvault_auditevent SET reason = 'x'",
        "DELETE FROM keyvault_auditevent",
        "UPDATE keyvault_audithead SET sequence = 1",
        "DELETE FROM keyvault_audithead",
        "UPDATE keyvault_delivery SET status = 304",
    ]
    if connection.vendor == "postgresql":
        statements += ["TRUNCATE keyvault_auditevent", "TRUNCATE keyvault_audithead"]
    for statement in statements:
        with (
            pytest.raises(Exception, match="audit_append_only"),
            transaction.atomic(),
            connection.cursor() as c,
        ):
            c.execute(statement)
    assert prove().finding is None
