"""docs/rotation.md says what the rules say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotation import decide, describe
from rotation.facts import STAGE_EDGES, Observations, Snapshot, Stage, Verb
from rotation.judge import Verdict
from rotation.policy import STANDARD

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "rotation.md"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def test_the_document_holds_the_table_that_the_rules_give_today() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == describe.replaced(text), "run: manage.py describe_rotation --write"


def test_a_rule_that_changes_changes_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe.markdown()
    monkeypatch.setattr(describe, "STAGE_EDGES", STAGE_EDGES - {(Stage.REVOKE, Stage.ROLLED_BACK)})
    without_edge = describe.markdown()
    assert "| revoke | succeeded |" in without_edge
    assert without_edge != before
    monkeypatch.undo()
    monkeypatch.setattr(decide, "_stopped", decide._overdue)
    assert "guard: stopped" not in describe.markdown()
    monkeypatch.undo()
    monkeypatch.setattr(decide, "allowed_verbs", lambda *a, **k: (Verb.PAUSE,))
    assert "| shift | goes on | pause |" in describe.markdown()


def test_the_guards_are_told_in_the_order_in_which_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = describe.in_order(decide.decide)
    asked: list[str] = []

    def noting(name: str) -> object:
        return lambda *facts: asked.append(name)

    for guard in guards:
        monkeypatch.setattr(decide, guard.__name__, noting(guard.__name__))
    monkeypatch.setattr(decide, "_STAGES", {Stage.SHIFT: lambda *facts: None})
    snapshot = Snapshot(Stage.SHIFT, STANDARD, 0, 0, NOW, NOW, NOW, NOW)
    decide.decide(snapshot, Observations(), Verdict("pass", "", ""), NOW)
    assert asked == [guard.__name__ for guard in guards]


def test_a_document_without_its_marks_is_refused() -> None:
    for text in ("nothing", describe.BEGIN, describe.END):
        with pytest.raises(ValueError, match="no place"):
            describe.replaced(text)
    around = f"before\n{describe.BEGIN}\nold\n{describe.END}\nafter"
    assert describe.replaced(around) == f"before\n{describe.markdown()}\nafter"
