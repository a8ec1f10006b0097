"""Consumers, their tokens and their grants."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.tokens import TokenKind, digest, parse
from keyvault.domain import OrganisationRole, Role
from keyvault.exceptions import KeyturnError
from keyvault.integrity import verify
from keyvault.keystore import keys
from keyvault.models import AuditEvent, Consumer, ConsumerToken, Grant
from keyvault.services import consumers, people
from tests.integration.furniture import NOW, Furniture, furnish

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def furniture(db: None) -> Furniture:
    return furnish()


def actor_with(furniture: Furniture, role: Role, name: str = "someone") -> Actor:
    user = people.create_person(name, "a long enough password", role=OrganisationRole.NONE)
    people.set_member(SYSTEM, furniture.team, username=name, role=role, now=NOW)
    return actor_for(user)


def code_of(caught: pytest.ExceptionInfo[KeyturnError]) -> str:
    return caught.value.code


def test_a_consumer_name_exists_once(furniture: Furniture) -> None:
    consumers.create_consumer(SYSTEM, slug="web", team=furniture.team, now=NOW)
    with pytest.raises(KeyturnError) as caught:
        consumers.create_consumer(SYSTEM, slug="web", team=furnish().team, now=NOW)
    assert "slug" in caught.value.fields
    assert Consumer.objects.filter(slug="web").count() == 1


def test_a_token_is_kept_as_a_digest_and_carries_its_environment(furniture: Furniture) -> None:
    row, token = furniture.reader("prod")
    parsed = parse(token.expose())
    assert parsed is not None
    assert (parsed.kind, parsed.environment) == (TokenKind.CONSUMER, "prod")
    assert bytes(row.digest) == digest(keys().service.pepper, token.expose())
    assert token.expose() not in str(ConsumerToken.objects.filter(pk=row.pk).values())
    verify(ConsumerToken.objects.get(pk=row.pk))


def test_tokens_of_a_protected_environment_live_ninety_days(furniture: Furniture) -> None:
    consumer = furniture.consumer()
    prod, _ = consumers.create_token(
        SYSTEM, consumer, furniture.environment("prod"), expires_at=None, now=NOW
    )
    dev, _ = consumers.create_token(SYSTEM, consumer, furniture.environment("dev"), expires_at=None, now=NOW)
    assert (prod.expires_at, dev.expires_at) == (NOW + 90 * DAY, None)


def test_a_token_is_not_born_expired_nor_bound_to_a_network_that_is_none(furniture: Furniture) -> None:
    consumer, environment = furniture.consumer(), furniture.environment()
    with pytest.raises(KeyturnError) as caught:
        consumers.create_token(SYSTEM, consumer, environment, expires_at=NOW, now=NOW)
    assert "expires_at" in caught.value.fields
    for cidr in ("10.0.0.1/8", "everywhere", "10.0.0.0/33", ""):
        with pytest.raises(KeyturnError) as caught:
            consumers.create_token(SYSTEM, consumer, environment, expires_at=None, cidrs=[cidr], now=NOW)
        assert "cidrs" in caught.value.fields
    assert not ConsumerToken.objects.exists()


def test_an_instance_limit_lets_at_least_one_in(furniture: Furniture) -> None:
    consumer, environment = furniture.consumer(), furniture.environment()
    for limit in (0, -1, consumers.MOST_INSTANCES + 1):
        with pytest.raises(KeyturnError) as caught:
            consumers.create_token(
                SYSTEM, consumer, environment, expires_at=None, instance_limit=limit, now=NOW
            )
        assert "instance_limit" in caught.value.fields
    assert not ConsumerToken.objects.exists()


def test_only_a_lead_hands_out_and_takes_back_tokens(furniture: Furniture) -> None:
    row, _ = furniture.reader()
    operator = actor_with(furniture, Role.OPERATOR)
    for act in (
        lambda: consumers.create_token(operator, row.consumer, row.environment, expires_at=None, now=NOW),
        lambda: consumers.rotate_token(operator, row, grace=DAY, now=NOW),
        lambda: consumers.revoke_token(operator, row, now=NOW),
        lambda: consumers.create_consumer(operator, slug="new", team=furniture.team, now=NOW),
    ):
        with pytest.raises(KeyturnError) as caught:
            act()
        assert code_of(caught) == "permission_denied"
    assert ConsumerToken.objects.count() == 1


def test_a_successor_takes_everything_over_and_the_old_one_ends_with_the_grace(furniture: Furniture) -> None:
    consumer, environment = furniture.consumer(), furniture.environment()
    old, _ = consumers.create_token(
        SYSTEM,
        consumer,
        environment,
        expires_at=NOW + 30 * DAY,
        cidrs=["10.0.0.0/8"],
        rate_per_minute=60,
        instance_limit=3,
        now=NOW,
    )
    later = NOW + 10 * DAY
    new, _ = consumers.rotate_token(SYSTEM, old, grace=DAY, now=later)
    old.refresh_from_db()
    assert old.expires_at == later + DAY
    assert new.expires_at == later + 30 * DAY
    assert (new.cidrs, new.rate_per_minute, new.instance_limit) == (["10.0.0.0/8"], 60, 3)
    assert new.replaces_id == old.id
    verify(old)
    verify(ConsumerToken.objects.get(pk=new.pk))


def test_the_grace_never_passes_the_original_expiry(furniture: Furniture) -> None:
    consumer, environment = furniture.consumer(), furniture.environment()
    old, _ = consumers.create_token(SYSTEM, consumer, environment, expires_at=NOW + DAY, now=NOW)
    consumers.rotate_token(SYSTEM, old, grace=7 * DAY, now=NOW)
    old.refresh_from_db()
    assert old.expires_at == NOW + DAY


def test_of_one_line_at_most_two_tokens_work(furniture: Furniture) -> None:
    first, _ = furniture.reader()
    second, _ = consumers.rotate_token(SYSTEM, first, grace=DAY, now=NOW)
    for third_of in (first, second):
        with pytest.raises(KeyturnError) as caught:
            consumers.rotate_token(SYSTEM, third_of, grace=DAY, now=NOW + DAY / 2)
        assert code_of(caught) == "invalid_transition"
    third, _ = consumers.rotate_token(SYSTEM, second, grace=DAY, now=NOW + DAY)
    assert third.replaces_id == second.id
    # A successor that was lost is revoked; then its predecessor has another one, while it lives.
    consumers.revoke_token(SYSTEM, third, now=NOW + DAY)
    again, _ = consumers.rotate_token(SYSTEM, second, grace=DAY, now=NOW + DAY)
    assert again.replaces_id == second.id


def test_a_dead_token_has_no_successor(furniture: Furniture) -> None:
    row, _ = furniture.reader()
    assert row.expires_at is not None
    with pytest.raises(KeyturnError) as caught:
        consumers.rotate_token(SYSTEM, row, grace=DAY, now=row.expires_at)
    assert code_of(caught) == "invalid_transition"
    consumers.revoke_token(SYSTEM, row, now=NOW)
    with pytest.raises(KeyturnError) as caught:
        consumers.rotate_token(SYSTEM, row, grace=DAY, now=NOW)
    assert code_of(caught) == "invalid_transition"
    assert ConsumerToken.objects.count() == 1


def test_revoking_twice_keeps_the_first_time_and_tells_once(furniture: Furniture) -> None:
    row, _ = furniture.reader()
    consumers.revoke_token(SYSTEM, row, now=NOW)
    consumers.revoke_token(SYSTEM, row, now=NOW + DAY)
    row.refresh_from_db()
    assert row.revoked_at == NOW
    assert AuditEvent.objects.filter(name="consumer:token:revoked").count() == 1


def test_a_consumer_may_revoke_its_own_token_and_no_other(furniture: Furniture) -> None:
    mine, _ = furniture.reader()
    other, _ = furniture.reader()
    itself = Actor(kind="consumer", name=mine.consumer.slug)
    consumers.revoke_token(itself, mine, now=NOW)
    with pytest.raises(KeyturnError) as caught:
        consumers.revoke_token(itself, other, now=NOW)
    assert code_of(caught) == "permission_denied"


# Grants --------------------------------------------------------------------------------------------


def test_a_grant_replaces_the_one_before_and_keeps_the_order_of_verbs(furniture: Furniture) -> None:
    consumer, environment = furniture.consumer(), furniture.environment()
    first = consumers.set_grant(
        SYSTEM, consumer, furniture.service, environment, verbs=["report", "read", "read"], now=NOW
    )
    assert first.verbs == ["read", "report"]
    again = consumers.set_grant(SYSTEM, consumer, furniture.service, environment, verbs=["read"], now=NOW)
    assert (again.pk, again.verbs) == (first.pk, ["read"])
    verify(Grant.objects.get(pk=first.pk))
    names = AuditEvent.objects.filter(name__startswith="grant:").order_by("sequence")
    assert list(names.values_list("name", flat=True)) == ["grant:created", "grant:changed"]


def test_a_grant_has_known_verbs_and_at_least_one(furniture: Furniture) -> None:
    for verbs in ([], ["own"], ["read", "own"]):
        with pytest.raises(KeyturnError) as caught:
            consumers.set_grant(
                SYSTEM, furniture.consumer(), furniture.service, furniture.environment(), verbs=verbs, now=NOW
            )
        assert "verbs" in caught.value.fields
    assert not Grant.objects.exists()


def test_the_team_of_the_service_decides_not_that_of_the_consumer(furniture: Furniture) -> None:
    other = furnish()
    theirs = other.consumer()
    lead = actor_with(furniture, Role.LEAD)
    grant = consumers.set_grant(
        lead, theirs, furniture.service, furniture.environment(), verbs=["read"], now=NOW
    )
    with pytest.raises(KeyturnError) as caught:
        consumers.set_grant(
            lead, furniture.consumer(), other.service, other.environment(), verbs=["read"], now=NOW
        )
    assert code_of(caught) == "permission_denied"
    consumers.remove_grant(lead, grant, now=NOW)
    with pytest.raises(KeyturnError) as caught:
        consumers.remove_grant(lead, grant, now=NOW)
    assert code_of(caught) == "not_found"
