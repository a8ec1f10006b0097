"""/v1/drift/"""

from __future__ import annotations

import pytest

from keyvault import clock
from keyvault.models import Key, Provider
from rotation.models import Finding
from tests.api.management.world import World, problem

PATH = "/v1/drift/"


def finding(key: Key | None, **more: object) -> Finding:
    now = clock.now()
    version = key.current if key else None
    kind = "missing" if key else "unowned"
    provider = key.service.provider if key else Provider.objects.get(slug="removit")
    fields = {"kind": kind, "detail": "the provider refuses it", "found_at": now, "seen_at": now, **more}
    return Finding.objects.create(provider=provider, key=key, version=version, **fields)


class TestDrift200:
    def test_a_team_sees_its_keys_and_administrators_what_nobody_owns(self, world: World) -> None:
        key = world.key("prod")
        finding(key)
        finding(world.key("prod", team=world.billing))
        finding(None, provider_key_id="key_1", label="somebody's")
        (shown,) = world.viewer.get(PATH).json()["items"]
        assert (shown["kind"], shown["service"], shown["version"]) == ("missing", key.service.slug, 1)
        assert shown["provider"] == "internal"
        assert len(world.auditor.get(PATH).json()["items"]) == 3
        unowned = [item for item in world.admin.get(PATH).json()["items"] if item["kind"] == "unowned"]
        assert [(item["label"], item["service"]) for item in unowned] == [("somebody's", None)]

    def test_of_one_provider_and_only_what_is_open(self, world: World) -> None:
        finding(world.key("prod"))
        finding(world.key("dev"), gone_at=clock.now())
        finding(None, provider_key_id="key_1")
        assert len(world.admin.get(PATH).json()["items"]) == 2
        (shown,) = world.admin.get(f"{PATH}?provider=removit").json()["items"]
        assert shown["provider_key_id"] == "key_1"

    def test_it_comes_in_pages(self, world: World) -> None:
        for n in range(3):
            finding(None, provider_key_id=f"key_{n}")
        first = world.admin.get(f"{PATH}?limit=2").json()
        second = world.admin.get(f"{PATH}?limit=2&cursor={first['next_cursor']}").json()
        assert len({item["id"] for item in first["items"] + second["items"]}) == 3

    def test_the_console_shows_it(self, world: World) -> None:
        key = world.key("prod")
        finding(key)
        client = world.lead.client
        client.force_login(world.lead.user)
        assert "should live at the provider" in client.get("/").content.decode()
        page = client.get(f"/keys/{key.service.slug}/prod/").content.decode()
        assert "The provider disagrees." in page


class TestDrift400:
    @pytest.mark.parametrize("query", ["provider=No", "kind=missing", "limit=0"])
    def test_a_question_that_cannot_be(self, world: World, query: str) -> None:
        assert problem(world.admin.get(f"{PATH}?{query}"))["code"] in ("validation_error", "unknown_field")


class TestDrift405:
    def test_nothing_is_written_here(self, world: World) -> None:
        assert world.admin.post(PATH, {}).status_code == 405
