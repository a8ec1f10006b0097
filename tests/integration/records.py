"""What consumers leave behind: deliveries, verifications and usage reports of one key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import Consumer, ConsumerToken, Delivery, Key, KeyVersion, Verification
from keyvault.services import inserting, usage
from keyvault.services.usage import LineInput, ReportInput
from tests.integration.furniture import NOW, PATIENCE, Furniture, second_version


@dataclass
class Traffic:
    """One key and one consumer that reads it."""

    key: Key
    version: KeyVersion
    token: ConsumerToken

    @property
    def consumer(self) -> Consumer:
        return self.token.consumer

    def deliver(
        self,
        at: datetime,
        instance: str = "web-1",
        version: KeyVersion | None = None,
        request_id: str = "test",
    ) -> Delivery:
        """One recorded delivery, as every writer of them has to insert it."""
        with transaction.atomic():
            inserting.hold()
            return Delivery.objects.create(
                at=at,
                key=self.key,
                version=version or self.version,
                consumer=self.consumer,
                token=self.token,
                instance=instance,
                label="current",
                credential="consumer_token",
                status=200,
                request_id=request_id,
            )

    def verify(
        self,
        at: datetime,
        code: str = "valid",
        *,
        by: Consumer | None = None,
        count: int = 1,
        version: KeyVersion | None = None,
    ) -> Verification:
        return Verification.objects.create(
            at=at, version=version or self.version, consumer=by, code=code, count=count
        )

    def report(
        self,
        sequence: int = 1,
        *,
        instance: str = "web-1",
        start: datetime | None = None,
        end: datetime = NOW,
        lines: tuple[LineInput, ...] = (LineInput(1, "key", {"ok": 40, "timeout": 2}),),
    ) -> bool:
        told = ReportInput(instance, sequence, start or end, end, lines)
        return usage.accept_report(self.consumer, self.key, told, now=NOW)


def traffic(furniture: Furniture) -> Traffic:
    """A key that we issued ourselves, so that it can be verified, and its reader."""
    key = furniture.key(secret=mint(TokenKind.ISSUED, "prod"))
    assert key.current is not None
    return Traffic(key, key.current, furniture.reader()[0])


def two_versions(furniture: Furniture) -> tuple[Traffic, KeyVersion]:
    """The traffic of a key whose next version is there already."""
    made = traffic(furniture)
    return made, second_version(made.key)


def until_somebody_asks() -> None:
    """Until another connection has asked PostgreSQL who is inserting, and so waits for those who are."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction looks once otherwise
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND query LIKE '%%FROM pg_locks%%' AND query_start > %s",
                [datetime.now(UTC) - timedelta(seconds=0.5)],
            )
            if cursor.fetchone() is not None:
                return
    raise AssertionError("Nobody asks who is inserting.")
