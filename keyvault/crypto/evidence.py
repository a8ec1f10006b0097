"""Evidence files: what is signed, and how a file is checked. No framework (see ``signed``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from keyvault.crypto import signed
from keyvault.crypto.keyring_document import ServiceKeys
from keyvault.crypto.signed import NotADocument

FORMAT: Final = "keyturn-evidence"
VERSION: Final = 1

_KIND: Final = "evidence"


def sign_evidence(service_keys: ServiceKeys, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its signature; see ``signed.sign``."""
    return signed.sign(service_keys, _KIND, document)


def verify_evidence(document: Mapping[str, Any], key_set: Mapping[str, Any]) -> str:
    """Return the kid of the key that signed this file.

    ``key_set`` is a JSON Web Key Set. Raises ``NotADocument``, ``UnknownSigner`` or ``NotGenuine``.
    """
    version = document.get("version")
    if document.get("format") != FORMAT or type(version) is not int or version != VERSION:
        raise NotADocument(f"This is no evidence file of version {VERSION}.")
    return signed.verify(document, _KIND, key_set)
