"""Queries whose SQL is made once and asked again with other values.

Django makes the SQL of a query anew each time, which takes ten times as long as the answer when the rows are
in memory. What a beat, a report or a delivery asks over and over is made once for each shape of its values::

    @prepared
    def due(ids: Collection[UUID], now: datetime) -> QuerySet[Rotation]:
        return Rotation.objects.filter(id__in=ids, check_at__lte=now)

    for rotation in due(ids, now): ...

Values are UUIDs, moments, whole numbers and texts, or collections of one of these; they have to reach the
database as they are given, which is checked when the SQL is made. True, False and None are part of the shape.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from django.core.exceptions import EmptyResultSet
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import query as querysets
from django.db.models.utils import create_namedtuple_class

P = ParamSpec("P")
Row = TypeVar("Row")
Read = Callable[[Sequence[Any]], Any]

# The stubs of another version of Django want one argument more.
_populators: Final[Callable[..., Any]] = querysets.get_related_populators
_EPOCH: Final = datetime(2001, 1, 1, tzinfo=UTC)
_UUID: Final[models.UUIDField[Any, Any]] = models.UUIDField()
_MOMENT: Final[models.DateTimeField[Any, Any]] = models.DateTimeField()
_STAND_INS: Final[dict[type, Callable[[int], Any]]] = {
    uuid.UUID: lambda _: uuid.uuid4(),
    datetime: lambda n: _EPOCH + timedelta(seconds=7919 * n, microseconds=n),
    int: lambda n: 1_000_000_000 + 7919 * n,
    str: lambda n: f"stands for a value {n}",
}


class NotPreparable(TypeError):
    """The query does something with a value before the database sees it, or is no plain query."""


@dataclass(frozen=True)
class _Many:
    """So many values of one kind, made up to a power of two: few lengths, few statements."""

    kind: type
    length: int


def _kind(value: object) -> type | None:
    """What kind of value this is; None where it is part of the shape."""
    if isinstance(value, bool):
        return None
    return next((kind for kind in _STAND_INS if isinstance(value, kind)), None)


def _shape(value: object) -> Hashable:
    kind = _kind(value)
    if kind is not None:
        return kind
    if isinstance(value, Collection):
        if not value:
            return _Many(type(None), 0)
        of = _kind(next(iter(value)))
        if of is None:
            raise NotPreparable("a collection of something else than values")
        return _Many(of, 1 << (len(value) - 1).bit_length())
    if value is not None and not isinstance(value, bool):
        raise NotPreparable(f"{type(value).__name__} is no kind of value")
    return value


def _flat(values: Sequence[Any], shapes: Sequence[Hashable]) -> Iterator[Any]:
    """The values one by one. A collection that is too short says its last one again."""
    for value, shape in zip(values, shapes, strict=True):
        if isinstance(shape, _Many):
            last = None
            for last in value:
                yield last
            yield from itertools.repeat(last, shape.length - len(value))
        elif isinstance(shape, type):
            yield value


def _stand_in(shape: Hashable, numbers: Iterator[int]) -> Any:
    if isinstance(shape, _Many):
        return [_STAND_INS[shape.kind](next(numbers)) for _ in range(shape.length)]
    return _STAND_INS[shape](next(numbers)) if isinstance(shape, type) else shape


def _for_database(value: Any, db: BaseDatabaseWrapper) -> Any:
    """As it is handed to the driver."""
    if isinstance(value, uuid.UUID):
        return _UUID.get_db_prep_value(value, db, prepared=True)
    if isinstance(value, datetime):
        return _MOMENT.get_db_prep_value(value, db)
    return value


class _Statement:
    """One SQL text, where its values go, and how its rows are read."""

    def __init__(
        self,
        build: Callable[..., models.QuerySet[Any, Any]],
        shapes: Sequence[Hashable],
        db: BaseDatabaseWrapper,
    ) -> None:
        trials = []
        for first in (1, 1_000):
            numbers = itertools.count(first)
            given = [_stand_in(shape, numbers) for shape in shapes]
            queryset = build(*given)
            compiler = queryset.query.get_compiler(connection=db)
            trials.append((compiler.as_sql(), [_for_database(one, db) for one in _flat(given, shapes)]))
        (self.sql, self._parameters), stand_ins = trials[0]
        (sql, parameters), others = trials[1]
        if sql != self.sql or len(parameters) != len(self._parameters):
            raise NotPreparable("the query differs with its values")
        # What is the same both times is a constant. What is not must be one of the values, as it was given.
        self._places = [
            (place, _place_of(stand_ins, others, one, other), type(one) if isinstance(one, int) else None)
            for place, (one, other) in enumerate(zip(self._parameters, parameters, strict=True))
            if one != other
        ]
        self._locks = queryset.query.select_for_update
        self._columns = compiler.col_count if compiler.has_extra_select else None
        converters = compiler.get_converters([column[0] for column in compiler.select[: compiler.col_count]])
        self._converters = [
            (place, convert, column) for place, (several, column) in converters.items() for convert in several
        ]
        self._read = _reader(queryset, compiler)

    def ask(self, values: Sequence[Any], db: BaseDatabaseWrapper) -> list[Any]:
        if self._locks and db.features.has_select_for_update and db.get_autocommit():
            raise transaction.TransactionManagementError("rows are locked inside a transaction only")
        parameters = list(self._parameters)
        for place, n, number in self._places:
            value = values[n]
            parameters[place] = _for_database(value, db) if number is None else number(value)
        with db.cursor() as cursor:
            cursor.execute(self.sql, parameters)
            rows = cursor.fetchall()
        return [self._read(self._converted(row, db)) for row in rows]

    def _converted(self, row: Sequence[Any], db: BaseDatabaseWrapper) -> Sequence[Any]:
        cells = list(row[: self._columns])
        for place, convert, column in self._converters:
            cells[place] = convert(cells[place], column, db)
        return cells


class _Nothing:
    """No row can match these values, whatever they are."""

    def ask(self, values: Sequence[Any], db: BaseDatabaseWrapper) -> list[Any]:
        return []


def _place_of(stand_ins: Sequence[Any], others: Sequence[Any], one: Any, other: Any) -> int:
    for n, pair in enumerate(zip(stand_ins, others, strict=True)):
        if pair == (one, other):
            return n
    raise NotPreparable("a value does not reach the database as it was given")


def _reader(queryset: models.QuerySet[Any, Any], compiler: Any) -> Read:
    """What becomes of a row: what Django's own iterable of this queryset would make of it."""
    iterable: type = queryset._iterable_class
    if iterable is querysets.ModelIterable:
        return _model_reader(compiler)
    if iterable is querysets.ValuesListIterable:
        return tuple
    if iterable is querysets.FlatValuesListIterable:
        return lambda row: row[0]
    query = queryset.query
    names = list(query.selected or [*query.values_select, *query.annotation_select])
    if iterable is querysets.NamedValuesListIterable:
        return cast(Read, create_namedtuple_class(*names)._make)
    if iterable is querysets.ValuesIterable:
        return lambda row: dict(zip(names, row, strict=True))
    raise NotPreparable(iterable.__name__)


