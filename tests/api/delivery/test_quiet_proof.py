"""A verification is a use: it keeps a rotation from revoking what somebody still presents.

The keys are verified over HTTP, by the server's clock. The rotation is driven here and its clock only moves
forward from there, so that hours of it take no time.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import State
from keyvault.keystore import open_version
from keyvault.models import Key
from keyvault.services import usage
from rotation import operations
from rotation.models import Rotation, RotationPolicy
from rotation.policy import Policy, Step, to_json
from rotation.proof import offenders
from rotation.services import starting, ticking
from tests.api.conftest import Server
from tests.api.delivery.issued import Issued, issue

MINUTE = timedelta(minutes=1)
# Everything else is over long before the outgoing version has been quiet for long enough.
POLICY = Policy(
    steps=(Step(100, MINUTE),),
    monitor=2 * MINUTE,
    quiet=60 * MINUTE,
    cool_off=timedelta(0),
    window=MINUTE,
    probe_every=MINUTE,
    refresh=timedelta(seconds=10),
    allow_idle=True,
)


class Rotating:
    """One key of our own that is being replaced."""

    def __init__(self, issued: Issued, policy: Policy = POLICY) -> None:
        self.issued = issued
        self.start = self.now = clock.now()
        self._rung: deque[uuid.UUID] = deque()
        row = RotationPolicy.objects.create(
            slug=f"policy-{issued.world.service.slug}", document=to_json(policy), created_at=self.now
        )
        key = Key.objects.get(pk=issued.world.key_id)
        starting.start(SYSTEM, key, policy=row, now=self.now, ring=self._rung.append)

    @property
    def row(self) -> Rotation:
        return Rotation.objects.get(key_id=self.issued.world.key_id)

    @property
    def incoming(self) -> str:
        return open_version(self.issued.version(2)).expose()

    def tick(self, span: timedelta = MINUTE / 6) -> Rotation:
        self.now += span
        ticking.tick(self.now, ring=self._rung.append)
        while self._rung:
            operations.perform(self._rung.popleft(), self.now, ring=self._rung.append)
        return self.row

    def run(self, until: Callable[[Rotation], bool]) -> timedelta:
        """Tick until something is so; returns how long that took by the rotation's clock."""
        for _ in range(200):
            if until(self.tick()):
                return self.now - self.start
        row = self.row
        raise AssertionError(f"still {row.stage}: {row.waiting_for} {row.attention_reason}")


@pytest.fixture
def issued(installed: Server) -> Issued:
    return issue(installed)


def test_what_nobody_presents_is_revoked_once_the_rest_is_done(issued: Issued) -> None:
    rotating = Rotating(issued)
    assert rotating.run(lambda row: row.stage == "succeeded") < 10 * MINUTE
    assert issued.version(1).state == State.REVOKED
    assert issued.verify(issued.key).json == {"valid": False, "code": "revoked"}
    assert issued.pass_by().status == 401
    assert issued.verify(rotating.incoming).json["label"] == "current"


@pytest.mark.parametrize("folded", [False, True], ids=["fresh", "folded"])
def test_what_somebody_presents_is_not_revoked_and_who_it_is_has_a_name(issued: Issued, folded: bool) -> None:
    rotating = Rotating(issued)
    assert issued.code() == "valid"
    assert issued.pass_by().status == 200
    if folded:
        usage.roll_up()
        assert issued.rows() == []
    rotating.run(lambda row: row.waiting_code == "quiet")

    # As long as the quiet time is not over, nothing happens, and both are named.
    while rotating.now + 9 * MINUTE < rotating.start + POLICY.quiet:
        row = rotating.tick(9 * MINUTE)
        assert (row.stage, row.waiting_code) == ("monitor", "quiet")
        assert "verified by " in row.waiting_for
        found = offenders(row, POLICY, rotating.now)
        assert [one.who for one in found] == sorted(
            ["verified by forward-auth", f"verified by {issued.world.consumer.slug}"]
        )
        assert all("last seen on v1" in one.why for one in found)
        assert issued.version(1).state == State.ACTIVE

    rotating.run(lambda row: row.stage == "succeeded")
    assert rotating.now - rotating.start >= POLICY.quiet
    assert issued.code() == "revoked"


def test_presenting_the_incoming_version_holds_up_nothing(issued: Issued) -> None:
    rotating = Rotating(issued)
    rotating.run(lambda row: row.stage == "monitor")
    assert issued.code(rotating.incoming) == "valid"
    assert rotating.run(lambda row: row.stage == "succeeded") < 10 * MINUTE


def test_presenting_what_is_none_of_the_callers_holds_up_nothing(installed: Server, issued: Issued) -> None:
    rotating, stranger = Rotating(issued), issue(installed)
    assert stranger.code(issued.key) == "not_found"
    assert issued.pass_by(query=f"?service={stranger.world.service.slug}").status == 401
    assert rotating.run(lambda row: row.stage == "succeeded") < 10 * MINUTE
