"""Access tokens with bits turned over: of all of them only the original is taken."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime

import pytest

from keyvault.crypto.access_tokens import InvalidAccessToken, mint_access_token, verify_access_token
from keyvault.crypto.keyring_document import new_document
from tests.conftest import Tell

LONG = bool(os.environ.get("KEYTURN_TEST_LONG"))
FLIPS = 100_000 if LONG else 2_000
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.long
def test_only_the_original_is_taken(tell: Tell) -> None:
    dice, keys = random.Random(FLIPS), new_document(["prod"]).service
    given = {"issuer": "https://keys.example", "audience": "keyturn:3fa85f64"}
    text = mint_access_token(
        keys,
        **given,
        parent="3fa85f64-5717-4562-b3fc-2c963f66afa6",
        environment="prod",
        paths=["*"],
        now=NOW,
        expires_in=600,
    ).expose()
    assert verify_access_token(keys, text, **given, now=NOW).environment == "prod"
    raw, taken = text.encode(), 0
    # Every bit of the text alone, then as many at once as come.
    bits = [[at] for at in range(len(raw) * 7)]
    dice.shuffle(bits)
    bits += [dice.sample(range(len(raw) * 7), dice.randint(2, 6)) for _ in range(FLIPS - len(bits))]
    for turned in bits[:FLIPS]:
        changed = bytearray(raw)
        for at in turned:
            changed[at // 7] ^= 1 << at % 7
        try:
            verify_access_token(keys, changed.decode("ascii"), **given, now=NOW)
            taken += 1
        except InvalidAccessToken:
            continue
    tell("access tokens with turned bits", {"tokens": len(bits[:FLIPS]), "taken": taken})
    assert taken == 0
