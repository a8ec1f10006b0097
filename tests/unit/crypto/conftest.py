"""A keyring in memory for the tests of the crypto room."""

from __future__ import annotations

import pytest

from keyvault.crypto.envelope import Context
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.keyring_document import new_document


@pytest.fixture
def keks() -> Keyring:
    return Keyring(new_document(["dev", "prod", "system"]))


@pytest.fixture
def context() -> Context:
    return Context("instance-1", "key-version", "service-1", "environment-1", "key-1", "version-1")
