"""The errors of the crypto room. No message ever holds key material or plaintext."""

from __future__ import annotations


class IntegrityError(Exception):
    """Stored data does not open, or is not what its row says it is.

    There is one message for every cause on purpose: telling a wrong tag from a wrong
    context would hand an oracle to whoever can write to the database.
    """

    def __init__(self, message: str = "The stored data failed its integrity check.") -> None:
        super().__init__(message)


class KeyServiceUnavailable(Exception):
    """The KEK for this environment is not held by this process, or its provider is down."""


class KeyringError(Exception):
    """The keyring document cannot be used; the message says what to change."""
