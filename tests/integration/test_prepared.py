"""Prepared queries answer as the plain ones do, and one that would answer otherwise is refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection, transaction
from django.db.models import Count, Max, QuerySet
from django.test.utils import CaptureQueriesContext

from keyvault.actors import SYSTEM
from keyvault.models import Delivery, Key, KeyVersion, Team
from keyvault.prepared import NotPreparable, Prepared, prepared
from keyvault.services import people
from keyvault.upsert import insert, insert_all, update
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db


@pytest.fixture
def furniture() -> Furniture:
    return furnish()


@pytest.fixture
def teams() -> list[Team]:
    return [
        people.create_team(SYSTEM, slug=f"team-{n}", name=f"Team {n}", now=NOW + timedelta(seconds=n))
        for n in range(5)
    ]


def some(ids: Collection[uuid.UUID], slug: str, since: datetime) -> QuerySet[Team]:
    rows = Team.objects.filter(id__in=ids, created_at__gt=since).exclude(slug=slug)
    return rows.order_by("slug")


SHAPES: dict[str, Callable[[QuerySet[Team]], QuerySet[Any, Any]]] = {
    "rows": lambda rows: rows,
    "tuples": lambda rows: rows.values_list("slug", "created_at"),
    "single values": lambda rows: rows.values_list("id", flat=True),
    "named tuples": lambda rows: rows.values_list("slug", "id", named=True),
    "dictionaries": lambda rows: rows.values("slug").annotate(n=Count("id"), last=Max("created_at")),
    "annotated rows": lambda rows: rows.annotate(n=Count("services")),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_rows_comes_as_from_django(shape: str, teams: list[Team]) -> None:
    def build(ids: Collection[uuid.UUID], slug: str, since: datetime) -> QuerySet[Any, Any]:
        return SHAPES[shape](some(ids, slug, since))

    asked: Prepared[Any, Any] = prepared(build)
    ids = [team.id for team in teams]
    for values in ((ids, "team-2", NOW), (ids[:3], "team-9", NOW), (ids[1:2], "", NOW + timedelta(days=1))):
        rows, expected = asked(*values), list(build(*values))
        assert rows == expected
        assert [type(row) for row in rows] == [type(row) for row in expected]
        if shape == "annotated rows":
            assert [row.n for row in rows] == [row.n for row in expected]


def test_related_rows_come_along_and_are_not_asked_for(furniture: Furniture) -> None:
    @prepared
    def with_all(key_id: uuid.UUID) -> QuerySet[Key]:
        return Key.objects.select_related("service__team", "current", "pending").filter(pk=key_id)

    key = furniture.key()
    with CaptureQueriesContext(connection) as captured:
        (row,) = with_all(key.id)
        assert row.service.team.slug == furniture.team.slug
        assert row.pending is None
    assert len(captured) == 1


def test_the_sql_is_made_once_for_few_lengths(teams: list[Team]) -> None:
    made = []

    @prepared
    def of(ids: Collection[uuid.UUID]) -> QuerySet[Team]:
        made.append(len(ids))
        return Team.objects.filter(id__in=ids).order_by("slug")

    ids = [team.id for team in teams]
    for n in (1, 2, 3, 4, 5, 4, 3, 2, 1):
        assert [team.id for team in of(ids[:n])] == ids[:n]
    # Each length twice: what differs between two trials is a value, what does not is a constant.
    assert made == [1, 1, 2, 2, 4, 4, 8, 8]


def test_nothing_is_asked_for_an_empty_collection(teams: list[Team]) -> None:
    @prepared
    def of(ids: Collection[uuid.UUID]) -> QuerySet[Team]:
        return Team.objects.filter(id__in=ids)

    assert of([teams[0].id])
    with CaptureQueriesContext(connection) as captured:
        assert of([]) == []
        assert of.first([]) is None
    assert len(captured) == 0


def test_true_false_and_none_are_part_of_the_shape(teams: list[Team]) -> None:
    @prepared
    def named(slug: str | None, there: bool) -> QuerySet[Team]:
        rows = Team.objects.filter(created_at__isnull=not there)
        return rows if slug is None else rows.filter(slug=slug)

    assert len(named(None, True)) == 5
    assert named(None, False) == []
    assert [team.slug for team in named(slug="team-3", there=True)] == ["team-3"]


def _derived(now: datetime) -> QuerySet[Team]:
    return Team.objects.filter(created_at__lte=now, created_at__gt=now - timedelta(days=1))


def _pattern(slug: str) -> QuerySet[Team]:
    return Team.objects.filter(slug__contains=slug)


def _limited(most: int) -> QuerySet[Team]:
    return Team.objects.all()[:most]


def _branching(slug: str) -> QuerySet[Team]:
    return Team.objects.filter(slug=slug) if slug.endswith(" 1") else Team.objects.filter(name=slug)


@pytest.mark.parametrize(
    ("build", "value"), [(_derived, NOW), (_pattern, "team"), (_limited, 3), (_branching, "team-1")]
)
def test_a_query_that_changes_its_values_is_refused(build: Callable[[Any], Any], value: object) -> None:
    with pytest.raises(NotPreparable):
        prepared(build)(value)


@pytest.mark.parametrize("value", [1.5, timedelta(1), [1.5], b"x"])
def test_other_kinds_of_values_are_refused(value: Any) -> None:
    with pytest.raises(NotPreparable):
        prepared(lambda name: Team.objects.filter(name=name))(value)


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgresql
def test_rows_are_locked_inside_a_transaction_only(teams: list[Team]) -> None:
    @prepared
    def locked(team_id: uuid.UUID) -> QuerySet[Team]:
        return Team.objects.select_for_update().filter(pk=team_id)

    with transaction.atomic():
        assert locked(teams[0].id) == [teams[0]]
    with pytest.raises(transaction.TransactionManagementError):
        locked(teams[0].id)


# Writing -------------------------------------------------------------------------------------------


def deliveries(key: Key, version: KeyVersion, names: list[str]) -> Iterator[Delivery]:
    token, _ = furnish().reader()
    for name in names:
        yield Delivery(
            at=NOW, key=key, version=version, consumer=token.consumer, token=token, instance=name,
            label="current", credential="consumer_token", status=200, request_id="x",
        )  # fmt: skip


def test_several_rows_are_written_by_one_statement(furniture: Furniture) -> None:
    key = furniture.key()
    assert key.current is not None
    rows = list(deliveries(key, key.current, ["a", "b", "c"]))
    with CaptureQueriesContext(connection) as captured:
        assert insert_all(rows) == 3
    assert len(captured) == 1
    assert sorted(Delivery.objects.values_list("instance", flat=True)) == ["a", "b", "c"]
    assert insert_all([]) == 0


def test_only_the_named_fields_are_written(teams: list[Team]) -> None:
    row = teams[0]
    row.name, row.slug = "New", "new"
    update(row, "name")
    assert Team.objects.values_list("name", "slug").get(pk=row.pk) == ("New", "team-0")
    update(row)
    assert Team.objects.get(pk=row.pk).slug == "new"


def test_a_row_that_is_gone_is_not_written(teams: list[Team]) -> None:
    row = teams[0]
    Team.objects.filter(pk=row.pk).delete()
    with pytest.raises(ObjectDoesNotExist):
        update(row)
    assert insert(row)
    update(row)
