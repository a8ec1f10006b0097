"""GET /v1/keys/{service}/{environment}/: which version answers whom."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from keyvault import clock
from keyvault.services import keys, usage
from tests.api.delivery.world import World

Make = Callable[..., World]


class TestChoice:
    def test_weight_100_gives_everybody_the_pending_version(self, world: World) -> None:
        _, incoming = world.offer(100, refresh_seconds=7)
        body = world.get().json
        assert (body["key"], body["label"], body["weight"], body["refresh_after"]) == (
            incoming,
            "pending",
            100,
            7,
        )

    def test_weight_0_gives_nobody_the_pending_version(self, world: World) -> None:
        world.offer(0)
        body = world.get().json
        assert (body["key"], body["label"], body["weight"]) == (world.secret, "current", 0)

    def test_instances_are_split_and_stay_where_they_are(self, world: World) -> None:
        world.offer(50)
        names = [f"web-{i}" for i in range(40)]
        first = [world.get(f"?instance={name}").json["label"] for name in names]
        again = [world.get(f"?instance={name}").json["label"] for name in names]
        assert first == again
        # Chance, and so wide: one time in ten thousand million it is not so.
        assert 2 <= first.count("pending") <= 38

    def test_a_canary_goes_first(self, world: World) -> None:
        world.offer(1, canaries=[world.consumer.slug])
        assert world.get().json["label"] == "pending"

    def test_after_promotion_everybody_has_the_new_version_and_asks_soon_again(self, world: World) -> None:
        _, incoming = world.offer(100, refresh_seconds=9)
        world.promote()
        body = world.get().json
        assert (body["key"], body["label"], body["weight"], body["refresh_after"]) == (
            incoming,
            "current",
            None,
            9,
        )

    def test_versions_by_label_and_by_number(self, world: World) -> None:
        _, incoming = world.offer(0)
        assert world.get("?version=pending").json["key"] == incoming
        assert world.get("?version=current").json["key"] == world.secret
        assert world.get("?version=2").json["label"] == "pending"
        world.change(keys.set_weight, 100)
        world.promote()
        assert world.get("?version=previous").json["key"] == world.secret

    def test_a_number_without_a_label_has_none(self, world: World) -> None:
        world.offer(100)
        world.promote()
        world.change(keys.retire_previous)
        assert world.get("?version=1").json["label"] is None


class TestJobAffinity:
    """The provider answers 404 for a job under any key but the one that opened it."""

    def told(
        self, world: World, instance: str, opened: int, closed: int, *, age: timedelta = timedelta()
    ) -> None:
        now = clock.now()
        line = usage.LineInput(version=1, credential="key", counts={}, jobs_opened=opened, jobs_closed=closed)
        report = usage.ReportInput(
            instance, opened + closed, now - age - timedelta(seconds=5), now - age, [line]
        )
        assert usage.accept_report(world.consumer, world.key, report, now=now)

    def test_an_instance_with_open_jobs_keeps_the_outgoing_version(self, make: Make) -> None:
        world = make(provider="removebgvideo")
        for name in ("busy", "idle"):
            world.get(f"?instance={name}")
        self.told(world, "busy", 3, 2)
        world.offer(100)
        assert world.get("?instance=busy").json["label"] == "current"
        assert world.get("?instance=idle").json["label"] == "pending"
        world.promote()
        assert world.get("?instance=busy").json["label"] == "previous"
        self.told(world, "busy", 0, 1)
        assert world.get("?instance=busy").json["label"] == "current"

    def test_jobs_that_are_too_old_do_not_hold_it_back(self, make: Make) -> None:
        world = make(provider="removebgvideo")
        world.get("?instance=busy")
        age = timedelta(seconds=world.service.provider.max_job_age_seconds + 60)
        self.told(world, "busy", 1, 0, age=age)
        world.offer(100)
        assert world.get("?instance=busy").json["label"] == "pending"

    def test_a_disabled_outgoing_version_holds_nobody(self, make: Make) -> None:
        world = make(provider="removebgvideo")
        world.get("?instance=busy")
        self.told(world, "busy", 1, 0)
        world.offer(100)
        world.promote()
        world.change(keys.mark_disabled, world.version(1))
        assert world.get("?instance=busy").json["label"] == "current"

    def test_other_providers_do_not_tie_jobs_to_keys(self, make: Make) -> None:
        world = make(provider="backgrounderase")
        world.get("?instance=busy")
        self.told(world, "busy", 1, 0)
        world.offer(100)
        assert world.get("?instance=busy").json["label"] == "pending"
