"""The commands of manage.py: what they print, what they change, how they end."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.core.management import CommandError, call_command
from django.db import connections

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.domain import OrganisationRole, Role
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Key, KeyVersion
from keyvault.services import people
from rotation.facts import TERMINAL
from rotation.models import KeySchedule, Operation, Rotation, RotationPolicy
from rotation.services import policies, verbs
from rotation.services.performing import beat_and_perform
from tests.integration.furniture import NOW, PATIENCE, Furniture, fresh_secret, furnish

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[str, CommandError]:
    """What the command printed before it gave up, and why it did."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue(), caught.value


# tick ----------------------------------------------------------------------------------------------


def make_due() -> Key:
    """A key that must be rotated now; its provider is Keyturn itself."""
    key = furnish().key(secret=mint(TokenKind.ISSUED, "prod"))
    policies.assign_policy(SYSTEM, key, RotationPolicy.objects.get(slug="fast"), now=NOW)
    KeySchedule.objects.filter(key=key).update(next_rotation_at=NOW)
    return key


@pytest.fixture
def doorbell() -> Iterator[list[object]]:
    """What is sent to the broker: the ids of operations."""
    rung: list[object] = []

    def sent(sender: object = None, body: Any = None, **_: object) -> None:
        rung.append(body[0][0])

    before_task_publish.connect(sent)
    yield rung
    before_task_publish.disconnect(sent)


@pytest.mark.django_db(transaction=True)
def test_tick_starts_what_is_due_and_rings(transactional_db: None, doorbell: list[object]) -> None:
    make_due()
    assert "rotation(s) looked at" in run("tick")
    operation = Operation.objects.get()
    assert (operation.kind, operation.state) == ("issue", "pending")
    assert str(operation.id) in doorbell


@pytest.mark.django_db(transaction=True)
def test_tick_with_perform_needs_no_worker(transactional_db: None) -> None:
    make_due()
    said = json.loads(run("tick", "--perform", "--json"))
    assert said["performed"] >= 2
    assert said["failed"] == 0
    rotation = Rotation.objects.get()
    assert rotation.stage == "shift"
    assert rotation.weight == 100
    assert not Operation.objects.filter(state="running").exists()


def test_tick_says_what_it_did(furniture: Furniture) -> None:
    make_due()
    lines = run("tick", "--perform").splitlines()
    assert lines[0].endswith("rotation(s) looked at")
    assert "operation(s) performed" in lines[1]


@pytest.mark.django_db(transaction=True)
def test_tick_goes_on_when_one_operation_breaks(transactional_db: None) -> None:
    """A version that was changed behind our back stops its own rotation, not those of others."""
    broken = make_due()
    run("tick", "--perform")
    KeyVersion.objects.filter(key=broken, number=2).update(wrapped_dek=b"broken")
    Operation.objects.filter(rotation__key=broken, kind="probe", side="incoming").update(
        state="pending", retry_at=NOW, finished_at=None
    )
    other = make_due()
    said, error = refused("tick", "--perform")
    assert error.returncode == 1
    assert "1 operation(s) raised an error" in str(error)
    assert "looked at" in said
    assert Rotation.objects.get(key=other).stage == "shift"


# rotate --------------------------------------------------------------------------------------------


def test_rotate_dry_run_shows_the_plan_and_changes_nothing(furniture: Furniture) -> None:
    key = furniture.key()
    before = AuditEvent.objects.count()
    said = run("rotate", furniture.service.slug, "prod", "--dry-run")
    assert f"{furniture.service.slug}/prod: v1 would be replaced by v2 under the policy standard" in said
    assert "revoke outgoing, by the driver" in said
    document = json.loads(
        run("rotate", furniture.service.slug, "prod", "--dry-run", "--json", "--policy=fast")
    )
    assert (document["policy"], document["outgoing"], document["incoming"]) == ("fast", 1, 2)
    assert AuditEvent.objects.count() == before
    assert not Rotation.objects.filter(key=key).exists()


def test_rotate_starts_as_keyturn_itself(furniture: Furniture, doorbell: list[object]) -> None:
    furniture.key()
    said = run("rotate", furniture.service.slug, "prod", "--reason", "audit finding", "--json")
    rotation = Rotation.objects.get()
    document = json.loads(said)
    assert document["rotation"] == str(rotation.id)
    assert document["stage"] == rotation.stage == "deploy"
    assert (rotation.requested_by, rotation.reason, rotation.policy_slug) == (
        "keyturn",
        "audit finding",
        "standard",
    )
    _, error = refused("rotate", furniture.service.slug, "prod")
    assert "open" in str(error)
    _, error = refused("rotate", furniture.service.slug, "prod", "--dry-run")
    assert "refused" in str(error)


