"""Who may report what was found in the open: scanners, known by their ECDSA P-256 public keys.

The scheme is that of GitHub's secret scanning partners: the whole body is signed with SHA-256, and two
headers carry the signature (base64 of DER) and the key's name. The keys are configured; none is fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

ScannerKeys = Mapping[str, ec.EllipticCurvePublicKey]

_LONGEST_SIGNATURE: Final = 128  # characters; a P-256 signature has at most 96


def parse_scanner_keys(text: str) -> ScannerKeys:
    """Public keys by name: ``{"<name>": "<PEM>"}``, or the document that GitHub publishes with its keys.

    Empty text is no key. Raises ``ValueError`` for anything but P-256 public keys in PEM.
    """
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
    except ValueError:
        raise ValueError("The scanners' keys are not JSON.") from None
    return {name: _key(name, pem) for name, pem in _named(document).items()}


def _named(document: Any) -> dict[str, str]:
    if isinstance(document, dict) and isinstance(listed := document.get("public_keys"), list):
        document = {
            entry["key_identifier"]: entry["key"]
            for entry in listed
            if isinstance(entry, dict) and {"key_identifier", "key"} <= entry.keys()
        }
    if not isinstance(document, dict) or not all(isinstance(pem, str) for pem in document.values()):
        raise ValueError("The scanners' keys are a JSON object: name -> public key in PEM.")
    return document


def _key(name: str, pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"The scanner's key {name} is no public key in PEM.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"The scanner's key {name} is not of the curve P-256.")
    return key


def is_signed(keys: ScannerKeys, name: str, signature: str, body: bytes) -> bool:
    """Whether this body, byte for byte, was signed by the named key."""
    key = keys.get(name)
    if key is None or len(signature) > _LONGEST_SIGNATURE:
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), body, ec.ECDSA(SHA256()))
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True
