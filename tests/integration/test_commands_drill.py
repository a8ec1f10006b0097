"""keyturn drill: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault.crypto.evidence import verify_evidence
from keyvault.crypto.signed import read_document
from keyvault.crypto.tokens import TokenKind, mint
from rotation.models import Rotation, RotationPolicy
from rotation.policy import Policy, Step, to_json
from tests.evidence import public_key_set
from tests.integration.furniture import NOW, Furniture, furnish
from tests.integration.management import refused, run

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)
# As short as a policy can be: the command itself waits in real time.
QUICK = Policy(
    steps=(Step(100, SECOND),),
    monitor=SECOND,
    quiet=SECOND,
    cool_off=SECOND,
    window=SECOND,
    probe_every=SECOND,
    refresh=SECOND,
    min_samples=1,
    allow_idle=True,
)


@pytest.fixture
def furniture(db: None, settings: Any) -> Furniture:
    settings.KEYTURN_TICK = 1
    made = furnish()
    made.key("dev", mint(TokenKind.ISSUED, "dev"))
    RotationPolicy.objects.create(slug="quick", document=to_json(QUICK), created_at=NOW)
    return made


def test_it_writes_the_evidence_of_both_rotations(furniture: Furniture, tmp_path: Path) -> None:
    said = run("drill", furniture.service.slug, "--policy=quick", "--output", str(tmp_path), "--json")
    *progress, last = said.splitlines()
    report = json.loads(last)
    assert report["good"] is True
    assert (report["environment"], report["policy"]) == ("dev", "quick")
    assert [finding["good"] for finding in report["findings"]] == [True] * 7
    assert sum("succeeded" in line for line in progress) == 1
    assert any("rolled_back" in line for line in progress)
    files = [Path(name) for name in report["evidence"]]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    documents = [read_document(file.read_bytes()) for file in files]
    assert all(verify_evidence(document, public_key_set()) for document in documents)
    assert [document["rotation"]["outcome"] for document in documents] == ["succeeded", "rolled_back"]
    assert [document["rotation"]["id"] for document in documents] == report["rotations"]


def test_it_is_refused_with_a_reason(furniture: Furniture, tmp_path: Path) -> None:
    furniture.key("prod")
    service = furniture.service.slug
    for arguments, words in (
        ((service, "--environment=prod"), "prod is protected"),
        (("nothing",), "Not found"),
        ((service, "--policy=nothing"), "no policy"),
        ((service, "--output", str(tmp_path / "none")), "no directory"),
        ((service, "--as=nobody"), "no active person"),
        ((service, "--provider-simulator"), "KEYTURN_EGRESS_ALLOW"),
    ):
        _, error = refused("drill", *arguments)
        assert words in str(error)
        assert error.returncode == 1
    assert not Rotation.objects.exists()


@pytest.mark.once
def test_it_is_a_command_of_keyturn() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keyvault.project.cli", "drill", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--provider-simulator" in done.stdout
