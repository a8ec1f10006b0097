"""The audit page: filters in the address, pages, one event, the end of the chain, export; and its indexes."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from keyvault import audit
from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.console import export, trail
from keyvault.domain import OrganisationRole
from keyvault.models import AuditEvent, AuditHead, Membership, Team, User
from tests.browser.furniture import person
from tests.integration.console import House, build, client_of
from tests.integration.explained import all_read_whole, prefer_indexes
from tests.integration.furniture import without_guards

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PATH = "/audit/"


@pytest.fixture
def house() -> House:
    return build(START)


def record(house: House, n: int = 1, *, name: str = "key:changed", who: Actor = SYSTEM, **more: Any) -> None:
    """Events of the house's key, a minute apart."""
    for i in range(n):
        at = more.get("now", START) + timedelta(minutes=i)
        audit.record(name, actor=who, now=at, key=house.prod, reason=more.get("reason", ""))


def actor(username: str) -> Actor:
    return actor_for(User.objects.get(username=username))


def text(answer: Any) -> str:
    return str(answer.content.decode())


def numbers(answer: Any) -> list[int]:
    return [event.sequence for event in answer.context["events"]]


# The list -------------------------------------------------------------------------------------------


def test_each_filter_narrows_and_stands_in_the_address(house: House) -> None:
    lena = actor("lena")
    record(house, 2, who=lena, reason="rotate the <b>", now=START + timedelta(hours=1))
    ada, last = client_of("ada"), AuditEvent.objects.latest("sequence").sequence
    wanted = [last, last - 1]
    for asked in (
        {"actor": "lena"},
        {"event": "key:changed"},
        {"event": "key:*", "actor": "lena"},
        {"service": "background-removal", "environment": "prod", "actor": "lena"},
        {"since": "2026-03-02T10:00"},
        {"since": "2026-03-02T11:00+01:00", "until": "2026-03-02T11:00"},
        {"q": "rotate lena"},
        {"q": "background-removal/prod rotate"},
    ):
        page = ada.get(PATH, asked)
        assert numbers(page) == wanted, asked
        assert "rotate the &lt;b&gt;" in text(page)
    assert numbers(ada.get(PATH, {"until": "2026-02-01T09:00"})) == []
    assert numbers(ada.get(PATH, {"actor": "len"})) == []
    shown = ada.get(PATH, {"actor": "lena", "since": "2026-03-02T10:00"})
    assert shown.context["link"] == "actor=lena&since=2026-03-02T10%3A00%3A00Z"
    assert 'value="2026-03-02T10:00"' in text(shown)


def test_pages_follow_each_other_without_gaps(house: House) -> None:
    record(house, 120)
    ada, seen = client_of("ada"), []
    page = ada.get(PATH, {"event": "key:changed"})
    while True:
        seen += numbers(page)
        if page.context["found"].before is None:
            break
        page = ada.get(f"{PATH}?{page.context['link']}&before={page.context['found'].before}")
    assert (
        seen == sorted(AuditEvent.objects.filter(name="key:changed").values_list("sequence", flat=True))[::-1]
    )
    assert len(seen) == 120


def test_words_are_looked_for_in_a_window_and_then_further_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(house, reason="the needle")
    needle = AuditEvent.objects.latest("sequence").sequence
    record(house, 30)
    monkeypatch.setattr(trail, "WINDOW", 10)
    ada, looks = client_of("ada"), 0
    page = ada.get(PATH, {"q": "needle"})
    while not numbers(page):
        assert "Look further back" in text(page)
        page = ada.get(f"{PATH}?{page.context['link']}&before={page.context['found'].before}")
        looks += 1
    assert (numbers(page), looks) == ([needle], 3)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-13-01T00:00"}, "until"),
        ({"since": "0001-01-01T00:00+14:00"}, "since"),
        ({"event": "key:unheard"}, "event"),
        ({"service": "No Such"}, "service"),
        ({"before": "-1"}, "before"),
        ({"before": "9" * 30}, "before"),
        ({"q": "a\x00b"}, "q"),
        ({"actor": "x" * 151}, "actor"),
    ],
)
def test_what_is_no_filter_is_told_at_its_field(house: House, asked: dict[str, str], field: str) -> None:
    for username in ("ada", "lena"):
        answer = client_of(username).get(PATH, asked)
        assert answer.status_code == 422
        assert field in answer.context["form"].errors


def test_people_see_the_events_of_their_teams_in_one_order(house: House) -> None:
    shop = Team.objects.get(slug="shop")
    for n in range(60):
        team = shop if n % 3 else house.team
        audit.record("service:changed", actor=SYSTEM, now=START, team_id=team.id, service=f"s{n}", fields=[])
    audit.record("team:created", actor=SYSTEM, now=START, team="nobodys")
    lena = client_of("lena")
    assert {event.team_id for event in lena.get(PATH).context["events"]} == {house.team.id}
    Membership.objects.create(
        team=shop, user=User.objects.get(username="lena"), role="viewer", created_at=START
    )
    mine = AuditEvent.objects.filter(team_id__in=[shop.id, house.team.id])
    both = lena.get(PATH, {"event": "service:changed"})
    wanted = mine.filter(name="service:changed").order_by("-sequence").values_list("sequence", flat=True)
    assert numbers(both) == list(wanted[: trail.PAGE])
    second = lena.get(PATH, {"event": "service:changed", "before": str(both.context["found"].before)})
    assert numbers(second) == list(wanted[trail.PAGE :])
    assert not numbers(lena.get(PATH, {"event": "team:created", "q": "nobodys"}))


