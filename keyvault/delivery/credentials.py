"""The one credential of a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError

Kind = Literal["token", "access_token", "unknown"]

_SCHEMES: dict[str, Kind] = {"bearer": "token", "token": "token", "accesstoken": "access_token"}
_PLACEHOLDER = re.compile(r"(?i)your|example|placeholder|changeme|api[_ -]?key|xxx|<.*>|\$\{.*\}")


@dataclass(slots=True, eq=False)
class Credential:
    """What the caller presented: a token, an access token, or something that is neither."""

    kind: Kind
    secret: Secret


def invalid_api_key(presented: str = "") -> KeyturnError:
    """One answer for unknown, revoked and expired; a hint only for what cannot be a token at all."""
    hint = _hint(presented)
    return KeyturnError("invalid_api_key", f"Invalid or revoked API key.{hint}")


def _hint(presented: str) -> str:
    if any(character in presented for character in "\"'`"):
        return " It has quotes around it: remove them."
    if any(character.isspace() for character in presented):
        return " It has spaces or line breaks in it: remove them."
    if presented and _PLACEHOLDER.search(presented) and not presented.startswith("kt"):
        return " It looks like a placeholder: put your token there."
    return ""


def find_credential(api_key: Sequence[bytes], authorization: Sequence[bytes]) -> Credential | None:
    """The credential in the values of these two headers; None where there is none or only a blank one.

    Raises ``ambiguous_credentials`` for two, or for one header that stands twice.
    """
    if len(api_key) > 1 or len(authorization) > 1:
        raise KeyturnError("ambiguous_credentials", "Send exactly one credential, once.")
    first = _from_api_key(api_key[0].decode("latin-1")) if api_key else None
    second = _from_authorization(authorization[0].decode("latin-1")) if authorization else None
    if first is not None and second is not None:
        raise KeyturnError("ambiguous_credentials", "Send exactly one credential, once.")
    return first or second


def _from_api_key(value: str) -> Credential | None:
    return Credential("token", Secret(value)) if value.strip() else None


def _from_authorization(value: str) -> Credential | None:
    scheme, _, presented = value.partition(" ")
    kind = _SCHEMES.get(scheme.lower())
    if kind is not None:
        return Credential(kind, Secret(presented)) if presented.strip() else None
    if not value.strip():
        return None
    # Another scheme, or none: it counts as a credential, and cannot be a valid one.
    return Credential("unknown", Secret(value))
