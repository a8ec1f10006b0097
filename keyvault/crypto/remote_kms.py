"""KEKs in AWS KMS. Region, credentials and endpoint come from where AWS's own tools take them."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.remote import PATIENCE, Place

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as error:
    raise KeyringError("KEKs in AWS KMS need boto3. Run: pip install 'keyturn[aws]'") from error


class Kms:
    """Encrypts and decrypts with an EncryptionContext, which CloudTrail shows: it holds no secret."""

    def __init__(self) -> None:
        self._client: Any = None
        self._pid = 0

    def wrap(self, key: str, plaintext: bytes, place: Place) -> str:
        answer = self._ask("encrypt", key, place, Plaintext=plaintext)
        return base64.b64encode(answer["CiphertextBlob"]).decode("ascii")

    def unwrap(self, key: str, wrapped: str, place: Place) -> bytes:
        try:
            blob = base64.b64decode(wrapped, validate=True)
        except (binascii.Error, ValueError):
            raise KeyServiceUnavailable("kms: the wrapped key is not base64.") from None
        # The KEK is named, so that no other one of the account is used because the blob says so.
        return bytes(self._ask("decrypt", key, place, CiphertextBlob=blob)["Plaintext"])

    def _ask(self, verb: str, key: str, place: Place, **parameters: bytes) -> Any:
        context = {"keyturn:environment": place.environment, "keyturn:kid": place.kid}
        try:
            call = getattr(self._connected(), verb)
            return call(KeyId=key, EncryptionContext=context, **parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "refused")
            raise KeyServiceUnavailable(f"kms: {verb} with {key}: {code}.") from None
        except (BotoCoreError, ValueError) as error:
            raise KeyServiceUnavailable(f"kms: {verb} with {key}: {type(error).__name__}.") from None

    def _connected(self) -> Any:
        if self._client is None or self._pid != os.getpid():
            patience = Config(
                connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"total_max_attempts": 1}
            )
            # A session of its own: the default one is shared by everybody in the process.
            self._client, self._pid = boto3.session.Session().client("kms", config=patience), os.getpid()
        return self._client
