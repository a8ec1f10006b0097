"""The parts of the bench that measure nothing: requests, what a loader printed, ratios, tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks import plans
from benchmarks.__main__ import arguments, command_of, scale_of
from benchmarks.goals import PAGES, Beside, Line, Spread, least, number, p99, ratio, table
from benchmarks.load import Pattern, Sample, decode, distinct, encode, get, parse, post
from benchmarks.loop import ERRORS, Tally, at_random, content_length, in_order
from benchmarks.measure import Case, Figures, Results
from benchmarks.processes import Cpu, Failed
from benchmarks.profiling import Hot, hottest
from benchmarks.report import BEGIN, END, cases_table, document, grid, write_into

PRINTED = {
    "requests": 30_000,
    "microseconds": 2_000_000,
    "p50": 2_400,
    "p99": 4_600,
    "slowest": 9_000,
    "errors": dict.fromkeys(ERRORS, 0),
}


@dataclass(frozen=True)
class Round:
    per_second: float
    p50: float = 1.0
    p99: float = 1.0
    cpu: float = 1.0


def rounds_of(**numbers: list[float]) -> dict[str, list[Round]]:
    return {name.replace("_", "-"): [Round(one) for one in each] for name, each in numbers.items()}


# Requests -------------------------------------------------------------------------------------------


def test_a_workload_file_gives_back_its_requests() -> None:
    asked = [
        get(8000, "/v1/keys/bench-#/dev/", header="X-API-Key: ktc_dev_x", last=9_999),
        get(8000, "/v1/auth/token/lookup-self", header="X-Vault-Token: s.x"),
        post(8000, "/v1/verify/", {"key": "ktk_dev_x"}, header="X-API-Key: ktc_dev_x"),
    ]
    assert decode(encode(asked)) == asked


def test_a_number_takes_the_place_of_the_mark() -> None:
    choose = at_random([get(8000, "/v1/keys/bench-#/dev/", header="X-API-Key: t", last=2)])
    lines = {choose().split(b"\r\n")[0] for _ in range(200)}
    assert lines == {b"GET /v1/keys/bench-%d/dev/ HTTP/1.1" % one for one in range(3)}


def test_a_request_without_a_mark_is_sent_as_it_stands() -> None:
    asked = get(8000, "/livez")
    assert at_random([asked])() == b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"


def test_in_order_every_request_comes_once_before_the_first_comes_again() -> None:
    patterns = [Pattern(b"a", b"z", 0, 9)]
    choose = in_order(patterns, 7)
    asked = [choose() for _ in range(distinct(patterns))]
    assert asked[:4] == [b"a7z", b"a8z", b"a9z", b"a0z"]
    assert len(set(asked)) == 10
    assert choose() == asked[0]


def test_in_order_whole_requests_take_turns() -> None:
    patterns = [Pattern(b"a"), Pattern(b"b"), Pattern(b"c")]
    choose = in_order(patterns, 0)
    assert [choose() for _ in range(4)] == [b"a", b"b", b"c", b"a"]
    assert distinct(patterns) == 3


def test_the_body_is_as_long_as_it_says() -> None:
    head, _, body = post(8000, "/v1/verify/", {"key": "ktk_dev_x"}, header="X-API-Key: t").before.partition(
        b"\r\n\r\n"
    )
    assert content_length(head) == len(body)
    assert json.loads(body) == {"key": "ktk_dev_x"}


def test_wrk_reads_the_same_workload_file() -> None:
    """load.lua and load.py must agree on the separators."""
    script = (Path(plans.__file__).parent / "load.lua").read_text()
    assert r'"(%d+)\31(%d+)\31([^\31]*)\31([^\30]*)\30"' in script
    assert encode([Pattern(b"a", b"b", 0, 7)]) == bytes([48, 31, 55, 31, 97, 31, 98, 30])


# What a loader printed ------------------------------------------------------------------------------


def test_the_line_of_the_loader_is_found_between_its_other_lines() -> None:
    printed = f"Running 2s test @ http://127.0.0.1:8000/\n{json.dumps(PRINTED)}\n  30000 requests in 2.00s\n"
    sample = parse(printed)
    assert sample == Sample(30_000, 2.0, 2.4, 4.6, 9.0)
    assert sample.per_second == 15_000


@pytest.mark.parametrize("kind", ERRORS)
def test_one_error_makes_the_measurement_fail(kind: str) -> None:
    printed = {**PRINTED, "errors": {**dict.fromkeys(ERRORS, 0), kind: 1}}
    with pytest.raises(Failed, match=f"1 x {kind}"):
        parse(json.dumps(printed))


@pytest.mark.parametrize("printed", ["", "unable to connect to 127.0.0.1:8000"])
def test_a_loader_that_measured_nothing_makes_the_measurement_fail(printed: str) -> None:
    with pytest.raises(Failed, match="no result"):
        parse(printed)


def test_no_request_at_all_is_a_failure() -> None:
    with pytest.raises(Failed, match="no request"):
        parse(json.dumps({**PRINTED, "requests": 0}))


def test_our_own_loader_prints_what_wrk_prints() -> None:
    tally = Tally()
    tally.times = [0.001] * 99 + [0.005]
    sample = parse(tally.report(2.0))
    assert sample == Sample(100, 2.0, 1.0, 5.0, 5.0)


def test_our_own_loader_tells_its_errors() -> None:
    tally = Tally()
    tally.times = [0.001]
    tally.errors["status"] = 1
    with pytest.raises(Failed, match="1 x status"):
        parse(tally.report(2.0))


@pytest.mark.parametrize(
    ("head", "length"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 12", 12), (b"HTTP/1.1 304 Not Modified\r\nServer: x", 0)],
)
def test_the_length_of_an_answer(head: bytes, length: int) -> None:
    assert content_length(head) == length


# Ratios and goals -----------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_round() -> None:
    # Between rounds the machine was three times as slow; the ratio was always 10.
    rounds = rounds_of(a=[1_000, 300, 900], b=[100, 30, 90])
    assert ratio(rounds, "a", "b") == Spread(10, 10, 10)


def test_the_median_of_the_ratios_counts_and_the_extremes_are_told() -> None:
    rounds = rounds_of(a=[100, 200, 900], b=[100, 100, 100])
    assert ratio(rounds, "a", "b") == Spread(2, 1, 9)


def test_latencies_compare_too() -> None:
    rounds = {"a": [Round(1, p99=4)], "b": [Round(1, p99=80)]}
    assert ratio(rounds, "a", "b", p99) == Spread(0.05, 0.05, 0.05)


@pytest.mark.parametrize(
    "rounds", [{}, rounds_of(a=[1]), rounds_of(b=[1]), rounds_of(a=[1, 2], b=[1]), rounds_of(a=[], b=[])]
)
def test_there_is_no_ratio_without_both(rounds: dict[str, list[Round]]) -> None:
    assert ratio(rounds, "a", "b") is None


@pytest.mark.parametrize(
    ("measured", "limit", "at_least", "verdict"),
    [(12, 12, True, "met"), (11.9, 12, True, "MISSED"), (3, 3, False, "met"), (3.1, 3, False, "MISSED")],
)
def test_a_goal_is_met_or_missed(measured: float, limit: float, at_least: bool, verdict: str) -> None:
    assert Line("work", Spread.of([measured]), limit, at_least).verdict == verdict


def test_what_was_not_measured_is_never_met() -> None:
    assert Line("work", None, 12).verdict == "NOT MEASURED"
    assert Line("work", None).verdict == "NOT MEASURED"


def test_without_a_goal_there_is_no_verdict() -> None:
    assert (Line("work", Spread.of([9])).verdict, Line("work", Spread.of([9])).goal) == ("", "")


def test_every_line_of_the_table_comes_from_a_case_that_is_planned() -> None:
    rounds = {plan.name: [Round(1.0)] for plan in plans.PLANS}
    beside = Beside([2.0], [1.0], [3.0], 300_000_000, 1_000_000, 200, 1.0, {1: 100.0, 4: 200.0, 32: 320.0})
    beside = replace(beside, pages=dict.fromkeys(PAGES, 20.0), page_keys=100_000, proved_per_second=60_000.0)
    lines = table(rounds, beside)
    assert [line.work for line in lines if line.spread is None] == []
    assert len({line.work for line in lines}) == len(lines)
    assert sum(line.limit is not None for line in lines) == 22


def test_the_least_is_hello_world_and_a_share_of_the_commit() -> None:
    found = least({"hello-8": [Round(20_000, p50=0.2)]}, Beside(commits={4: 200.0}), 8, 4)[0]
    # 50 us for the answer and a quarter of 200 us for its record; one caller waits for all of both.
    assert (round(found.per_second), round(found.p50, 3)) == (10_000, 0.4)
    assert least({"hello-8": [Round(20_000)]}, Beside(), 8, 4) == ()


@pytest.mark.parametrize(
    ("figure", "text"),
    [(25_300.4, "25,300"), (14.26, "14.3"), (2.4, "2.40"), (0.0613, "0.0613"), (0.35, "0.35"), (400, "400")],
)
def test_three_digits_count(figure: float, text: str) -> None:
    assert number(figure) == text


# What is printed and kept ---------------------------------------------------------------------------


def case(name: str, database: str = "") -> Case:
    return Case(name, name.title(), 8000, Path("workload"), 64, 1, database)


def figures(per_second: int, per_commit: float | None = None) -> Figures:
    return Figures(Sample(per_second, 1.0, 2.0, 4.0, 9.0), Cpu(0.3, 0.1), Cpu(0.05, 0.05), per_commit)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_columns_stand_under_each_other() -> None:
    text = grid([("Work", "x"), ("a longer one", "1"), ("b", "12.0")])
    assert text.splitlines() == [
        "| Work         |    x |",
        "| ------------ | ---: |",
        "| a longer one |    1 |",
        "| b            | 12.0 |",
    ]


def test_cpu_time_is_told_for_each_request() -> None:
    results = Results()
    results.add(case("ours", "main"), figures(10_000))
    results.add(case("theirs"), figures(1_000))
    text = cases_table([case("ours", "main"), case("theirs")], results, profile=False)
    ours, theirs = map(cells, text.splitlines()[-2:])
    assert ours == ["Ours", "64", "10,000", "2.00", "4.00", "40.0", "10.0"]
    assert theirs == ["Theirs", "64", "1,000", "2.00", "4.00", "400", ""]


def test_the_database_works_for_a_request_too() -> None:
    assert figures(10_000).cpu == pytest.approx(50.0)


def test_a_profile_splits_it_up() -> None:
    results = Results()
    results.add(case("ours", "main"), figures(10_000, 12.5))
    row = cases_table([case("ours", "main")], results, profile=True).splitlines()[-1]
    assert cells(row)[7:] == ["30.0", "10.0", "5.00", "5.00", "12.5"]


def test_a_case_that_failed_has_no_figures() -> None:
    results = Results()
    results.add(case("ours"), figures(10_000))
    results.fail(case("ours"), "of 9 requests some failed: 1 x status")
    row = cases_table([case("ours")], results, profile=False).splitlines()[-1]
    assert set(cells(row)[2:]) == {"-"}
    kept = document([], [case("ours")], results)
    assert kept["failures"] == {"ours": "of 9 requests some failed: 1 x status"}


def test_what_is_kept_is_json() -> None:
    results = Results()
    results.add(case("ours"), figures(10_000))
    lines = [Line("work", Spread.of([13]), 12), Line("other", None, 12)]
    kept = json.loads(json.dumps(document(lines, [case("ours")], results, command="make bench")))
    assert kept["cases"]["ours"]["rounds"][0]["per_second"] == 10_000
    assert [goal["verdict"] for goal in kept["goals"]] == ["met", "NOT MEASURED"]
    assert kept["command"] == "make bench"


def test_figures_replace_the_earlier_ones_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    write_into(page, "new\n")
    write_into(page, "newer\n")
    assert page.read_text() == f"# Before\n\n{BEGIN}\n\nnewer\n\n{END}\n\nafter\n"


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Before\n")
    with pytest.raises(ValueError, match="marks"):
        write_into(page, "new")
    assert page.read_text() == "# Before\n"


def test_the_page_has_its_marks() -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)


def test_a_profile_tells_what_a_function_takes_itself_and_with_its_calls() -> None:
    stacks = "main (app.py:1);deliver (/somewhere/keyvault/delivery/keys.py:31) 3\nmain (app.py:2) 1\n"
    assert hottest(stacks) == [
        Hot("deliver (delivery/keys.py)", 0.75, 0.75),
        Hot("main (app.py)", 0.25, 1.0),
    ]


def test_a_function_that_calls_itself_is_counted_once() -> None:
    assert hottest("walk (a.py:1);walk (a.py:2) 4\n") == [Hot("walk (a.py)", 1.0, 1.0)]


# Options --------------------------------------------------------------------------------------------


def test_the_printed_command_names_no_file() -> None:
    asked = arguments(["--rounds", "3", "--no-pin", "--json", "/somewhere/run.json", "--write"])
    assert command_of(asked) == 'make bench ARGS="--rounds 3 --no-pin"'
    assert command_of(arguments([])) == "make bench"


def test_options_win_over_quick() -> None:
    scale = scale_of(arguments(["--quick", "--keys", "5000"]))
    assert (scale.keys, scale.hot, scale.rounds) == (5_000, plans.QUICK.hot, plans.QUICK.rounds)
    assert scale_of(arguments([])) == plans.FULL


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "0"], ["--keys", "10"], ["--only", "x"]])
def test_nonsense_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("scale", [plans.FULL, plans.QUICK])
def test_every_change_finds_enough_keys_that_are_shifting(scale: plans.Scale) -> None:
    most = max(plan.change.keys for plan in plans.PLANS if plan.change)
    assert scale.hot % scale.shifting == 0
    assert scale.shifting >= most
    assert scale.hot // scale.shifting > 1  # the checks before the rounds need keys at rest


def test_every_target_has_its_server() -> None:
    for plan in plans.PLANS:
        assert plans.needed([plan], [])
    assert plans.needed([], [plans.TICK]) == {"large"}
    assert plans.needed([], [plans.STARTS]) == set()


def test_only_what_was_asked_for_is_planned() -> None:
    assert [plan.name for plan in plans.chosen(["kv-64", "delivery-64"])] == ["kv-64", "delivery-64"]
    assert plans.chosen([]) == list(plans.PLANS)
