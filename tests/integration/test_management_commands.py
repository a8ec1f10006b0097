"""The commands that scripts rely on are there, under their names, and say what they do."""

from __future__ import annotations

import contextlib
import io

import pytest
from django.core.management import ManagementUtility, call_command

PROMISED = ("tick", "rotate", "rewrap", "kek", "audit_verify", "import_keys", "backup", "restore_reconcile")


@pytest.mark.once
@pytest.mark.parametrize("name", PROMISED)
def test_a_command_explains_itself(name: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", name, "--help"]).execute()
    assert ended.value.code == 0
    assert f"manage.py {name}" in out.getvalue()


@pytest.mark.django_db
def test_rewrap_is_the_same_by_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("rewrap", "prod", "--json")
    once = capsys.readouterr().out
    call_command("kek", "rewrap", "prod", "--json")
    assert capsys.readouterr().out == once
    assert '"environment": "prod"' in once
