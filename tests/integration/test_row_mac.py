"""Somebody who may write to the database, but holds no key of ours, gets nothing delivered by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.secret import Secret
from keyvault.integrity import sign, verify
from keyvault.keystore import open_admin_secret, open_version, seal_admin_secret
from keyvault.models import ConsumerToken, Grant, Key, KeyVersion, Provider
from keyvault.services import consumers, keys, seats
from rotation.services import starting
from tests.integration.furniture import (
    NOW,
    Delivered,
    Furniture,
    ask,
    far_away,
    fresh_secret,
    furnish,
    reread,
    reread_version,
    second_version,
    without_guards,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def furniture(transactional_db: None) -> Furniture:
    return furnish()


def served_nothing(answer: Delivered, *secrets: Secret) -> None:
    assert (answer.status, answer.code) == (503, "integrity_error")
    for secret in secrets:
        assert secret.expose() not in answer.text


def edit(rows: Any, **columns: object) -> None:
    """Plain SQL: no service, no signature."""
    assert rows.update(**columns) == 1


def test_what_is_not_touched_is_delivered(furniture: Furniture) -> None:
    secret = fresh_secret()
    furniture.key(secret=secret)
    _, token = furniture.reader()
    answer = ask(token, furniture.service.slug)
    assert answer.status == 200
    assert answer.document["key"] == secret.expose()


# Versions ------------------------------------------------------------------------------------------


def _withheld(key: Key, version: KeyVersion) -> dict[str, object]:
    keys.withhold(version, now=NOW)
    return {"withheld_at": None}


def _disabled(key: Key, version: KeyVersion) -> dict[str, object]:
    keys.mark_disabled(SYSTEM, key, version, now=NOW)
    return {"state": "active", "disabled_at": None}


def _compromised(key: Key, version: KeyVersion) -> dict[str, object]:
    keys.mark_compromised(SYSTEM, key, version, reason="leak", now=NOW)
    return {"compromised_at": None}


def _expiring(key: Key, version: KeyVersion) -> dict[str, object]:
    version.expires_at = NOW
    sign(version)
    version.save()
    return {"expires_at": far_away()}


@pytest.mark.parametrize("prepare", [_withheld, _disabled, _compromised, _expiring])
def test_undoing_what_was_decided_about_a_version_serves_nothing(
    furniture: Furniture, prepare: Callable[[Key, KeyVersion], dict[str, object]]
) -> None:
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    _, token = furniture.reader()
    with transaction.atomic():
        key = keys.lock_key(key.id)
        version = key.current
        assert version is not None
        undo = prepare(key, version)
    edit(KeyVersion.objects.filter(pk=version.pk), **undo)

    served_nothing(ask(token, furniture.service.slug), secret)
    with pytest.raises(IntegrityError):
        verify(reread_version(version))


def test_a_revoked_version_cannot_be_made_active_again_even_without_triggers(furniture: Furniture) -> None:
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    _, token = furniture.reader()
    with transaction.atomic():
        key = keys.lock_key(key.id)
        version = key.current
        assert version is not None
        keys.mark_revoked(SYSTEM, key, version, now=NOW)
    with without_guards():
        edit(KeyVersion.objects.filter(pk=version.pk), state="active", revoked_at=None)

    served_nothing(ask(token, furniture.service.slug, query="version=1"), secret)


def test_secrets_swapped_between_two_keys_are_not_opened(furniture: Furniture) -> None:
    one, other = fresh_secret(), fresh_secret()
    mine, theirs = furniture.key(secret=one).current, furnish().key(secret=other).current
    assert mine is not None
    assert theirs is not None
    _, token = furniture.reader()
    columns = ("ciphertext", "wrapped_dek")
    with without_guards():
        edit(KeyVersion.objects.filter(pk=mine.pk), **{name: getattr(theirs, name) for name in columns})

    served_nothing(ask(token, furniture.service.slug), one, other)
    with pytest.raises(IntegrityError):
        open_version(reread_version(mine))


def test_a_whole_row_copied_from_another_environment_is_not_opened(furniture: Furniture) -> None:
    """Everything that can be copied is copied, the MAC too."""
    prod, dev = fresh_secret(), fresh_secret()
    source, target = furniture.key("prod", prod).current, furniture.key("dev", dev).current
    assert source is not None
    assert target is not None
    _, token = furniture.reader("dev")
    columns = ("ciphertext", "wrapped_dek", "kek_kid", "fingerprint", "mac")
    with without_guards():
        edit(KeyVersion.objects.filter(pk=target.pk), **{name: getattr(source, name) for name in columns})

    served_nothing(ask(token, furniture.service.slug, "dev"), prod, dev)


def test_one_flipped_bit_in_any_sealed_column_serves_nothing(furniture: Furniture) -> None:
    secret = fresh_secret()
    version = furniture.key(secret=secret).current
    assert version is not None
    _, token = furniture.reader()
    row = KeyVersion.objects.filter(pk=version.pk)
    for column in ("ciphertext", "wrapped_dek", "mac"):
        good = bytes(getattr(version, column))
        for place in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 1
            with without_guards():
                edit(row, **{column: bytes(bad)})
            served_nothing(ask(token, furniture.service.slug), secret)
        with without_guards():
            edit(row, **{column: good})
    assert ask(token, furniture.service.slug).status == 200


# Labels --------------------------------------------------------------------------------------------


def test_a_label_pointed_at_another_version_serves_nothing(furniture: Furniture) -> None:
    secret, older = fresh_secret(), fresh_secret()
    key = furniture.key(secret=secret)
    stray = second_version(key, secret=older)
    _, token = furniture.reader()
    edit(Key.objects.filter(pk=key.pk), current=stray)

    served_nothing(ask(token, furniture.service.slug), secret, older)
    with pytest.raises(IntegrityError), transaction.atomic():
        keys.lock_key(key.id)


def test_a_label_pointed_into_another_environment_serves_nothing(furniture: Furniture) -> None:
    prod, dev = furniture.key("prod"), furniture.key("dev")
    _, token = furniture.reader("dev")
    version = prod.current
    edit(Key.objects.filter(pk=prod.pk), current=None)
    edit(Key.objects.filter(pk=dev.pk), current=version)
    served_nothing(ask(token, furniture.service.slug, "dev"))


@pytest.mark.parametrize(
    "columns",
    [{"weight": 100}, {"split_salt": b"another"}, {"canaries": ["consumer-1"]}, {"pinned": ["consumer-1"]}],
    ids=lambda columns: next(iter(columns)),
)
def test_the_split_cannot_be_moved_by_sql(furniture: Furniture, columns: dict[str, object]) -> None:
    key = furniture.key()
    incoming = second_version(key)
    with transaction.atomic():
        locked = keys.lock_key(key.id)
        keys.offer(
            SYSTEM, locked, incoming, salt=b"salt", canaries=(), pinned=(), refresh_seconds=30, now=NOW
        )
    _, token = furniture.reader()
    assert ask(token, furniture.service.slug).status == 200
    edit(Key.objects.filter(pk=key.pk), **columns)
    served_nothing(ask(token, furniture.service.slug))


def test_a_key_marked_never_shown_stays_so(furniture: Furniture) -> None:
    key = keys.set_never_shown(SYSTEM, furniture.key(), never_shown=True, now=NOW)
    edit(Key.objects.filter(pk=key.pk), never_shown=False)
    with pytest.raises(IntegrityError):
        keys.reveal(SYSTEM, key, reason="look", now=NOW)


def test_no_service_builds_on_a_key_that_was_changed(furniture: Furniture) -> None:
    key = furniture.key()
    stray = second_version(key)
    edit(Key.objects.filter(pk=key.pk), current=stray)
    with pytest.raises(IntegrityError):
        starting.start(SYSTEM, reread(key), now=NOW, ring=lambda _: None)


# Tokens and grants ---------------------------------------------------------------------------------


def _revoked(row: ConsumerToken) -> dict[str, object]:
    consumers.revoke_token(SYSTEM, row, now=NOW)
    return {"revoked_at": None}


def _expired(row: ConsumerToken) -> dict[str, object]:
    row.expires_at = NOW + timedelta(minutes=1)
    sign(row)
    row.save()
    return {"expires_at": far_away()}


def _of_a_network(row: ConsumerToken) -> dict[str, object]:
    row.cidrs = ["192.0.2.0/24"]
    sign(row)
    row.save()
    return {"cidrs": []}


def _of_one_instance(row: ConsumerToken) -> dict[str, object]:
    row.instance_limit = 1
    sign(row)
    row.save()
    assert seats.take(row.id, "another", address="", now=clock.now())
    return {"instance_limit": None}


def _of_few_instances(row: ConsumerToken) -> dict[str, object]:
    return {**_of_one_instance(row), "instance_limit": 50}


def _of_dev(row: ConsumerToken) -> dict[str, object]:
    dev = furnish().environment("dev")
    prod = row.environment
    row.environment = dev
    sign(row)
    row.save()
    return {"environment": prod}


@pytest.mark.parametrize(
    "prepare",
    [_revoked, _expired, _of_a_network, _of_one_instance, _of_few_instances, _of_dev],
)
def test_a_token_cannot_be_revived_extended_or_moved_by_sql(
    furniture: Furniture, prepare: Callable[[ConsumerToken], dict[str, object]]
) -> None:
    secret = fresh_secret()
    furniture.key(secret=secret)
    row, token = furniture.reader()
    undo = prepare(row)
    query = "instance=web-1"
    assert ask(token, furniture.service.slug, query=query).status in (401, 403, 404)  # as it should be
    edit(ConsumerToken.objects.filter(pk=row.pk), **undo)
    served_nothing(ask(token, furniture.service.slug, query=query), secret)


def test_a_token_does_not_open_another_consumers_keys(furniture: Furniture) -> None:
    secret = fresh_secret()
    furniture.key(secret=secret)
    allowed, _ = furniture.reader()
    stranger = furniture.consumer()
    row, token = consumers.create_token(
        SYSTEM, stranger, furniture.environment(), expires_at=far_away(), now=NOW
    )
    edit(ConsumerToken.objects.filter(pk=row.pk), consumer=allowed.consumer)
    served_nothing(ask(token, furniture.service.slug), secret)


def test_a_grant_cannot_be_widened_or_moved_by_sql(furniture: Furniture) -> None:
    secret, other = fresh_secret(), fresh_secret()
    furniture.key(secret=secret)
    elsewhere = furnish()
    elsewhere.key(secret=other)
    row, token = furniture.reader(verbs=["report"])
    assert ask(token, furniture.service.slug).status == 403
    grant = Grant.objects.get(consumer=row.consumer)

    edit(Grant.objects.filter(pk=grant.pk), verbs=["read"])
    served_nothing(ask(token, furniture.service.slug), secret)
    edit(Grant.objects.filter(pk=grant.pk), verbs=grant.verbs, service=elsewhere.service)
    served_nothing(ask(token, elsewhere.service.slug), other)


def test_a_grant_that_was_invented_opens_nothing(furniture: Furniture) -> None:
    secret = fresh_secret()
    key = furniture.key(secret=secret)
    stranger = furniture.consumer()
    _, token = consumers.create_token(
        SYSTEM, stranger, furniture.environment(), expires_at=far_away(), now=NOW
    )
    assert ask(token, furniture.service.slug).status == 404
    Grant.objects.create(
        consumer=stranger,
        service=furniture.service,
        environment=key.environment,
        verbs=["read"],
        created_at=NOW,
        mac=b"\0" * 32,
    )
    served_nothing(ask(token, furniture.service.slug), secret)


def test_a_credential_of_one_provider_does_not_open_at_another(furniture: Furniture) -> None:
    one, other = Provider.objects.get(slug="removit"), Provider.objects.get(slug="backgroundcut")
    for row in (one, other):
        seal_admin_secret(row, fresh_secret())
        row.save()
    for column in ("admin_ciphertext", "admin_wrapped_dek", "admin_kid"):
        edit(Provider.objects.filter(pk=one.pk), **{column: getattr(other, column)})
    with pytest.raises(IntegrityError):
        open_admin_secret(Provider.objects.get(pk=one.pk))
