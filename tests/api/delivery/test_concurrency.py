"""Many callers at once, on two server processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from keyvault.models import Delivery
from tests.api.delivery.world import World

Make = Callable[..., World]
REQUESTS = 200
LIMIT = 50


def test_a_limit_of_50_lets_exactly_50_of_200_pass(make: Make) -> None:
    world = make(rate=LIMIT)
    with ThreadPoolExecutor(REQUESTS) as threads:
        statuses = Counter(threads.map(lambda _: world.get().status, range(REQUESTS)))
    # Usually one minute; where it ended in between, the second one has its own 50.
    last = world.counted()
    passed = min(LIMIT, REQUESTS - last) + min(LIMIT, last)
    assert statuses == {200: passed, 429: REQUESTS - passed}
    assert Delivery.objects.filter(key_id=world.key_id).count() == passed


def test_every_answer_has_its_record(world: World) -> None:
    names = [f"web-{n}" for n in range(100)]
    with ThreadPoolExecutor(50) as threads:
        replies = list(threads.map(lambda name: world.get(f"?instance={name}"), names))
    assert {reply.status for reply in replies} == {200}
    recorded = {row.request_id: row.instance for row in world.deliveries()}
    answered = {reply.headers["x-request-id"]: name for reply, name in zip(replies, names, strict=True)}
    assert recorded == answered
