"""KEKs in a hardware security module, by PKCS#11: AES keys that encrypt inside of it with AES-GCM."""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.remote import PATIENCE, Place, ProviderSettings, read_secret_file

try:
    import pkcs11
    from pkcs11.exceptions import PKCS11Error
except ImportError as error:
    raise KeyringError("KEKs by PKCS#11 need python-pkcs11. Run: pip install 'keyturn[pkcs11]'") from error

_NONCE_SIZE: Final = 12
_TAG_BITS: Final = 128


class Pkcs11:
    """Wrapped text is base64 of nonce (12) | AES-GCM(KEK, environment key, place). Never CBC: its padding
    would tell about the plaintext."""

    def __init__(self, settings: ProviderSettings) -> None:
        if not (settings.pkcs11_module and settings.pkcs11_token and settings.pkcs11_pin_file):
            raise KeyringError(
                "KEYTURN_PKCS11_MODULE, KEYTURN_PKCS11_TOKEN and KEYTURN_PKCS11_PIN_FILE must be set."
            )
        self._settings = settings
        # Logging in and out concerns every session that this process has with the token.
        self._lock = threading.Lock()
        self._lib: Any = None
        self._pid = 0

    def wrap(self, key: str, plaintext: bytes, place: Place) -> str:
        nonce = os.urandom(_NONCE_SIZE)
        with self._key(key) as kek:
            sealed = kek.encrypt(
                plaintext, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_gcm(nonce, place)
            )
        return base64.b64encode(nonce + bytes(sealed)).decode("ascii")

    def unwrap(self, key: str, wrapped: str, place: Place) -> bytes:
        try:
            data = base64.b64decode(wrapped, validate=True)
        except (binascii.Error, ValueError):
            raise KeyServiceUnavailable("pkcs11: the wrapped key is not base64.") from None
        with self._key(key) as kek:
            opened = kek.decrypt(
                data[_NONCE_SIZE:],
                mechanism=pkcs11.Mechanism.AES_GCM,
                mechanism_param=_gcm(data[:_NONCE_SIZE], place),
            )
        return bytes(opened)

    @contextmanager
    def _key(self, label: str) -> Iterator[Any]:
        pin = read_secret_file(self._settings.pkcs11_pin_file, "KEYTURN_PKCS11_PIN_FILE")
        if not self._lock.acquire(timeout=PATIENCE):
            raise KeyServiceUnavailable("pkcs11: the module is busy.")
        try:
            token = self._loaded().get_token(token_label=self._settings.pkcs11_token)
            with token.open(user_pin=pin) as session:
                yield session.get_key(
                    object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=label
                )
        except (PKCS11Error, RuntimeError, ValueError) as error:
            raise KeyServiceUnavailable(f"pkcs11: {type(error).__name__} with {label}.") from None
        finally:
            self._lock.release()

    def _loaded(self) -> Any:
        if self._lib is None:
            self._lib = pkcs11.lib(self._settings.pkcs11_module)
        elif self._pid != os.getpid():
            # The library must be told about a fork.
            self._lib.reinitialize()
        self._pid = os.getpid()
        return self._lib


def _gcm(nonce: bytes, place: Place) -> Any:
    return pkcs11.GCMParams(nonce, place.aad(), _TAG_BITS)
