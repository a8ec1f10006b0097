"""How long the database takes for the records of a batch, alone: ``python -m benchmarks.committing TIMES``.

Prints microseconds by the number of records, the same statement and connection as delivery's own.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from psycopg import pq  # noqa: E402

from benchmarks.goals import LEAST  # noqa: E402
from keyvault import clock  # noqa: E402
from keyvault.delivery import lane_postgresql as lane  # noqa: E402
from keyvault.delivery.rows import DELIVERY_COLUMNS, DeliveryRow  # noqa: E402
from keyvault.models import ChangeCounter, Delivery  # noqa: E402

MARK = "committing"


def row_like_the_last() -> DeliveryRow:
    last = Delivery.objects.order_by("-id")[0]
    return DeliveryRow(
        clock.now(),
        last.key_id.bytes,
        last.version_id.bytes,
        last.consumer_id.bytes,
        last.token_id.bytes,
        last.instance,
        last.label,
        last.credential,
        last.status,
        MARK,
    )


def main() -> int:
    times, seen = int(sys.argv[1]), struct.pack("!q", ChangeCounter.objects.get().seq)
    connection, taken = lane._connect(), {}
    connection.pgconn.nonblocking = 0
    for size in LEAST.values():
        parameters = [seen, *lane._arrays(DELIVERY_COLUMNS, [row_like_the_last()] * size)]
        formats, spans = [pq.Format.BINARY] * len(parameters), []
        for _ in range(times):
            started = time.perf_counter()
            done = connection.pgconn.exec_prepared(
                lane._NAMES[True, False], parameters, formats, pq.Format.BINARY
            )
            spans.append(time.perf_counter() - started)
            if done.status != pq.ExecStatus.TUPLES_OK:
                raise RuntimeError("the records were not written")
        taken[size] = statistics.median(spans) * 1e6
    Delivery.objects.filter(request_id=MARK).delete()
    connection.close()
    print(json.dumps(taken))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
