"""Changes under load on two worker processes: whoever asks after the commit is answered by the new state.

An answer may show a state if it ended after that change began, and started before the next one was
committed. Every other answer is a stale one, or a wrong refusal.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from keyvault import clock, integrity
from keyvault.actors import SYSTEM
from keyvault.exceptions import KeyturnError
from keyvault.models import ConsumerToken, Grant
from keyvault.services import consumers, keks, keys, rewrap
from tests.api.delivery.world import World, build
from tests.conftest import Tell
from tests.installations import Web
from tests.integration.processes import wait_for
from tests.load import Answer, Load, Question

pytestmark = pytest.mark.serial

CONNECTIONS = 16
TOKENS, OTHERS = 8, 2  # things of each kind that are changed again and again
# Each round changes everything once; every second change of a token is its revocation.
ROUNDS = 76
REWRAP_EVERY = 10
READ = ("read", "versions", "report")


@dataclass
class State:
    """What is true of something. ``begun``: when the change to it began; ``committed``: when it was done."""

    shown: str
    begun: float
    committed: float


@dataclass
class Thing:
    """Something that is asked for and changed. ``changes`` are gone through again and again."""

    question: Question
    changes: list[tuple[str, Callable[[], str]]]
    states: list[State]
    turn: Iterator[int] = field(default_factory=itertools.count)

    def change(self) -> str:
        """Make the next change; returns what it is called."""
        what, make = self.changes[next(self.turn) % len(self.changes)]
        begun = time.monotonic()
        shown = make()
        self.states.append(State(shown, begun, time.monotonic()))
        return what

    def allowed(self, answer: Answer) -> list[int]:
        """The states that this answer may show, by their place."""
        ends = [state.committed for state in self.states[1:]] + [math.inf]
        return [
            place
            for place, (state, until) in enumerate(zip(self.states, ends, strict=True))
            if state.begun <= answer.ended and answer.started <= until
        ]


def shown(answer: Answer) -> str:
    """The state that an answer is evidence of: the version of the key, or why there is none."""
    return f"version {answer.json['version']}" if answer.status == 200 else f"{answer.status} {answer.code}"


# Things --------------------------------------------------------------------------------------------


def thing(world: World, *changes: tuple[str, Callable[[], str]]) -> Thing:
    question = Question(world.service.slug, world.path, world.token)
    return Thing(question, list(changes), [State("version 1", -math.inf, -math.inf)])


def token(world: World) -> Thing:
    def revoke() -> str:
        consumers.revoke_token(SYSTEM, world.token_row, now=clock.now())
        return "401 invalid_api_key"

    def restore() -> str:
        row = ConsumerToken.objects.get(pk=world.token_row.pk)
        row.revoked_at = None
        integrity.sign(row)
        row.save()
        return "version 1"

    return thing(world, ("token revoked", revoke), ("token restored", restore))


def grant(world: World) -> Thing:
    def remove() -> str:
        row = Grant.objects.get(consumer=world.consumer, service=world.service)
        consumers.remove_grant(SYSTEM, row, now=clock.now())
        return "404 not_found"

    def set_to(verbs: tuple[str, ...], told: str) -> Callable[[], str]:
        def change() -> str:
            world.grant(verbs)
            return told

        return change

    again = ("granted again", set_to(READ, "version 1"))
    narrowed = ("grant narrowed", set_to(("report",), "403 permission_denied"))
    return thing(world, ("grant removed", remove), again, narrowed, again)


def weight(world: World) -> Thing:
    """A new version for everybody, and back: the next one is withheld at once."""
    held = world.version(1)

    def offer() -> str:
        version, _ = world.offer(100)
        return f"version {version.number}"

    def roll_back() -> str:
        incoming = world.key.pending
        assert incoming is not None
        world.change(keys.roll_back, incoming, outgoing=held)
        return "version 1"

    return thing(world, ("weight raised", offer), ("rolled back", roll_back))


def test_no_answer_after_a_commit_shows_the_state_before(server: Web, tell: Tell) -> None:
    things = [token(build(server.server)) for _ in range(TOKENS)]
    things += [grant(build(server.server)) for _ in range(OTHERS)]
    things += [weight(build(server.server)) for _ in range(OTHERS)]
    wrapped = thing(build(server.server, environment="dev"))
    asked = [*things, wrapped]
    done: Counter[str] = Counter()
    with Load(server.port, lambda n: asked[n % len(asked)].question, CONNECTIONS) as load:
        load.more(20 * len(asked))
        for number in range(ROUNDS):
            done.update(one.change() for one in things)
            # One after the other they ask for everything.
            load.more(len(asked) + CONNECTIONS, since=time.monotonic())
            if number % REWRAP_EVERY == 0:
                replace_kek()
                done["rewrapped"] += rewrap.rewrap_environment(SYSTEM, "dev", now=clock.now()).rows
        load.more(20 * len(asked))
    judged = [judge(one, load) for one in asked]
    counted = {
        "changes": done.total(),
        **done,
        "answers": len(load.answers),
        "changes that somebody saw": sum(seen for seen, _ in judged),
        "stale": sum(len(wrong) for _, wrong in judged),
    }
    tell("changes under load", counted)
    assert [wrong for _, wrong in judged if wrong] == []
    assert done["token revoked"] >= 4 * ROUNDS
    assert all(answer.whole for answer in load.answers)
    assert sum(seen for seen, _ in judged) >= 0.95 * len(things) * ROUNDS
    assert done["rewrapped"] >= ROUNDS // REWRAP_EVERY


def replace_kek() -> None:
    """Another primary KEK, as soon as the server's processes know it."""
    kid = keks.add(SYSTEM, "dev", now=clock.now())

    def promoted() -> bool:
        try:
            keks.promote(SYSTEM, "dev", kid, now=clock.now())
        except KeyturnError:
            return False
        return True

    wait_for(promoted, "every process knows the KEK")


def judge(one: Thing, load: Load) -> tuple[int, list[str]]:
    """How many of its changes an answer has seen for certain, and the answers that were wrong."""
    seen, wrong = set(), []
    for answer in load.answers:
        if answer.question is not one.question:
            continue
        allowed, told = one.allowed(answer), shown(answer)
        if told not in {one.states[place].shown for place in allowed}:
            late = answer.started - one.states[allowed[0]].committed
            wrong.append(f"{told}, {late * 1000:.1f} ms after {one.states[allowed[0]].shown} was committed")
        elif len(allowed) == 1:
            seen.add(allowed[0])
    return len(seen - {0}), wrong
