"""The result as an object, as a verdict and as words."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from keyvault.crypto.secret import Secret
from keyvault.project.demo.ledger import Failure, Ledger
from keyvault.project.demo.report import Invitation, chapter_list, result_table, rollback_story, what_next
from keyvault.project.demo.results import (
    ChapterResult,
    Hit,
    ProviderResult,
    Result,
    RollbackResult,
    Share,
    Told,
    unmet,
)
from keyvault.project.demo.screen import Row, Screen, table

pytestmark = pytest.mark.once

GOOD = ProviderResult(
    provider="removit",
    requests=812,
    failed=0,
    stage="succeeded",
    old_key_refused=True,
    old_version=1,
    new_version=2,
    shares=(Share(3.0, 25, 4, 12), Share(9.0, 100, 12, 12)),
    audit_events=31,
)
ROLLBACK = RollbackResult(
    provider="removit",
    bad_version=3,
    old_version=2,
    current_version=2,
    stage="rolled_back",
    weight_before=25,
    hits=(Hit("web-shop/web-shop-1", 2), Hit("print-lab/print-lab-3", 1)),
    seconds_to_weight_0=1.4,
    old_key_works=True,
    everyone_back=True,
    reason="The provider rejected the incoming key 3 times.",
)
HELD = ChapterResult("d", "straggler held", 41.26, Told("print-lab was named"))
MISSED = replace(HELD, told=Told("not shown", ("not so: the reason names print-lab",)))


def test_the_object_has_exactly_the_promised_members() -> None:
    assert Result([GOOD], ROLLBACK, [HELD]).as_json() == {
        "providers": [
            {
                "provider": "removit",
                "requests": 812,
                "failed_requests": 0,
                "old_key_refused": True,
                "weights": [25, 100],
                "audit_events": 31,
            }
        ],
        "rollback": {
            "provider": "removit",
            "failed_requests": 3,
            "seconds_to_weight_0": 1.4,
            "current_version": 2,
        },
        "chapters": [{"chapter": "straggler_held", "shown": True, "seconds": 41.3}],
    }


def test_a_good_run_has_no_problems() -> None:
    assert Result([GOOD], ROLLBACK, [HELD]).problems() == []
    assert (GOOD.problems(), ROLLBACK.problems()) == ((), ())


def test_a_chapter_that_shows_nothing_is_a_problem_and_named() -> None:
    result = Result([GOOD], ROLLBACK, [HELD, MISSED])
    assert result.problems() == ["chapter (d) straggler held: not so: the reason names print-lab"]
    assert [chapter["shown"] for chapter in result.as_json()["chapters"]] == [True, False]


def test_what_was_expected_and_is_not_so_is_told() -> None:
    assert unmet({"the old key works": True, "nobody failed": False}) == ("not so: nobody failed",)


def test_the_list_of_chapters_tells_what_was_shown_and_what_not() -> None:
    text = "\n".join(chapter_list([HELD, MISSED]))
    assert "(d) straggler held: shown, 41.3 s" in text
    assert "print-lab was named" in text
    assert "(d) straggler held: NOT SHOWN" in text


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, failed=1),
        replace(GOOD, requests=0),
        replace(GOOD, stage="rolled_back"),
        replace(GOOD, old_key_refused=False),
    ],
)
def test_anything_amiss_at_a_provider_is_a_problem(bad: ProviderResult) -> None:
    (problem,) = bad.problems()
    assert problem.startswith("removit: ")


@pytest.mark.parametrize(
    "bad",
    [
        replace(ROLLBACK, stage="succeeded"),
        replace(ROLLBACK, current_version=3),
        replace(ROLLBACK, current_version=None),
        replace(ROLLBACK, seconds_to_weight_0=None),
        replace(ROLLBACK, old_key_works=False),
        replace(ROLLBACK, everyone_back=False),
    ],
)
def test_anything_amiss_in_the_rollback_is_a_problem(bad: RollbackResult) -> None:
    (problem,) = bad.problems()
    assert problem.startswith("removit: ")


def test_the_table_tells_each_provider_in_one_line() -> None:
    lines = result_table(Result([GOOD, replace(GOOD, provider="backgroundcut", failed=7)], ROLLBACK, []))
    assert len(lines) == 4
    assert "25%:4/12 100%:12/12" in lines[2]
    assert lines[3].startswith("backgroundcut")


def test_the_story_names_who_was_hit_and_how_long_it_took() -> None:
    text = "\n".join(rollback_story(ROLLBACK))
    assert "web-shop/web-shop-1 (2)" in text
    assert "1.4 s" in text
    assert "version 2; it works" in text


def test_the_invitation_has_a_curl_line_that_can_be_pasted() -> None:
    invitation = Invitation(
        base_url="http://127.0.0.1:8000",
        username="demo-lead",
        password=Secret("a-password"),
        consumer_token=Secret("ktc_prod_token"),
        data=Path("demo"),
        dashboards={"backgrounderase": "http://127.0.0.1:1", "removebgvideo": "http://127.0.0.1:2"},
    )
    line = "curl -H 'X-API-Key: ktc_prod_token' http://127.0.0.1:8000/v1/keys/background-removal/prod/"
    lines = what_next(invitation, [("rolled_back: rollback in shift", "4711")])
    assert any(
        "http://127.0.0.1:8000/rotations/4711/" in text and "rollback in shift" in text for text in lines
    )
    assert any(text.endswith(line) for text in lines)
    posted = next(text for text in lines if "/_control/faults" in text)
    assert json.loads(posted.split("-d ")[1].strip("'")) == {"error_rate": 0.5}


def test_columns_are_aligned_and_figures_stand_at_the_right() -> None:
    lines = table(("provider", "requests"), [("a", "7"), ("longer", "1234")])
    assert [line.index("7") if "7" in line else None for line in lines] == [
        None,
        None,
        len(lines[0]) - 1,
        None,
    ]
    assert len({len(line) for line in lines}) == 1


def row(stage: str, weight: str) -> Row:
    return Row("removit", stage, weight, "3/12", "", "100", "0", "the hold")


def test_without_a_terminal_only_news_make_a_line() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    for weight in ("5 %", "5 %", "25 %"):
        screen.show([row("shift", weight)], 1.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "weight 25 %" in lines[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_drawn_over_itself_and_messages_stay() -> None:
    stream = Terminal()
    screen = Screen(stream)
    screen.show([row("shift", "5 %")], 1.0)
    screen.show([row("shift", "25 %")], 2.0)
    assert stream.getvalue().count("\x1b[3A\x1b[J") == 1
    screen.keep()
    screen.say("done")
    assert stream.getvalue().count("\x1b[") == 2
    assert stream.getvalue().endswith("done\n")


def test_a_line_is_cut_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    Screen(stream).show([row("shift", "5 %")], 1.0)
    assert max(len(line) for line in stream.getvalue().splitlines()) == 39


def failure(version: int, at: float = 1.0) -> Failure:
    return Failure("removit", "web-shop/web-shop-1", version, "key", "auth_invalid", 401, at)


def test_the_ledger_counts_failures_as_requests_and_can_leave_a_version_out() -> None:
    ledger = Ledger()
    ledger.worked("removit", 1)
    ledger.failed(failure(2))
    assert (ledger.totals("removit").requests, ledger.totals("removit").failed) == (2, 1)
    without = ledger.totals("removit", without_version=2)
    assert (without.requests, without.failed) == (1, 0)


def test_the_ledger_knows_who_holds_what_and_tells_failures_in_order() -> None:
    ledger = Ledger()
    ledger.delivered("removit", "a", 1, Secret("one"))
    ledger.delivered("removit", "b", 1, Secret("one"))
    ledger.delivered("removit", "b", 2, Secret("two"))
    assert (ledger.holders("removit", 1), ledger.holders("removit", 2)) == (["a"], ["b"])
    assert ledger.instances("removit") == 2
    assert ledger.secret("removit", 1) == Secret("one")
    assert ledger.secret("removit", 9) is None
    ledger.failed(failure(2, at=5.0))
    ledger.failed(failure(2, at=4.0))
    assert [one.at for one in ledger.failures("removit", 2)] == [4.0, 5.0]
