"""``keyturn evidence verify``: check a file anywhere, without an installation. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyvault.client import NOT_FOUND, NOT_GENUINE, USAGE, ClientError, key_set, read_file
from keyvault.crypto import signed
from keyvault.crypto.evidence import verify_evidence


def verify(path: str, source: str) -> str:
    """What the file tells, in one line, if its signature is good.

    ``source`` is the address or the file of a key set. Raises ``ClientError``.
    """
    try:
        document = signed.read_document(read_file(path))
        kid = verify_evidence(document, key_set(source))
    except signed.UnknownSigner as error:
        raise ClientError(str(error), NOT_FOUND) from error
    except signed.NotGenuine as error:
        raise ClientError(f"NOT GENUINE. {error}", NOT_GENUINE) from error
    except signed.NotADocument as error:
        raise ClientError(str(error), USAGE) from error
    return f"genuine, signed by {kid} of {document['installation']}: {_summary(document['rotation'])}"


def _summary(rotation: Mapping[str, Any]) -> str:
    key = f"{rotation['service']}/{rotation['environment']}"
    sides = " to ".join(
        f"v{rotation[side]['version']}" if rotation[side] else "nothing" for side in ("outgoing", "incoming")
    )
    text = f"rotation {rotation['id']} of {key}, {sides}, {rotation['outcome']}"
    return f"{text} at {rotation['finished_at']}"
