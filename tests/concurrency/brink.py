"""A whole PostgreSQL database kept and put back, so that races begin at one brink; and who races there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from django.db import connection, connections, transaction

from tests.integration.furniture import PATIENCE

SCHEMA: Final = "brink"
Result = TypeVar("Result")


class Brink:
    """The rows of every table as they are now. ``restore`` costs milliseconds where tables are small."""

    def __init__(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")
            tables = connection.introspection.table_names(cursor)
            filled = []
            for table in tables:
                cursor.execute(f'CREATE TABLE {SCHEMA}."{table}" AS TABLE public."{table}"')
                if cursor.rowcount:
                    filled.append(table)
        # As a replica would write them: without triggers, which guard rows and log changes, and in any order.
        self._script = (
            "SET LOCAL session_replication_role = replica;"
            + "".join(f'DELETE FROM public."{table}";' for table in tables)
            + "".join(f'INSERT INTO public."{table}" TABLE {SCHEMA}."{table}";' for table in filled)
        )

    @transaction.atomic
    def restore(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self._script)

    def forget(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


class Racers:
    """Two threads whose connections stay open from race to race, as those of workers do."""

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(max_workers=1) for _ in range(2)]

    def race(self, *calls: Callable[[], Result]) -> list[Result | Exception]:
        """Both calls, let go at the same moment. What each returned or raised, in order."""
        gate = threading.Barrier(len(calls))

        def run(call: Callable[[], Result]) -> Result | Exception:
            connection.ensure_connection()
            gate.wait(PATIENCE)
            try:
                return call()
            except Exception as error:
                return error

        running = [thread.submit(run, call) for thread, call in zip(self._threads, calls, strict=True)]
        return [each.result(PATIENCE) for each in running]

    def stop(self) -> None:
        for thread in self._threads:
            thread.submit(connections.close_all).result(PATIENCE)
            thread.shutdown()
