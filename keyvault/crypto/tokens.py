"""Our own long-lived credentials: consumer tokens, user tokens and the keys we issue.

    ktc_<environment>_<43 base62><6 base62>     ktu_<43><6>     ktk_<environment>_<43><6>

The 43 characters are a uniformly random 256-bit number, padded with zeros. The last six are the
CRC32 of everything before them: it stops typing errors before a look-up and lets scanners
recognise a leak. It protects nothing; the 256 bits do.
"""

from __future__ import annotations

import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from keyvault.crypto.secret import Secret

BODY_LENGTH: Final = 43
CHECKSUM_LENGTH: Final = 6
_HINT_LENGTH: Final = 4
_BITS: Final = 256

# In ASCII order, so that comparing two padded texts compares the numbers.
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SLUG: Final = "[a-z0-9][a-z0-9-]{0,62}"
_SHAPE: Final = re.compile(
    rf"(?:(?P<kind>ktc|ktk)_(?P<environment>{_SLUG})_|(?P<user>ktu)_)"
    r"(?P<body>[0-9A-Za-z]{43})(?P<checksum>[0-9A-Za-z]{6})"
)
_ENVIRONMENT: Final = re.compile(_SLUG)
# Wider than the shape: a copy cut short or with a wrong letter is still a token of ours.
_LOOKS_LIKE: Final = re.compile(rf"(?<![0-9A-Za-z])(?:kt[ck]_{_SLUG}|ktu)_[0-9A-Za-z]{{20}}")


class TokenKind(StrEnum):
    """The prefix says what a token is for; it never says what it may do."""

    CONSUMER = "ktc"
    USER = "ktu"
    ISSUED = "ktk"


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """A well-formed token. ``environment`` is what the text claims; the stored row decides."""

    kind: TokenKind
    environment: str | None
    text: str = field(repr=False)


def _base62(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


_LARGEST_BODY: Final = _base62((1 << _BITS) - 1, BODY_LENGTH)


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), CHECKSUM_LENGTH)


def mint(kind: TokenKind, environment: str | None) -> Secret:
    """Make a new token from 256 bits of the operating system's randomness.

    Consumer tokens and issued keys name an environment, user tokens do not; ``ValueError``
    otherwise, or for an environment that is not a slug.
    """
    if (environment is None) != (kind is TokenKind.USER):
        raise ValueError("Consumer tokens and issued keys name an environment; user tokens do not.")
    if environment is None:
        prefix = f"{kind.value}_"
    elif _ENVIRONMENT.fullmatch(environment):
        prefix = f"{kind.value}_{environment}_"
    else:
        raise ValueError("The environment of a token is a lower-case slug.")
    unchecked = prefix + _base62(secrets.randbits(_BITS), BODY_LENGTH)
    return Secret(unchecked + _checksum(unchecked))


def parse(text: object) -> ParsedToken | None:
    """Tell what a presented token claims to be, or None. Looks at form and checksum; never raises."""
    if not isinstance(text, str):
        return None
    found = _SHAPE.fullmatch(text)
    if found is None or found["body"] > _LARGEST_BODY:
        return None
    if _checksum(text[:-CHECKSUM_LENGTH]) != found["checksum"]:
        return None
    return ParsedToken(TokenKind(found["kind"] or found["user"]), found["environment"], text)


def digest(pepper: bytes, text: str) -> bytes:
    """Return the 32 bytes under which a token is stored and looked up; never raises for odd text."""
    return hmac.digest(pepper, text.encode("utf-8", "surrogatepass"), "sha256")


def looks_like_ours(text: str) -> bool:
    """Tell whether one of our tokens, or a damaged copy of one, stands anywhere in the text."""
    return _LOOKS_LIKE.search(text) is not None


def hint(token: Secret) -> str:
    """Return what a list may show of a token: the prefix and four characters, ``ktc_prod_ab12…``.

    Raises ``ValueError`` for anything but a well-formed token of ours.
    """
    if parse(token.expose()) is None:
        raise ValueError("Only a token of ours has a hint.")
    return token.expose()[: _HINT_LENGTH - BODY_LENGTH - CHECKSUM_LENGTH] + "…"
