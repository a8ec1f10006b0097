"""/v1/policies/"""

from __future__ import annotations

from typing import Any

import pytest

from rotation.models import RotationPolicy
from rotation.policy import FAST, STANDARD
from rotation.services import policies
from tests.api.management.world import World, problem

FULL: dict[str, Any] = {
    "interval": "P30D",
    "steps": [{"weight": 5, "hold": "PT10M"}, {"weight": 100, "hold": "PT1S"}],
    "monitor": "PT24H",
    "quiet": "PT2H",
    "cool_off": "PT0S",
    "deadline": "P7D",
    "window": "PT5M",
    "probe_every": "PT5M",
    "refresh": "PT30S",
    "min_samples": 20,
    "max_error_rate": 0.02,
    "allow_idle": False,
    "approvals": {"start": 1, "shift_past_50": 2, "revoke": 0, "force": 1},
    "cutover": False,
    "windows": [{"days": ["mon", "tue"], "from": "08:00", "to": "16:30", "zone": "Europe/Berlin"}],
    "freezes": [{"from": "2026-12-20T00:00:00Z", "to": "2027-01-02T00:00:00+01:00", "reason": "Holidays"}],
    "canaries": ["web"],
    "pinned": ["billing"],
    "max_age": "P180D",
    "rehearsal": "P30D",
    "exposure": {"revealed": "P3D", "member_left": None, "reported": "PT0S"},
}


class TestPolicies200:
    def test_the_presets_are_there(self, world: World) -> None:
        items = world.stranger.get("/v1/policies/").json()["items"]
        assert [(item["slug"], item["preset"]) for item in items] == [
            ("cutover", True),
            ("emergency", True),
            ("fast", True),
            ("standard", True),
        ]

    def test_one_with_every_member(self, world: World) -> None:
        shown = world.viewer.get("/v1/policies/standard/").json()
        assert shown["steps"][0] == {"weight": 5, "hold": "PT10M"}
        assert (shown["interval"], shown["monitor"]) == ("P90D", "P1D")

    def test_what_an_older_release_wrote_is_shown_whole(self, world: World) -> None:
        row = RotationPolicy.objects.get(slug="fast")
        newer = ("max_age", "rehearsal", "exposure")
        row.document = {name: value for name, value in row.document.items() if name not in newer}
        row.document["approvals"] = {"start": 0, "revoke": 1}
        row.save()
        shown = world.viewer.get("/v1/policies/fast/").json()
        assert shown["approvals"] == {"start": 0, "shift_past_50": 0, "revoke": 1, "force": 0}
        assert (shown["max_age"], shown["rehearsal"]) == (None, None)
        policies.install_presets(now=world.now)
        kept = RotationPolicy.objects.get(slug="fast").value
        assert kept.exposure == FAST.exposure
        assert kept.approvals["revoke"] == 1

    def test_a_change_keeps_the_rest(self, world: World) -> None:
        world.admin.post("/v1/policies/", {"slug": "mine", **FULL})
        shown = world.admin.patch("/v1/policies/mine/", {"monitor": "PT1H"}).json()
        assert (shown["monitor"], shown["interval"]) == ("PT1H", "P30D")


class TestPolicies201:
    def test_every_member_comes_back(self, world: World) -> None:
        answer = world.admin.post("/v1/policies/", {"slug": "mine", **FULL})
        assert answer.status_code == 201
        shown = answer.json()
        for name in FULL.keys() - {"monitor", "freezes"}:
            assert shown[name] == FULL[name], name
        assert shown["monitor"] == "P1D"
        assert RotationPolicy.objects.get(slug="mine").value.steps[0].weight == 5

    def test_what_is_left_out_is_standard(self, world: World) -> None:
        assert world.admin.post("/v1/policies/", {"slug": "mine"}).status_code == 201
        assert RotationPolicy.objects.get(slug="mine").value == STANDARD

    def test_a_window_may_cross_midnight(self, world: World) -> None:
        night = [{"days": ["fri"], "from": "22:00", "to": "04:00", "zone": "Europe/Berlin"}]
        assert (
            world.admin.post("/v1/policies/", {"slug": "night", "windows": night}).json()["windows"] == night
        )

    def test_exposures_that_are_left_out_keep_their_default(self, world: World) -> None:
        made = world.admin.post("/v1/policies/", {"slug": "mine", "exposure": {"revealed": None}}).json()
        assert made["exposure"] == {"revealed": None, "member_left": "P1D", "reported": "PT0S"}

    def test_times_down_to_a_second(self, world: World) -> None:
        brisk = {"window": "PT1S", "refresh": "PT1S", "monitor": "PT1S", "interval": None}
        assert world.admin.post("/v1/policies/", {"slug": "brisk", **brisk}).status_code == 201


WINDOW = FULL["windows"][0]


