"""Checkpoints of the audit chain: signed, outside the database, and refused where somebody changed them."""

from __future__ import annotations

import json
import socket
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault import audit
from keyvault.actors import SYSTEM
from keyvault.crypto import signed
from keyvault.crypto.keyring_document import new_document
from keyvault.keystore import keys
from keyvault.models import AuditHead, Heartbeat
from keyvault.project.checkpoint_places import parse_places
from keyvault.services import checkpoints
from keyvault.services.checkpoints import BrokenCheckpoints, Checkpoint
from rotation.services import anchoring
from tests.integration.furniture import NOW, without_guards
from tests.integration.processes import DEADLINE
from tests.integration.receivers import web_receiver

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _own_data(data_dir: Path) -> None:
    """Every test has a directory of its own."""


def happen(times: int = 1) -> None:
    for _ in range(times):
        audit.record("team:created", actor=SYSTEM, now=NOW, team="t")


def kept(times: int) -> list[Path]:
    """So many checkpoints a minute apart; the files that hold them."""
    for n in range(times):
        happen()
        assert anchoring.keep(NOW + n * MINUTE) is not None
    return sorted(anchoring.own_directory().iterdir())


def test_a_checkpoint_tells_where_the_chain_stands() -> None:
    happen(3)
    made = anchoring.keep(NOW)
    head = AuditHead.objects.get()
    assert made is not None
    assert (made.sequence, made.mac, made.at) == (3, bytes(head.mac).hex(), NOW)
    assert checkpoints.last(anchoring.own_directory()) == made
    assert Heartbeat.objects.get(name=anchoring.HEARTBEAT).at == NOW
    (file,) = anchoring.own_directory().iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    signed.verify(json.loads(file.read_text()), "checkpoint", signed.public_key_set(keys().service))


def test_one_is_written_when_something_happened_and_the_time_has_come() -> None:
    happen()
    assert anchoring.keep(NOW) is not None
    assert anchoring.keep(NOW + 9 * MINUTE) is None  # nothing happened
    happen()
    assert anchoring.keep(NOW + anchoring.EVERY - timedelta(seconds=1)) is None
    assert anchoring.keep(NOW + anchoring.EVERY) is not None


def test_many_events_do_not_wait_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "MOST_EVENTS", 5)
    happen()
    assert anchoring.keep(NOW) is not None
    happen(4)
    assert anchoring.keep(NOW + timedelta(seconds=1)) is None
    happen()
    assert anchoring.keep(NOW + timedelta(seconds=2)) is not None


def test_nothing_is_written_for_a_database_that_lost_its_end() -> None:
    happen(3)
    assert anchoring.keep(NOW) is not None
    with without_guards():
        AuditHead.objects.update(sequence=1)
    assert anchoring.keep(NOW + MINUTE) is None
    assert len(list(checkpoints.read_all(anchoring.own_directory()))) == 1


def test_a_file_for_each_month_and_all_are_read_in_order() -> None:
    for days in (0, 10, 40, 300):
        happen()
        assert anchoring.keep(NOW + timedelta(days=days)) is not None
    names = sorted(path.name for path in anchoring.own_directory().iterdir())
    assert names == ["2026-03.jsonl", "2026-04.jsonl", "2026-12.jsonl"]
    assert [each.sequence for each in checkpoints.read_all(anchoring.own_directory())] == [1, 2, 3, 4]


def test_a_line_that_a_crash_cut_short_is_left_out() -> None:
    (file,) = kept(2)
    whole = file.read_bytes()
    for cut in (2, 20, 200):
        file.write_bytes(whole[:-cut])
        newest = checkpoints.last(anchoring.own_directory())
        assert newest is not None
        assert newest.sequence == 1
        happen()
        assert anchoring.keep(NOW + 5 * MINUTE) is not None
        assert len(list(checkpoints.read_all(file))) == 2


CHANGES: dict[str, Any] = {
    "another sequence": {"sequence": 9},
    "another mac": {"mac": "00" * 32},
    "another time": {"at": "2026-01-01T00:00:00+00:00"},
    "another installation": {"installation": "00000000-0000-0000-0000-000000000000"},
    "another number of changes": {"changes": 99},
    "a restore that never was": {"restored_to": 1},
    "no signature": {"signature": ""},
}


@pytest.mark.parametrize("at", [0, 1, 2], ids=["the first", "one between", "the last"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_line_that_was_changed_is_seen(change: dict[str, Any], at: int) -> None:
    (file,) = kept(3)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[at] |= change
    file.write_text("".join(f"{signed.canonical(line).decode()}\n" for line in lines))
    with pytest.raises(BrokenCheckpoints, match="line"):
        list(checkpoints.read_all(file))


def test_a_line_that_is_none_is_seen() -> None:
    (file,) = kept(2)
    file.write_text("hello\n" + file.read_text())
    with pytest.raises(BrokenCheckpoints, match="line 1"):
        list(checkpoints.read_all(file))


def test_what_another_installation_signed_is_not_ours() -> None:
    happen()
    stranger = new_document(["dev"]).service
    line = signed.canonical(signed.sign(stranger, "checkpoint", checkpoints.here(NOW).document()))
    checkpoints.append(anchoring.own_directory(), line, NOW)
    with pytest.raises(BrokenCheckpoints, match="no key"):
        checkpoints.last(anchoring.own_directory())
    with pytest.raises(BrokenCheckpoints, match="no key"):
        list(checkpoints.read_all(anchoring.own_directory()))


def test_copies_go_to_a_folder_to_syslog_and_to_the_web(settings: Any, tmp_path: Path) -> None:
    happen()
    with web_receiver() as web, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(DEADLINE)
        settings.KEYTURN_EGRESS_ALLOW = frozenset({web.host_port})
        settings.KEYTURN_CHECKPOINTS_TO = parse_places(
            [
                f"file://{tmp_path}/elsewhere",
                f"syslog://127.0.0.1:{syslog.getsockname()[1]}",
                f"http://{web.host_port}/audit",
            ]
        )
        made = anchoring.keep(NOW)
        told = syslog.recv(65_536).decode()
    assert made == checkpoints.last(tmp_path / "elsewhere")
    assert json.loads(told[told.index("{") :].rstrip("\0")) == json.loads(web.posted[0].body)
    assert Checkpoint.from_document(json.loads(web.posted[0].body)) == made


def test_a_place_that_is_away_keeps_no_other_from_its_copy(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    settings.KEYTURN_CHECKPOINTS_TO = parse_places(
        [
            f"file://{tmp_path}/taken",
            f"syslog://{tmp_path}/no-socket".replace("syslog://", "syslog:///", 1),
            "https://127.0.0.1:1/",
            f"file://{tmp_path}/good",
        ]
    )
    happen()
    made = anchoring.keep(NOW)
    assert made is not None
    assert checkpoints.last(tmp_path / "good") == made == checkpoints.last(anchoring.own_directory())


@pytest.mark.parametrize("text", ["ftp://x/", "checkpoints", "file://host/folder", "https:", "file:relative"])
def test_a_place_that_cannot_be_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="KEYTURN_CHECKPOINTS_TO"):
        parse_places([text])
