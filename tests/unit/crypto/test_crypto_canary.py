from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from keyvault.crypto.canary import _context, check_canary, make_canary
from keyvault.crypto.envelope import IntegrityError, KeyServiceUnavailable, rewrap, seal
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.keyring_document import EnvironmentKeks, KeyringDocument
from keyvault.crypto.secret import Secret

INSTANCE = "instance-1"


def test_every_kid_opens_its_canary_also_when_it_is_not_the_primary(keks: Keyring) -> None:
    document = keks._document
    held = document.environments["prod"]
    both = EnvironmentKeks(held.primary, {**held.keks, "prod-2": os.urandom(32)})
    ring = Keyring(KeyringDocument({"prod": both}, document.service))
    for environment, description in ring.describe().items():
        assert len(description.kids) == 2
        for kid in description.kids:
            sealed = make_canary(ring, environment, kid, INSTANCE)
            assert sealed.kid == kid
            check_canary(ring, environment, kid, INSTANCE, sealed)


def test_the_same_kid_with_another_key_is_found(keks: Keyring) -> None:
    kid = keks.primary("prod")
    sealed = make_canary(keks, "prod", kid, INSTANCE)
    other = EnvironmentKeks(kid, {kid: os.urandom(32)})
    with pytest.raises(IntegrityError):
        check_canary(Keyring(KeyringDocument({"prod": other}, keks.service)), "prod", kid, INSTANCE, sealed)


def test_the_canary_of_another_installation_kid_or_environment_does_not_count(keks: Keyring) -> None:
    prod, dev = keks.primary("prod"), keks.primary("dev")
    sealed = make_canary(keks, "prod", prod, INSTANCE)
    for environment, kid, instance, stored in (
        ("prod", prod, "instance-2", sealed),
        ("dev", dev, INSTANCE, sealed),
        ("dev", dev, INSTANCE, replace(sealed, kid=dev)),
        ("dev", prod, INSTANCE, sealed),
    ):
        with pytest.raises(IntegrityError):
            check_canary(keks, environment, kid, instance, stored)


def test_a_canary_moved_to_another_kek_does_not_prove_its_own(tmp_path: Path) -> None:
    ring = Keyring.create_file(tmp_path / "keyring", ["prod"])
    old = ring.primary("prod")
    sealed = make_canary(ring, "prod", old, INSTANCE)
    ring.promote("prod", ring.add("prod"))
    moved = rewrap(sealed, _context("prod", old, INSTANCE), environment="prod", keks=ring)
    assert moved.kid == ring.primary("prod") != old
    with pytest.raises(IntegrityError):
        check_canary(ring, "prod", old, INSTANCE, moved)


def test_another_text_in_the_canarys_place_does_not_count(keks: Keyring) -> None:
    kid = keks.primary("prod")
    context = _context("prod", kid, INSTANCE)
    sealed = seal(Secret("something else"), context, environment="prod", keks=keks)
    with pytest.raises(IntegrityError):
        check_canary(keks, "prod", kid, INSTANCE, sealed)


def test_a_kid_that_is_not_held_has_no_canary(keks: Keyring) -> None:
    with pytest.raises(KeyServiceUnavailable):
        make_canary(keks, "prod", "prod-gone", INSTANCE)
    with pytest.raises(KeyServiceUnavailable):
        make_canary(keks, "staging", "staging-1", INSTANCE)
    sealed = replace(make_canary(keks, "prod", keks.primary("prod"), INSTANCE), kid="prod-gone")
    with pytest.raises(KeyServiceUnavailable):
        check_canary(keks, "prod", "prod-gone", INSTANCE, sealed)