# What no policy can say, here or in the console.
CANNOT_BE: list[tuple[str, object]] = [
    ("interval", 90),
    ("interval", "90D"),
    ("interval", "PT0S"),
    ("interval", "P٩D"),
    ("window", "PT0.5S"),
    ("monitor", None),
    ("steps", []),
    ("steps", [{"weight": 5, "hold": "PT1M"}]),
    ("steps", [{"weight": "100", "hold": "PT1M"}]),
    ("steps", [{"weight": 100.0, "hold": "PT1M"}]),
    ("steps", [{"weight": True, "hold": "PT1M"}]),
    ("steps", [{"weight": 101, "hold": "PT1M"}]),
    ("steps", [{"weight": -1, "hold": "PT1M"}]),
    ("steps", [{"weight": 100}]),
    ("steps", [5]),
    ("steps", {"weight": 100, "hold": "PT1M"}),
    ("steps", [{"weight": 50, "hold": "PT1M"}, {"weight": 25, "hold": "PT1M"}]),
    ("min_samples", 0),
    ("min_samples", "20"),
    ("max_error_rate", 1.5),
    ("max_error_rate", "0.02"),
    ("max_error_rate", True),
    ("allow_idle", 0),
    ("cutover", "yes"),
    ("allow_idle", "false"),
    ("approvals", {"start": 6}),
    ("approvals", [1]),
    ("max_age", "PT0S"),
    ("rehearsal", "30"),
    ("rehearsal", "PT0S"),
    ("exposure", {"revealed": "soon"}),
    ("exposure", ["revealed"]),
    ("windows", [{**WINDOW, "days": []}]),
    ("windows", [{**WINDOW, "days": ["sunday"]}]),
    ("windows", [{**WINDOW, "days": "mon"}]),
    ("windows", [{**WINDOW, "from": "8:00"}]),
    ("windows", [{**WINDOW, "from": "08:00+02:00"}]),
    ("windows", [{**WINDOW, "from": 8}]),
    ("windows", [{**WINDOW, "to": "24:00"}]),
    ("windows", [{**WINDOW, "zone": "Europe"}]),
    ("windows", [{**WINDOW, "zone": "../../etc/passwd"}]),
    ("windows", [{**WINDOW, "zone": ""}]),
    ("freezes", [{"from": "2026-12-20T00:00:00", "to": "2027-01-02T00:00:00Z"}]),
    ("freezes", [{"from": "2027-01-02T00:00:00Z", "to": "2026-12-20T00:00:00Z"}]),
    ("freezes", [{"from": 0, "to": 1}]),
    ("freezes", [{"to": "2027-01-02T00:00:00Z"}]),
    ("canaries", "web"),
    ("canaries", ["Web"]),
    ("canaries", [5]),
]


class TestPolicies400:
    @pytest.mark.parametrize(("field", "value"), [*CANNOT_BE, ("slug", "standard")])
    def test_a_policy_that_cannot_be(self, world: World, field: str, value: object) -> None:
        error = problem(world.admin.post("/v1/policies/", {"slug": "mine", field: value}))
        assert error["code"] == "validation_error"
        assert any(name.partition(".")[0] == field for name in error["fields"]), error
        assert not RotationPolicy.objects.filter(slug="mine").exists()

    @pytest.mark.parametrize(
        "strange",
        [
            {"speed": 5},
            {"steps": [{"weight": 100, "hold": "PT1M", "note": "x"}]},
            {"approvals": {"end": 1}},
            {"exposure": {"stolen": "P1D"}},
            {"windows": [{**WINDOW, "until": "x"}]},
        ],
    )
    def test_members_that_are_not_known(self, world: World, strange: dict[str, Any]) -> None:
        error = problem(world.admin.post("/v1/policies/", {"slug": "mine", **strange}))
        assert error["code"] == "unknown_field"

    def test_nobody_is_both_first_and_last(self, world: World) -> None:
        both = {"slug": "mine", "canaries": ["web"], "pinned": ["web"]}
        assert "pinned" in problem(world.admin.post("/v1/policies/", both))["fields"]


class TestPolicies403:
    def test_only_administrators_write(self, world: World) -> None:
        for person in (world.lead, world.auditor):
            assert person.post("/v1/policies/", {"slug": "mine"}).status_code == 403
            assert person.patch("/v1/policies/fast/", {"monitor": "PT1S"}).status_code == 403

    def test_who_may_not_is_not_told_what_is_wrong(self, world: World) -> None:
        assert world.lead.post("/v1/policies/", {"slug": "No!"}).status_code == 403
        assert world.lead.patch("/v1/policies/fast/", {"speed": 1}).status_code == 403


class TestPolicies404:
    def test_an_unknown_one(self, world: World) -> None:
        assert world.admin.get("/v1/policies/none/").status_code == 404
        assert world.admin.patch("/v1/policies/none/", {"monitor": "PT1S"}).status_code == 404
