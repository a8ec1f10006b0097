"""/v1/channels/"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from keyvault import clock
from keyvault.models import AuditEvent, User
from rotation.notice_rows import Channel, Notice
from rotation.notices.targets import open_target
from tests.api.management.world import World, problem
from tests.hostile_urls import BY_CODE, LOOKED_UP, SCHEMES

PATH = "/v1/channels/"
FAR = datetime(2099, 1, 1, tzinfo=UTC)
URL = "https://hooks.example.org/services/T0/B0/canary7391secret"
MAIL: dict[str, Any] = {"slug": "post", "team": "imaging", "kind": "mail"}
HOOK: dict[str, Any] = {"slug": "hook", "team": "imaging", "kind": "webhook", "url": URL}
ROOM: dict[str, Any] = {"slug": "room", "team": "imaging", "kind": "chat", "url": URL}


class TestChannels200:
    def test_a_list_holds_those_of_ones_teams(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        world.stranger.post(PATH, {**MAIL, "team": "billing", "slug": "theirs"})
        world.admin.post(PATH, {"slug": "all", "kind": "mail"})

        def slugs(person: Any) -> list[str]:
            return [item["slug"] for item in person.get(PATH).json()["items"]]

        assert slugs(world.viewer) == ["hook"]
        assert slugs(world.stranger) == ["theirs"]
        assert slugs(world.auditor) == ["all", "hook", "theirs"]

    def test_the_address_is_sealed_and_only_its_host_is_shown(self, world: World) -> None:
        made = world.lead.post(PATH, ROOM)
        for answer in (made, world.lead.get(PATH), world.lead.get(f"{PATH}room/")):
            assert "canary7391secret" not in answer.content.decode()
        assert world.lead.get(f"{PATH}room/").json()["place"] == "hooks.example.org"
        row = Channel.objects.get(slug="room")
        assert b"canary7391secret" not in bytes(row.ciphertext or b"")
        assert open_target(row).url.expose() == URL

    def test_a_change_keeps_the_rest_and_tries_again_at_once(self, world: World) -> None:
        made = world.lead.post(PATH, {**ROOM, "digest": {"at": "08:00", "zone": "Europe/Berlin"}}).json()
        Channel.objects.update(wait_until=FAR)
        shown = world.lead.patch(f"{PATH}room/", {"level": "lead", "after": "PT1H"}).json()
        assert shown == {key: made[key] for key in shown} | {"level": "lead", "after": "PT1H"}
        row = Channel.objects.get(slug="room")
        assert row.wait_until is None
        assert open_target(row).url.expose() == URL

    def test_what_waited_for_the_day_goes_at_once_when_there_is_no_day_any_more(self, world: World) -> None:
        world.lead.post(PATH, {**ROOM, "digest": {"at": "08:00"}})
        row = Channel.objects.get(slug="room")
        Notice.objects.create(
            channel=row, sequence=1, dedup="x", kind="rotation.started", facts={}, digest=True,
            created_at=world.now, next_at=FAR, give_up_at=FAR,
        )  # fmt: skip
        assert world.lead.patch(f"{PATH}room/", {"digest": None}).json()["digest"] is None
        waiting = Notice.objects.get()
        assert not waiting.digest
        assert waiting.next_at <= clock.now()

    def test_a_new_address_keeps_the_signing_secret(self, world: World) -> None:
        secret = world.lead.post(PATH, HOOK).json()["secret"]
        world.lead.patch(f"{PATH}hook/", {"url": "https://other.example.org/x"})
        target = open_target(Channel.objects.get(slug="hook"))
        assert target.url.expose() == "https://other.example.org/x"
        assert [held.expose() for held in target.signing] == [secret]

    def test_what_became_of_the_notices(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        world.lead.post(f"{PATH}hook/test/")
        [item] = world.viewer.get(f"{PATH}hook/notices/").json()["items"]
        assert (item["kind"], item["state"], item["tries"]) == ("keyturn.test", "pending", 0)
        assert world.viewer.get(f"{PATH}hook/").json()["waiting"] == 1


class TestChannels201:
    def test_a_webhook_shows_its_secret_once(self, world: World) -> None:
        made = world.lead.post(PATH, HOOK)
        assert made.status_code == 201
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")
        for answer in (world.lead.get(PATH), world.lead.get(f"{PATH}hook/")):
            assert secret not in answer.content.decode()

    def test_the_others_have_none(self, world: World) -> None:
        assert world.lead.post(PATH, ROOM).json()["secret"] is None
        assert world.lead.post(PATH, MAIL).json()["secret"] is None

    def test_a_new_secret_and_until_when_the_former_one_is_good(self, world: World) -> None:
        first = world.lead.post(PATH, HOOK).json()["secret"]
        answer = world.lead.post(f"{PATH}hook/rotate-secret/", {"grace": "PT1H"}, Idempotency_Key="a")
        again = world.lead.post(f"{PATH}hook/rotate-secret/", {"grace": "PT1H"}, Idempotency_Key="a")
        assert answer.status_code == again.status_code == 201
        assert answer.json() == again.json()
        assert answer.json()["previous_secret_until"] is not None
        held = [secret.expose() for secret in open_target(Channel.objects.get(slug="hook")).signing]
        assert held == [answer.json()["secret"], first]

    def test_every_change_is_audited_without_the_address(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        world.lead.patch(f"{PATH}hook/", {"url": "https://other.example.org/x", "level": "lead"})
        world.lead.post(f"{PATH}hook/rotate-secret/")
        world.lead.post(f"{PATH}hook/test/")
        world.lead.delete(f"{PATH}hook/")
        told = AuditEvent.objects.filter(name__startswith="channel:").order_by("sequence")
        assert [(event.name, event.details) for event in told] == [
            ("channel:created", {"channel": "hook", "kind": "webhook"}),
            ("channel:changed", {"channel": "hook", "fields": ["level", "url"]}),
            ("channel:secret:rotated", {"channel": "hook"}),
            ("channel:tested", {"channel": "hook"}),
            ("channel:removed", {"channel": "hook"}),
        ]
        assert {event.team_id for event in told} == {world.imaging.id}


class TestChannels202:
    def test_a_test_is_put_in_line(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        answer = world.lead.post(f"{PATH}hook/test/")
        assert answer.status_code == 202
        assert [item["kind"] for item in answer.json()["notices"]] == ["keyturn.test"]

    def test_by_mail_to_everybody_whom_it_reaches(self, world: World) -> None:
        User.objects.filter(username="operator").update(email="op@example.org")
        world.lead.post(PATH, MAIL)
        notices = world.lead.post(f"{PATH}post/test/").json()["notices"]
        assert [item["recipient"] for item in notices] == ["op@example.org"]


class TestChannels204:
    def test_removed_with_what_it_was_told(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        world.lead.post(f"{PATH}hook/test/")
        assert world.lead.delete(f"{PATH}hook/").status_code == 204
        assert not Channel.objects.exists()
        assert not Notice.objects.exists()


class TestChannels400:
    @pytest.mark.parametrize(
        ("base", "field", "value"),
        [
            (HOOK, "url", ""),
            (HOOK, "url", 5),
            (HOOK, "addresses", ["a@example.org"]),
            (HOOK, "slug", "No!"),
            (HOOK, "kind", "pigeon"),
            (HOOK, "level", "everybody"),
            (HOOK, "after", 60),
            (HOOK, "after", "P31D"),
            (HOOK, "team", "none"),
            (HOOK, "team", "billing"),
            (HOOK, "enabled", "yes"),
            (ROOM, "digest", {"at": "8:00"}),
            (ROOM, "digest", {"at": "08:00", "zone": "Berlin"}),
            (ROOM, "digest", {"zone": "UTC"}),
            (MAIL, "url", URL),
            (MAIL, "addresses", ["nobody"]),
            (MAIL, "addresses", ["a@example.org\nBcc: b@example.org"]),
            (MAIL, "addresses", ["a@example.org"] * 21),
            (MAIL, "addresses", "a@example.org"),
        ],
    )
    def test_a_channel_that_cannot_be(
        self, world: World, base: dict[str, Any], field: str, value: object
    ) -> None:
        error = problem(world.lead.post(PATH, {**base, field: value}))
        assert error["code"] == "validation_error"
        assert any(name.partition(".")[0] == field for name in error["fields"]), error
        assert not Channel.objects.exists()

    def test_addresses_that_must_not_be_called(self, world: World, settings: Any) -> None:
        settings.KEYTURN_API_RATE = "100000/min"
        world.lead.post(PATH, HOOK)
        for url, code in {**BY_CODE, **LOOKED_UP}.items():
            answers = [world.lead.post(PATH, {**HOOK, "slug": "other", "url": url})]
            if url in LOOKED_UP or url in SCHEMES:
                answers.append(world.lead.patch(f"{PATH}hook/", {"url": url}))
            for answer in answers:
                error = problem(answer)
                assert error["code"] == (code if url else "validation_error"), url
                assert list(error["fields"]) == ["url"]
        assert open_target(Channel.objects.get()).url.expose() == HOOK["url"]

    def test_what_is_missing_or_taken_or_strange(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        assert "slug" in problem(world.lead.post(PATH, HOOK))["fields"]
        assert "url" in problem(world.lead.post(PATH, {**ROOM, "url": None}))["fields"]
        without = {name: value for name, value in ROOM.items() if name != "url"}
        assert "url" in problem(world.lead.post(PATH, without))["fields"]
        assert problem(world.lead.post(PATH, {**ROOM, "colour": 1}))["code"] == "unknown_field"
        assert problem(world.lead.patch(f"{PATH}hook/", {}))["code"] == "validation_error"
        assert problem(world.lead.patch(f"{PATH}hook/", {"kind": "chat"}))["code"] == "unknown_field"

    def test_a_webhook_takes_no_daily_message(self, world: World) -> None:
        error = problem(world.lead.post(PATH, {**HOOK, "digest": {"at": "08:00"}}))
        assert error["fields"] == {"digest_at": ["A webhook gets each event by itself."]}

    def test_a_grace_that_is_too_long(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        assert "grace" in problem(world.lead.post(f"{PATH}hook/rotate-secret/", {"grace": "P31D"}))["fields"]

    def test_the_address_is_never_repeated(self, world: World) -> None:
        answer = world.lead.post(PATH, {**HOOK, "url": "http://example.org/canary7391secret"})
        assert "canary7391secret" not in answer.content.decode()


class TestChannels403:
    def test_only_leads_change_their_teams_channels(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        for person in (world.viewer, world.operator, world.auditor):
            assert person.post(PATH, {**HOOK, "slug": "mine"}).status_code == 403
            assert person.patch(f"{PATH}hook/", {"enabled": False}).status_code == 403
            assert person.delete(f"{PATH}hook/").status_code == 403
            assert person.post(f"{PATH}hook/test/").status_code == 403
            assert person.post(f"{PATH}hook/rotate-secret/").status_code == 403

    def test_the_organisations_belong_to_administrators(self, world: World) -> None:
        assert world.lead.post(PATH, {"slug": "all", "kind": "mail"}).status_code == 403
        assert world.lead.post(PATH, {"slug": "all", "kind": "mail", "team": None}).status_code == 403
        assert world.admin.post(PATH, {"slug": "all", "kind": "mail"}).status_code == 201


class TestChannels404:
    def test_nothing_of_another_team_is_found(self, world: World) -> None:
        world.lead.post(PATH, HOOK)
        for path in ("hook/", "hook/notices/"):
            assert world.stranger.get(PATH + path).status_code == 404
        assert world.stranger.delete(f"{PATH}hook/").status_code == 404
        assert world.stranger.post(f"{PATH}hook/test/").status_code == 404


class TestChannels409:
    def test_what_is_not_possible_now(self, world: World) -> None:
        world.lead.post(PATH, MAIL)
        world.lead.post(PATH, {**ROOM, "enabled": False})
        assert problem(world.lead.post(f"{PATH}post/rotate-secret/"))["code"] == "invalid_transition"
        assert problem(world.lead.post(f"{PATH}post/test/"))["message"].startswith("Nobody")
        assert problem(world.lead.post(f"{PATH}room/test/"))["message"] == "The channel is switched off."