# One event ------------------------------------------------------------------------------------------


def test_an_event_has_a_page_of_its_own_and_strangers_get_404(house: House) -> None:
    record(house, reason="because <i>")
    event = AuditEvent.objects.latest("sequence")
    page = text(client_of("vito").get(f"/audit/{event.sequence}/"))
    assert "because &lt;i&gt;" in page
    assert "follows from the one before" in page
    assert "/audit/?service=background-removal&amp;environment=prod" in page
    person("olaf", role=OrganisationRole.AUDITOR)
    assert client_of("olaf").get(f"/audit/{event.sequence}/").status_code == 200
    stranger = client_of("stranger")
    for path in (f"/audit/{event.sequence}/", "/audit/0/", f"/audit/{2**63}/", f"/audit/{'9' * 40}/"):
        assert stranger.get(path).status_code == 404
        assert path.startswith(f"/audit/{event.sequence}") or client_of("ada").get(path).status_code == 404
    assert Client().get(f"/audit/{event.sequence}/")["Location"].startswith("/accounts/login/?next=/")


def test_the_first_event_follows_nothing_and_is_whole(house: House) -> None:
    assert trail.follows(AuditEvent.objects.get(sequence=1))


def test_a_changed_event_and_a_cut_chain_are_told(house: House) -> None:
    ada = client_of("ada")
    assert "its head agrees" in text(ada.get(PATH))
    head = AuditHead.objects.get()
    with without_guards():
        AuditEvent.objects.filter(sequence=head.sequence).update(reason="a better one")
    assert "does not follow" in text(ada.get(f"/audit/{head.sequence}/"))
    with without_guards():
        AuditEvent.objects.filter(sequence=head.sequence).delete()
    assert "Tell an administrator" in text(ada.get(PATH))


# Export ---------------------------------------------------------------------------------------------


def exported(client: Client, form: str, **asked: str) -> str:
    answer = client.post("/audit/export/", {"form": form, **asked})
    assert answer.status_code == 200
    assert answer["Content-Disposition"].startswith('attachment; filename="audit-')
    assert answer.streaming
    return b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]


EVIL = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx")


def test_a_spreadsheet_gets_no_formula_and_the_export_is_an_event(house: House) -> None:
    for reason in EVIL:
        record(house, reason=reason)
    rows = list(
        csv.DictReader(io.StringIO(exported(client_of("lena"), "csv", event="key:changed"), newline=""))
    )
    assert [row["reason"] for row in rows] == [f"'{reason}" for reason in reversed(EVIL)]
    assert {row["event"] for row in rows} == {"key:changed"}
    assert rows[0]["at"] == "2026-03-02T09:00:00Z"
    noted = AuditEvent.objects.get(name="audit:exported")
    assert (noted.actor, noted.details) == ("lena", {"form": "csv", "filters": ["event"]})


def test_json_is_what_the_list_shows(house: House) -> None:
    record(house, 3, reason='"quoted"')
    lena = client_of("lena")
    document = json.loads(exported(lena, "json", event="key:changed"))
    assert document["capped"] is False
    assert [event["sequence"] for event in document["events"]] == numbers(
        lena.get(PATH, {"event": "key:changed"})
    )
    assert document["events"][0]["reason"] == '"quoted"'
    assert json.loads(exported(lena, "json", event="key:revealed"))["events"] == []


def test_it_is_capped_and_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    record(house, 12)
    monkeypatch.setattr(export, "MOST", 10)
    events = list(trail.walk(SYSTEM, {"event": "key:changed"}, most=10, step=3))
    assert [event.sequence for event in events] == sorted({e.sequence for e in events}, reverse=True)
    assert len(events) == 10
    assert json.loads("".join(export.as_json(events)))["capped"] is True
    assert list(export.as_csv(events))[-1].startswith('"Stopped after')
    assert json.loads("".join(export.as_json(events[:9])))["capped"] is False


def test_a_made_up_export_is_refused_and_leaves_no_event(house: House) -> None:
    lena = client_of("lena")
    for data in ({"form": "xml"}, {}, {"form": "csv", "since": "soon"}, {"form": "csv", "q": "x" * 300}):
        assert lena.post("/audit/export/", data).status_code == 422
    assert lena.get("/audit/export/").status_code == 405
    assert not AuditEvent.objects.filter(name="audit:exported").exists()


def test_an_export_holds_nothing_of_other_teams(house: House) -> None:
    record(house)
    assert "background-removal" not in exported(client_of("stranger"), "csv")


# Indexes --------------------------------------------------------------------------------------------

ASKED: list[dict[str, Any]] = [
    {"actor": "lena"},
    {"event": "key:changed"},
    {"event": "key:*"},
    {"service": "background-removal", "environment": "prod"},
    {"service": "background-removal"},
    {"since": START, "until": START + timedelta(days=1)},
    {"q": "needle in a haystack"},
    {"before": "7"},
]


def test_no_question_reads_all_events(house: House) -> None:
    record(house, 30)
    prefer_indexes()
    large = frozenset({AuditEvent._meta.db_table})
    for who in (actor("ada"), actor("lena")):
        for asked in ASKED:
            assert all_read_whole(lambda asked=asked, who=who: trail.find(who, asked), large) == {}, asked  # type: ignore[misc]
