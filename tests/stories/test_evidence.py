"""What is left of a rotation when it is over: a file that tells everything, and that nobody can change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keyvault.actors import SYSTEM
from keyvault.project.cli import main
from keyvault.services import usage
from rotation.facts import Clause
from rotation.policy import Policy
from rotation.services.evidence import evidence_file, evidence_of
from rotation.simulators import RunningSimulator
from tests.evidence import public_key_set
from tests.leaks.test_canaries import disguises
from tests.stories.conftest import BRISK
from tests.stories.world import World

Build = Callable[..., World]


@pytest.fixture
def succeeded(world: Build) -> World:
    w = world()
    w.start()
    w.run_to("succeeded")
    return w


def verify(folder: Path, document: dict[str, Any], *, key_set: Any = None) -> tuple[int, str]:
    """Exit code and words of the command, for a document that lies in a file."""
    folder.joinpath("evidence.json").write_bytes(evidence_file(document))
    folder.joinpath("keys.json").write_text(json.dumps(key_set or public_key_set()))
    arguments = ["evidence", "verify", str(folder / "evidence.json"), "--jwks", str(folder / "keys.json")]
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def test_everything_that_happened_is_in_it(succeeded: World) -> None:
    w = succeeded
    document = evidence_of(w.rotation)
    assert document["rotation"]["outcome"] == "succeeded"
    assert document["rotation"]["settled"] is True
    assert document["rotation"]["monitored_seconds"] >= BRISK.monitor.total_seconds()
    assert [step["weight"] for step in document["plan"]["steps"]] == [25, 50, 100]
    assert [(step["stage"], step["weight"]) for step in document["steps"]] == [
        ("shift", 25), ("shift", 50), ("shift", 100), ("monitor", 100),
    ]  # fmt: skip
    full = document["steps"][2]["shares"]
    assert (full["target"], full["assigned"], full["delivered"], full["observed"]) == (100, 100, 100, 100)
    kinds = [one["kind"] for one in document["operations"]]
    assert kinds == ["issue", "verify", "disable", "revoke", "confirm"]
    assert {one["state"] for one in document["operations"]} == {"done"}
    assert {(one["side"], one["outcome"]) for one in document["probes"]} == {
        ("incoming", "accepted"), ("outgoing", "accepted"),
    }  # fmt: skip
    stages = [line["stage"] for line in document["transitions"] if line["event"] == "stage"]
    assert stages == ["deploy", "shift", "monitor", "revoke", "succeeded"]


def test_the_windows_add_up_to_what_consumers_reported(succeeded: World) -> None:
    minutes = evidence_of(succeeded.rotation)["windows"]["minutes"]
    assert [one["minute"] for one in minutes] == sorted({one["minute"] for one in minutes})
    sides = {side: [one[side] for one in minutes if side in one] for side in ("outgoing", "incoming")}
    assert sum(rate["requests"] for rates in sides.values() for rate in rates) == succeeded.requests
    assert sum(rate["errors"] for rates in sides.values() for rate in rates) == 0
    assert all(rate["outcomes"] == {"ok": rate["requests"]} for rates in sides.values() for rate in rates)
    # Where chance moves everybody at the first step, the outgoing version has one minute only.
    assert all(sides.values())
    assert max(len(rates) for rates in sides.values()) > 1


def test_errors_of_the_incoming_key_stand_in_their_minute(world: Build) -> None:
    w = world(instances=12)
    w.start()
    w.run(lambda: w.rotation.weight == 25)
    w.some_move()
    incoming = w.rotation.incoming
    assert incoming is not None
    w.control.set_fault(reject_key_id=incoming.provider_key_id)
    w.run_to("rolled_back", most=4)
    document = evidence_of(w.rotation)
    bad = [one["incoming"] for one in document["windows"]["minutes"] if one.get("incoming", {}).get("errors")]
    assert sum(rate["outcomes"]["auth_invalid"] for rate in bad) == sum(w.failures.values()) > 0
    assert document["proof"] is None
    assert document["rotation"]["settled"] is False
    w.run(lambda: w.rotation.check_at is None, step=60, traffic=False)
    later = evidence_of(w.rotation)
    assert later["rotation"]["settled"] is True
    assert [one["kind"] for one in later["operations"]][-2:] == ["revoke", "confirm"]
    unchanged = ("plan", "policy", "approvals", "steps", "windows")
    assert {name: later[name] for name in unchanged} == {name: document[name] for name in unchanged}


def test_what_is_reported_later_changes_nothing(succeeded: World) -> None:
    w = succeeded
    before = evidence_file(evidence_of(w.rotation))
    late = usage.LineInput(2, "key", {"ok": 7})
    begun, ended = w.now - timedelta(minutes=9), w.now - timedelta(minutes=8)
    sent = usage.ReportInput("web-0", 10**6, begun, ended, [late])
    w.now += timedelta(minutes=1)
    assert usage.accept_report(w.consumer, w.key, sent, now=w.now)
    w.start()
    w.run_to("shift")
    first = w.key.rotations.order_by("created_at")[0]
    assert evidence_file(evidence_of(first)) == before


def test_the_quiet_proof_is_kept_as_it_stood_when_the_revoke_began(succeeded: World) -> None:
    proof = evidence_of(succeeded.rotation)["proof"]
    began = next(
        line["at"]
        for line in evidence_of(succeeded.rotation)["transitions"]
        if (line["event"], line["stage"]) == ("stage", "revoke")
    )
    assert (proof["quiet"], proof["forced"], proof["quiet_for"]) == (True, False, "PT2M")
    assert proof["at"].replace("+00:00", "Z") == began
    assert proof["monitored_seconds"] >= BRISK.monitor.total_seconds()
    assert {one["clause"]: one["met"] for one in proof["clauses"]} == dict.fromkeys(map(str, Clause), True)


def test_a_forced_revoke_names_who_was_in_the_way(world: Build, brisk: Policy) -> None:
    w = world(environment="dev", policy=replace(brisk, quiet=timedelta(hours=2)))
    w.start()
    w.run_to("monitor")
    w.verb("force_revoke", offender_count=4)
    proof = evidence_of_when_over(w)["proof"]
    assert (proof["quiet"], proof["forced"]) == (False, True)
    unmet = {one["clause"]: one["offenders"] for one in proof["clauses"] if not one["met"]}
    assert set(unmet) == {"unused"}
    assert [one["who"] for one in unmet["unused"]] == [f"{w.consumer.slug}/web-{n}" for n in range(4)]


def evidence_of_when_over(w: World) -> dict[str, Any]:
    w.run_to("succeeded")
    return evidence_of(w.rotation)


# Checking ------------------------------------------------------------------------------------------


def test_the_command_tells_genuine_from_changed_for_every_part(succeeded: World, tmp_path: Path) -> None:
    document = evidence_of(succeeded.rotation)
    code, said = verify(tmp_path, document)
    assert (code, said.split(",")[0]) == (0, "genuine")
    assert f"rotation {succeeded.rotation.id} of {succeeded.service.slug}/prod, v1 to v2, succeeded" in said
    flipped = {"format": "keyturn-evidence2", "version": 2}
    for part, value in document.items():
        changed = {**document, part: flipped.get(part, _flipped(value))}
        code, said = verify(tmp_path, changed)
        assert code == (2 if part in flipped else 7), part
        rest = {name: kept for name, kept in document.items() if name != part}
        assert verify(tmp_path, rest)[0] == (2 if part in flipped else 7), part
    assert verify(tmp_path, {**document, "note": "added"})[0] == 7


def _flipped(value: Any) -> Any:
    """The same shape with one leaf changed."""
    if isinstance(value, dict):
        name = max(value, key=lambda name: bool(value[name]))
        return {**value, name: _flipped(value[name])}
    if isinstance(value, list):
        return [_flipped(value[0]), *value[1:]] if value else ["one more"]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value[:-1]}{'A' if value[-1:] != 'A' else 'Q'}" if isinstance(value, str) else "something"


def test_the_command_says_what_it_lacks(succeeded: World, tmp_path: Path) -> None:
    document = evidence_of(succeeded.rotation)
    assert verify(tmp_path, document, key_set={"keys": []})[0] == 4
    file = str(tmp_path / "evidence.json")
    runner = CliRunner()
    assert runner.invoke(main, ["evidence", "verify", str(tmp_path / "none.json")]).exit_code == 2
    assert runner.invoke(main, ["evidence", "verify", file, "--jwks", str(tmp_path / "no")]).exit_code == 2
    (tmp_path / "keys.json").write_text("[]")
    broken = ["evidence", "verify", file, "--jwks", str(tmp_path / "keys.json")]
    assert runner.invoke(main, broken).exit_code == 2
    (tmp_path / "evidence.json").write_text("{")
    assert runner.invoke(main, broken).exit_code == 2


def test_no_secret_is_in_it(succeeded: World, simulator: RunningSimulator) -> None:
    w = succeeded
    text = evidence_file(evidence_of(w.rotation))
    secrets = [w.secret(1), w.secret(2), simulator.admin_secret]
    for secret in secrets:
        assert not [form for form in disguises(secret.expose()) if form in text]
    assert SYSTEM.name.encode() in text