def _model_reader(compiler: Any) -> Read:
    select, info, annotations = compiler.select, compiler.klass_info, compiler.annotation_col_map or {}
    model, start, end = info["model"], info["select_fields"][0], info["select_fields"][-1] + 1
    attributes = [column[0].target.attname for column in select[start:end]]
    populators = _populators(info, select, DEFAULT_DB_ALIAS)

    def read(row: Sequence[Any]) -> Any:
        made = model.from_db(DEFAULT_DB_ALIAS, attributes, row[start:end])
        for populator in populators:
            populator.populate(row, made)
        for name, place in annotations.items():
            setattr(made, name, row[place])
        return made

    return read


class Prepared(Generic[P, Row]):
    """What ``prepared`` makes of a function that builds a query: one that asks it. Safe in threads."""

    def __init__(self, build: Callable[P, models.QuerySet[Any, Row]]) -> None:
        self._build = build
        self._statements: dict[Hashable, _Statement | _Nothing] = {}
        update_wrapper(self, build)

    def __call__(self, *given: P.args, **named: P.kwargs) -> list[Row]:
        """Ask with these values; returns the rows. Raises ``NotPreparable`` when the query is not one."""
        values = (*given, *named.values())
        shapes = tuple(map(_shape, values))
        db = connections[DEFAULT_DB_ALIAS]
        known = (db.vendor, tuple(named), shapes)
        statement = self._statements.get(known)
        if statement is None:
            statement = self._statements[known] = self._make(shapes, tuple(named), db)
        return statement.ask(list(_flat(values, shapes)), db)

    def first(self, *given: P.args, **named: P.kwargs) -> Row | None:
        """The first row; the query itself should ask for no more than that one."""
        return next(iter(self(*given, **named)), None)

    def _make(
        self, shapes: Sequence[Hashable], names: Sequence[str], db: BaseDatabaseWrapper
    ) -> _Statement | _Nothing:
        plain = len(shapes) - len(names)
        build = cast("Callable[..., models.QuerySet[Any, Any]]", self._build)
        try:
            return _Statement(
                lambda *given: build(*given[:plain], **dict(zip(names, given[plain:], strict=True))),
                shapes,
                db,
            )
        except EmptyResultSet:
            return _Nothing()


def prepared(build: Callable[P, models.QuerySet[Any, Row]]) -> Prepared[P, Row]:
    """Ask the query that this function builds, with SQL that is made once for each shape of its values."""
    return Prepared(build)
