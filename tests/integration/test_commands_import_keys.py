"""import_keys: all rows or none, every refusal with its row, and never a cell in a message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault.actors import SYSTEM
from keyvault.domain import OrganisationRole, Role
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Key, KeyVersion
from keyvault.services import people
from rotation.models import KeySchedule
from tests.integration.furniture import NOW, Furniture, fresh_secret, furnish
from tests.integration.management import refused, run

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


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
        "row 4: policy: use one of cutover, emergency, fast, standard, or leave it empty.",
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
