"""Signed events as https://www.standardwebhooks.com describes them. Pure.

What is signed is ``id.timestamp.body``; while a secret is being replaced both sign, and the receiver takes
the event when one signature of the header fits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from keyvault.crypto.secret import Secret

PREFIX: Final = "whsec_"
_BYTES: Final = 32


def new_signing_secret() -> Secret:
    """32 random bytes in base64 behind ``whsec_``."""
    return Secret(PREFIX + base64.b64encode(os.urandom(_BYTES)).decode())


def signature_headers(
    secrets: Sequence[Secret], *, event_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of an event; ``timestamp`` in whole seconds since 1970."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [f"v1,{_sign(secret, signed)}" for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _sign(secret: Secret, signed: bytes) -> str:
    key = base64.b64decode(secret.expose().removeprefix(PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