def test_rotate_acts_with_a_persons_rights(furniture: Furniture) -> None:
    furniture.key()
    for name in ("viewer", "stranger", "operator"):
        people.create_person(name, "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username="viewer", role=Role.VIEWER, now=NOW)
    people.set_member(SYSTEM, furniture.team, username="operator", role=Role.OPERATOR, now=NOW)
    where = (furniture.service.slug, "prod")
    assert "operator or lead" in str(refused("rotate", *where, "--as", "viewer")[1])
    assert "no key" in str(refused("rotate", *where, "--as", "stranger")[1])
    assert "no active person" in str(refused("rotate", *where, "--as", "nobody")[1])
    assert not Rotation.objects.exists()
    run("rotate", *where, "--as", "operator", "--policy", "fast")
    assert Rotation.objects.get().requested_by == "operator"


def test_rotate_names_what_it_does_not_know(furniture: Furniture) -> None:
    furniture.key()
    assert "no key" in str(refused("rotate", furniture.service.slug, "dev")[1])
    assert "no key" in str(refused("rotate", "nothing", "prod")[1])
    said = str(refused("rotate", furniture.service.slug, "prod", "--policy", "slow")[1])
    assert "emergency, fast, standard" in said


class Worker:
    """What beat and worker do, in a thread of its own, on a real clock."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            while not self.stop.wait(0.05):
                beat_and_perform(clock.now)
        except Exception as error:
            self.error = error
        finally:
            connections.close_all()

    def __enter__(self) -> Worker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.error is None, self.error


@pytest.mark.django_db(transaction=True)
def test_rotate_waits_until_the_key_is_replaced(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish()
    furniture.empty_key()
    with Worker():
        said = run("rotate", furniture.service.slug, "prod", "--wait")
    assert "succeeded" in said.splitlines()[-1]
    assert Rotation.objects.get().trigger == "first"


@pytest.mark.django_db(transaction=True)
def test_rotate_stops_waiting_where_a_person_must_act(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish("backgrounderase")
    furniture.key()
    with Worker():
        said, error = refused("rotate", furniture.service.slug, "prod", "--wait")
    assert error.returncode == 2
    assert "paste it here" in str(error)
    assert "deploy" in said


@pytest.mark.django_db(transaction=True)
def test_rotate_says_when_it_was_given_up(
    transactional_db: None, settings: Any, doorbell: list[object]
) -> None:
    settings.KEYTURN_TICK = 1
    furniture = furnish("removit")
    furniture.key()

    def give_up() -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                rotation = Rotation.objects.first()
                if rotation is not None:
                    verbs.abort(SYSTEM, rotation.id, reason="no", now=clock.now(), ring=lambda _: None)
                    return
        finally:
            connections.close_all()

    thread = threading.Thread(target=give_up, daemon=True)
    thread.start()
    _, error = refused("rotate", furniture.service.slug, "prod", "--wait")
    thread.join(PATIENCE)
    assert error.returncode == 1
    assert Rotation.objects.get().stage in TERMINAL


# import_keys ---------------------------------------------------------------------------------------

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Put a text into a file that only we may read; gives its name."""

    def make(text: str | bytes, name: str = "keys.csv", mode: int = 0o600) -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return str(path)

    return make


def csv_of(furniture: Furniture, *rows: tuple[str, str], header: str = "service,environment,secret") -> str:
    lines = [header, *(f"{furniture.service.slug},{environment},{secret}" for environment, secret in rows)]
    return "\n".join(lines) + "\n"


def test_keys_are_imported_from_csv(furniture: Furniture, write: Write) -> None:
    secrets = {slug: fresh_secret() for slug in ("dev", "staging", "prod")}
    text = csv_of(
        furniture,
        ("dev", f"{secrets['dev'].expose()},fast,key_1"),
        ("staging", f"{secrets['staging'].expose()},,"),
        ("prod", f"{secrets['prod'].expose()},standard,key_3"),
        header="service,environment,secret,policy,provider_key_id",
    )
    said = run("import_keys", write(text))
    assert "3 key(s) imported" in said
    assert not any(secret.expose() in said for secret in secrets.values())
    for key in Key.objects.select_related("current", "environment", "schedule__policy"):
        version = key.current
        assert version is not None
        version.key = key
        assert open_version(version) == secrets[key.environment.slug]
    policies_of = dict(KeySchedule.objects.values_list("key__environment__slug", "policy__slug"))
    assert policies_of == {"dev": "fast", "staging": "standard", "prod": "standard"}
    ids = dict(KeyVersion.objects.values_list("key__environment__slug", "provider_key_id"))
    assert ids == {"dev": "key_1", "staging": "", "prod": "key_3"}


def test_keys_are_imported_from_json(furniture: Furniture, write: Write) -> None:
    secret = fresh_secret()
    rows = [{"service": furniture.service.slug, "environment": "prod", "secret": secret.expose()}]
    said = json.loads(run("import_keys", write(json.dumps(rows), "keys.json"), "--json"))
    assert said == {"imported": 1, "problems": []}
    assert Key.objects.get().current is not None


def test_a_key_without_a_version_is_given_one(furniture: Furniture, write: Write) -> None:
    key = furniture.empty_key()
    run("import_keys", write(csv_of(furniture, ("prod", fresh_secret().expose()))))
    assert Key.objects.get(pk=key.pk).current is not None


def test_either_all_rows_are_imported_or_none(furniture: Furniture, write: Write) -> None:
    """The good rows before and after the bad one leave no trace, in the audit neither."""
    held = fresh_secret()
    furnish().key("dev", held)
    before = (Key.objects.count(), KeyVersion.objects.count(), AuditEvent.objects.count())
    text = csv_of(
        furniture,
        ("dev", fresh_secret().expose()),
        ("staging", held.expose()),
        ("prod", fresh_secret().expose()),
    )
    said, error = refused("import_keys", write(text))
    assert said.strip() == (
        "row 3: This secret is already held under another environment. Use one key per environment."
    )
    assert "Nothing was imported" in str(error)
    assert (Key.objects.count(), KeyVersion.objects.count(), AuditEvent.objects.count()) == before


def test_a_key_that_has_a_version_is_not_imported_over(furniture: Furniture, write: Write) -> None:
    furniture.key("prod")
    said, _ = refused("import_keys", write(csv_of(furniture, ("prod", fresh_secret().expose()))))
    assert said.startswith("row 2: This key has a version already")


def test_every_bad_row_is_named_with_its_reason_and_no_cell_is_repeated(
    furniture: Furniture, write: Write
) -> None:
    good, service = fresh_secret().expose(), furniture.service.slug
    formula = "this looks like a spreadsheet formula"
    cells = {
        2: (f"{service},prod, {good}", "secret: White space"),
        3: (f"{service},dev,YOUR_API_KEY", "secret: This is a placeholder"),
        4: (f"{service},dev,'{good}'", "secret: There are quotation marks"),
        5: (f"{service},dev,", "secret: missing"),
        6: (f"=cmd|calc,dev,{good}", f"service: {formula}"),
        7: (
            f"{service},dev,=HYPERLINK({good})",
            f"secret: {formula}",
        ),
        8: (f"{service},dev,1.23457E+18", f"secret: {formula}"),
        9: (f"{service} ,dev,{good}", "service: there is white space"),
        10: (f"{service},dev,#NAME?", f"secret: {formula}"),
    }
    text = "\n".join(["service,environment,secret", *(line for line, _ in cells.values())])
    said, error = refused("import_keys", write(text))
    assert f"{len(cells)} problem(s)" in str(error)
    lines = said.splitlines()
    assert len(lines) == len(cells)
    for line, (number, (_, words)) in zip(lines, cells.items(), strict=True):
        assert line.startswith(f"row {number}: {words}"), line
    assert good not in said + str(error)
    document = json.loads(refused("import_keys", write(text), "--json")[0])
    assert [problem["row"] for problem in document["problems"]] == list(cells)
    assert not Key.objects.exists()


def test_names_that_are_unknown_are_not_repeated_either(furniture: Furniture, write: Write) -> None:
    """The columns may be swapped: what stands under 'service' may be a secret."""
    secret, service = fresh_secret().expose(), furniture.service.slug
    text = f"service,environment,secret,policy\n{secret},prod,{secret},\n"
    text += f"{service},moon,{secret},\n{service},prod,{secret},slow\n"
    said, error = refused("import_keys", write(text))
    assert said.splitlines() == [
        "row 2: service: there is no such service.",
        "row 3: environment: use one of dev, staging, prod.",
        "row 4: policy: use one of emergency, fast, standard, or leave it empty.",
    ]
    assert secret not in said + str(error)


def test_a_key_stands_in_the_file_once(furniture: Furniture, write: Write) -> None:
    rows = [
        ("prod", fresh_secret().expose()),
        ("dev", fresh_secret().expose()),
        ("prod", fresh_secret().expose()),
    ]
    said, _ = refused("import_keys", write(csv_of(furniture, *rows)))
    assert said.strip() == "row 4: this key stands in row 2 already."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xef\xbb\xbfservice,environment,secret\na,b,c\n", "row 1: the file starts with a byte order mark"),
        ("service,environment,secret\n".encode("utf-16"), "row 1: the file starts with a byte order mark"),
        (b"service,environment,secret\r\na,b,c\r\nd,e,f\n", "row 3: this line ends unlike those before"),
        (b"service,environment,secret\na,b,c\rd,e,f\n", "row 2: this line ends unlike those before"),
        (b"service,environment,secret\na,b,\xff\xfe\n", "row 2: this is not UTF-8 text"),
        (b"a,b,sk-live-1234\n", "row 1: the first row names the columns"),
        (b"service,environment,secret,owner\na,b,c,d\n", "row 1: the first row names the columns"),
        (b"service,environment,environment,secret\na,b,b,d\n", "row 1: the first row names the columns"),
        (b"service,environment,secret\na,b\n", "row 2: there are 2 cells, and 3 columns"),
        (b'service,environment,secret\na,b,c\na,b,"c\n', "row 3: this is not CSV"),
        (b'service,environment,secret\na,b,"c"d\n', "row 2: this is not CSV"),
        (b'[{"service": "a", "environment": "b", "secret": 5}]', "row 1: each entry is an object"),
        (b'[{"service": "a", "environment": "b", "secret": "c", "x": "y"}]', "row 1: the members are"),
    ],
)
def test_a_file_that_was_mangled_is_refused_with_its_row(
    furniture: Furniture, write: Write, data: bytes, words: str
) -> None:
    said, _ = refused("import_keys", write(data))
    assert said.startswith(words)
    assert "sk-live" not in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no row"),
        (b"service,environment,secret\n", "no row"),
        (b"[]", "no row"),
        (b'{"service": "a"}', "a list of objects"),
        (b'[{"service": "sk-live-1234"', "not valid JSON: line 1"),
        (b'[{"secret": "sk-live-1", "secret": "sk-live-2"}]', "stands twice"),
        (b"[" * 100_000, "too many levels"),
    ],
)
def test_a_file_that_is_no_list_of_keys_is_refused(
    furniture: Furniture, write: Write, data: bytes, words: str
) -> None:
    said, error = refused("import_keys", write(data))
    assert words in str(error)
    assert "sk-live" not in said + str(error)


