"""The same secret from many sides at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import transaction

from keyvault.actors import SYSTEM
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, KeyVersion
from keyvault.services import keys
from rotation import operations
from rotation.services.adding import add_key
from tests.integration.furniture import (
    NOW,
    Furniture,
    at_once,
    broken_at,
    fresh_secret,
    furnish,
    raised,
    returned,
)
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


def test_16_threads_bring_one_secret_into_two_environments_and_one_wins(furniture: Furniture) -> None:
    places = [furniture.empty_key("dev"), furniture.empty_key("prod")]
    secret = fresh_secret()

    def bring(key: Key) -> KeyVersion:
        return keys.import_first(SYSTEM, key, secret, now=NOW)

    outcomes = at_once(*(lambda i=i: bring(places[i % 2]) for i in range(16)))
    (winner,) = returned(outcomes)
    refusals = raised(outcomes)
    assert len(refusals) == 15
    assert all(isinstance(refusal, KeyturnError) for refusal in refusals), refusals
    assert list(KeyVersion.objects.values_list("id", flat=True)) == [winner.id]
    reasons = [refusal.extra.get("reason") for refusal in refusals if isinstance(refusal, KeyturnError)]
    assert reasons.count("other_environment") == 8
    assert broken_at() is None


def test_a_secret_of_many_services_ends_in_one_environment(furniture: Furniture) -> None:
    secret = fresh_secret()
    places = [furnish().empty_key(environment) for environment in ("dev", "staging", "prod") * 5]
    outcomes = at_once(*(lambda key=key: keys.import_first(SYSTEM, key, secret, now=NOW) for key in places))
    holders = set(KeyVersion.objects.values_list("key__environment__slug", flat=True))
    assert len(holders) == 1
    assert len(returned(outcomes)) == 5
    assert broken_at() is None


def test_one_secret_is_supplied_twice_to_one_key(furniture: Furniture) -> None:
    key = furniture.key()
    secret = fresh_secret()

    @transaction.atomic
    def fill() -> int:
        locked = keys.lock_key(key.id)
        version = keys.request_version(SYSTEM, locked, now=NOW)
        keys.fill_version(SYSTEM, locked, version, secret, provider_key_id="", imported=True, now=NOW)
        return version.number

    outcomes = at_once(*([fill] * 8))
    assert returned(outcomes) == [2]
    assert [getattr(refusal, "code", refusal) for refusal in raised(outcomes)] == ["validation_error"] * 7
    assert list(key.versions.order_by("number").values_list("number", flat=True)) == [1, 2]


def test_answers_of_two_providers_with_one_secret_fill_one_version(furniture: Furniture) -> None:
    """Here nothing is written before the secret is looked up."""
    for _ in range(6):
        secret, waiting = fresh_secret(), []
        for environment in ("dev", "staging", "prod") * 3:
            key = furnish().empty_key(environment)
            with transaction.atomic():
                waiting.append(keys.request_version(SYSTEM, keys.lock_key(key.id), now=NOW))

        @transaction.atomic
        def fill(version: KeyVersion, secret: Secret = secret) -> str:
            key = keys.lock_key(version.key_id)
            keys.fill_version(SYSTEM, key, version, secret, provider_key_id="", imported=False, now=NOW)
            return key.environment.slug

        outcomes = at_once(*(lambda version=version: fill(version) for version in waiting))
        assert len(set(returned(outcomes))) == 1
        assert len(raised(outcomes)) == 6


def test_imports_and_answers_of_the_provider_do_not_lock_each_other_out(
    world: Callable[..., World],
) -> None:
    """An import begins with an audit event, a settlement ends with one. They must not wait crosswise."""
    for _ in range(10):
        w = world()
        w.start()
        operation_id = w.rung.popleft()
        others = [furnish() for _ in range(3)]

        def add(furniture: Furniture) -> object:
            return add_key(SYSTEM, furniture.service, furniture.environment(), secret=fresh_secret(), now=NOW)

        outcomes = at_once(
            lambda w=w, o=operation_id: operations.perform(o, w.now, ring=w.rung.append),  # type: ignore[misc]
            *(lambda f=f: add(f) for f in others),
        )
        assert not raised(outcomes), raised(outcomes)
        assert w.version(2).state == "active"
    assert broken_at() is None
