"""The numbers of the change log under racing writers: who has seen a number has seen all before it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection, transaction

from keyvault.actors import SYSTEM
from keyvault.models import Change, ChangeCounter, ConsumerToken, Delivery, Grant, Key
from keyvault.services import catalogue, changes, consumers, keys, usage
from tests.integration.furniture import (
    NOW,
    PATIENCE,
    Furniture,
    at_once,
    broken_at,
    furnish,
    raised,
    returned,
    second_version,
)

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

WRITERS = 20
ROUNDS = 10  # of each writer
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def fresh_log(transactional_db: None) -> None:
    # Emptying the tables after the test before was told too, and not in the order of its numbers.
    Change.objects.all().delete()
    ChangeCounter.objects.all().delete()


def seq() -> int:
    return ChangeCounter.objects.values_list("seq", flat=True).first() or 0


def test_numbers_are_in_the_order_of_commits(furniture: Furniture) -> None:
    """Who changes first and commits last is told last: until then nobody can have read it."""
    slow, quick = furniture.reader()[0], furniture.reader()[0]
    before = seq()
    changed, committed = threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            ConsumerToken.objects.filter(pk=slow.pk).update(hint="slow")
            changed.set()
            assert committed.wait(PATIENCE), "a change that is not committed holds up another one"

    def second() -> None:
        assert changed.wait(PATIENCE)
        ConsumerToken.objects.filter(pk=quick.pk).update(hint="quick")
        committed.set()

    assert not raised(at_once(first, second))
    told = list(Change.objects.filter(seq__gt=before).order_by("seq").values_list("seq", "ref"))
    assert told == [(before + 1, quick.id), (before + 2, slow.id)]


LOOK = """
    SELECT c.seq, count(DISTINCT n.seq), COALESCE(max(n.seq), c.seq)
    FROM keyvault_changecounter c LEFT JOIN keyvault_change n ON true GROUP BY c.seq
"""


def test_whoever_sees_a_number_sees_everything_up_to_it(furniture: Furniture) -> None:
    """Otherwise a reader would go past a change that is committed a moment later, and never drop it."""
    tokens = [furniture.reader()[0] for _ in range(6)]
    start, done = seq(), threading.Event()
    Change.objects.all().delete()
    left = itertools.count(len(tokens) - 1, -1)
    looked = threading.Event()  # often enough; until then everybody writes on
    gives_up = time.monotonic() + PATIENCE / 2

    def write(token: ConsumerToken) -> int:
        written = 0
        while written < 40 or not (looked.is_set() or time.monotonic() > gives_up):
            with transaction.atomic():
                ConsumerToken.objects.filter(pk=token.pk).update(hint=f"{written}")
                connection.cursor().execute("SELECT pg_sleep(random() / 500)")
            written += 1
        if next(left) == 0:
            done.set()
        return written

    def read() -> int:
        looks = 0
        while not done.is_set():
            if looks > 50:
                looked.set()
            with connection.cursor() as cursor:
                cursor.execute(LOOK)
                number, told, newest = cursor.fetchone()
            assert newest <= number, "a change is there before its number"
            assert told == number - start, "a number is there before its changes"
            looks += 1
        return looks

    outcomes = at_once(read, *(lambda token=token: write(token) for token in tokens))
    assert not raised(outcomes), raised(outcomes)
    looks, *written = returned(outcomes)
    assert seq() == start + sum(written)
    assert looks > 50, "the reader must have looked meanwhile"


class Writers:
    """Everything that a running installation writes, on rows that all of them share."""

    def __init__(self, furniture: Furniture) -> None:
        self.furniture = furniture
        self.key = furniture.key()
        self.version = second_version(self.key)
        self.change(lambda key: keys.offer(
            SYSTEM, key, self.version, salt=b"s", canaries=(), pinned=(), refresh_seconds=5, now=NOW
        ))  # fmt: skip
        self.token, _ = furniture.reader()
        for version in (self.key.current, self.version):
            assert version is not None
            Delivery.objects.create(
                at=NOW, key=self.key, version=version, consumer_id=self.token.consumer_id, token=self.token,
                instance="web-1", label="", credential="consumer_token", status=200, request_id="race",
            )  # fmt: skip

    def change(self, do: Callable[[Key], None]) -> None:
        with transaction.atomic():
            do(keys.lock_key(self.key.id))

    def shown(self, n: int) -> None:
        keys.set_never_shown(SYSTEM, self.key, never_shown=bool(n % 2), now=NOW)

    def granted(self, n: int) -> None:
        grant = consumers.set_grant(
            SYSTEM, self.furniture.consumer(), self.furniture.service, self.key.environment,
            verbs=["read"], now=NOW,
        )  # fmt: skip
        if n % 2:
            consumers.remove_grant(SYSTEM, Grant.objects.get(pk=grant.pk), now=NOW)

    def token_made_and_revoked(self, n: int) -> None:
        row, _ = consumers.create_token(
            SYSTEM, self.token.consumer, self.key.environment, expires_at=NOW + timedelta(days=1), now=NOW
        )
        consumers.revoke_token(SYSTEM, row, now=NOW)

    def reported(self, n: int) -> None:
        lines = [usage.LineInput(number, "key", {"ok": 1}, jobs_opened=n % 2) for number in (1, 2)]
        report = usage.ReportInput("web-1", next(_numbers), NOW, NOW, lines)
        usage.accept_report(self.token.consumer, self.key, report, now=NOW)

    def provider(self, n: int) -> None:
        catalogue.change_provider(
            SYSTEM,
            self.furniture.provider,
            fields={"max_job_age_seconds": 60 + n},
            admin_secret=None,
            now=NOW,
        )

    def service(self, n: int) -> None:
        catalogue.create_service(
            SYSTEM, slug=f"race-{next(_numbers)}", team=self.furniture.team, provider=self.furniture.provider,
            description="", now=NOW,
        )  # fmt: skip

    def new_key(self, n: int) -> None:
        furnish().key()

    def pruned(self, n: int) -> None:
        changes.prune(keep=20)


def test_200_racing_writers_do_not_lock_each_other_out(furniture: Furniture) -> None:
    """The audit chain and the counter are one row each, and everybody takes both."""
    writers = Writers(furniture)
    kinds = [
        writers.shown, writers.granted, writers.token_made_and_revoked, writers.reported,
        writers.provider, writers.service, writers.new_key, writers.pruned,
    ]  # fmt: skip

    def write(index: int) -> None:
        for n in range(ROUNDS):
            kinds[(index + n) % len(kinds)](index * ROUNDS + n)

    outcomes = at_once(*(lambda index=index: write(index) for index in range(WRITERS)))
    assert not raised(outcomes), raised(outcomes)
    assert broken_at() is None
    assert Change.objects.filter(seq__gt=seq()).count() == 0