def test_a_file_that_others_may_read_is_refused(furniture: Furniture, write: Write) -> None:
    text = csv_of(furniture, ("prod", fresh_secret().expose()))
    for mode in (0o644, 0o640, 0o604, 0o602):
        assert "chmod 600" in str(refused("import_keys", write(text, mode=mode))[1])
    assert not Key.objects.exists()


def test_what_is_no_file_is_refused(furniture: Furniture, tmp_path: Path) -> None:
    assert "No such file" in str(refused("import_keys", str(tmp_path / "nothing"))[1])
    assert "not a regular file" in str(refused("import_keys", str(tmp_path))[1])
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not a regular file" in str(refused("import_keys", str(tmp_path / "pipe"))[1])


def test_ten_thousand_rows_are_the_most(furniture: Furniture, write: Write) -> None:
    rows = "".join(f"s-{n},prod,sk-{n:05}-{n:05x}\n" for n in range(10_001))
    said, _ = refused("import_keys", write("service,environment,secret\n" + rows))
    assert said.strip() == "row 10002: at most 10000 rows are imported at once."
    entries = [{"service": f"s-{n}", "environment": "prod", "secret": f"sk-{n:05}"} for n in range(10_001)]
    said, _ = refused("import_keys", write(json.dumps(entries)))
    assert said.strip() == "row 10001: at most 10000 rows are imported at once."


def test_an_import_needs_the_rights_of_a_lead(furniture: Furniture, write: Write) -> None:
    other = furnish()
    for name, role in (("operator", Role.OPERATOR), ("lead", Role.LEAD)):
        people.create_person(name, "a long enough password", role=OrganisationRole.NONE)
        people.set_member(SYSTEM, furniture.team, username=name, role=role, now=NOW)
    mine = write(csv_of(furniture, ("prod", fresh_secret().expose())))
    said, _ = refused("import_keys", mine, "--as", "operator")
    assert said.startswith("row 2: This needs the role lead")
    theirs = write(csv_of(other, ("prod", fresh_secret().expose())), "theirs.csv")
    said, _ = refused("import_keys", theirs, "--as", "lead")
    assert said.startswith("row 2: service: there is no such service")
    assert "1 key(s) imported" in run("import_keys", mine, "--as", "lead")
