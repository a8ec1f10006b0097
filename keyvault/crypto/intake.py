"""The gate for secrets that people paste or import. It refuses and says why; it never repairs.

A trimmed or unquoted secret would work today and puzzle somebody who compares fingerprints later,
and what looks like a copying mistake usually is one.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from typing import Final

from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import looks_like_ours

MAX_SECRET_BYTES: Final = 64 * 1024

_QUOTES: Final = frozenset("\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MASKED: Final = re.compile(r"\.{3,}|\*{3,}|\u2026|\u2022|\u25cf|[xX]{6,}")
_TEMPLATE: Final = re.compile(r"<.*>|\$\{?[A-Za-z_]\w*\}?|\{\{.*\}\}|%[A-Za-z_]\w*%|\[.*\]", re.DOTALL)
# Every repetition is bounded: the text may be 64 KiB of the worst kind.
_YOUR_KEY: Final = re.compile(
    r"(?:your|(?<![a-z])(?:my|insert|paste|replace|enter))[-_.]?"
    r"(?:[a-z]{1,20}[-_.])?(?:api[-_.]?)?(?:key|token|secret)(?:[-_.]?here)?(?![0-9])",
    re.IGNORECASE,
)
# fmt: off
_PLACEHOLDERS: Final = frozenset({
    "apikey", "apikeyhere", "keyhere", "secret", "secretkey", "token", "password", "changeme",
    "replaceme", "placeholder", "example", "todo", "tbd", "none", "null", "nil", "undefined", "na",
    "test", "dummy", "redacted", "hidden", "masked", "xxx", "accesstoken", "123456", "12345678",
    "1234567890",
})
# fmt: on

_MESSAGES: Final = {
    "not_text": "This is not plain ASCII text, so it cannot be sent as an API key. Copy it again.",
    "empty": "The secret is empty.",
    "too_large": "The secret is larger than 64 KiB.",
    "surrounding_space": "White space or a line break stands before or after the secret. Paste it without.",
    "inner_space": "There is white space inside the secret. Paste the key alone, without a header or scheme.",
    "quotes": "There are quotation marks in the secret. Paste the key without them.",
    "control_characters": "There are control or invisible characters in the secret. Copy it again.",
    "placeholder": "This is a placeholder or a shortened display of a key, not the key itself.",
    "own_token": "This is one of Keyturn's own tokens, not a provider's key. Revoke it if it was exposed.",
}


class SecretRefused(Exception):
    """The text is not taken as a secret. ``code`` is stable, ``message`` is for people; neither quotes it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def check_secret(text: object) -> Secret:
    """Return the text as a ``Secret``, unchanged, or raise ``SecretRefused``.

    Codes: not_text, empty, too_large, surrounding_space, control_characters, inner_space,
    quotes, placeholder, own_token; the first that applies, in this order.
    """
    code = _refusal(text)
    if code is None and isinstance(text, str):
        return Secret(text)
    # Gone before the raise: error reports print the variables of this frame.
    del text
    refused = code or "not_text"
    raise SecretRefused(refused, _MESSAGES[refused])


def _refusal(text: object) -> str | None:
    if not isinstance(text, str) or _SURROGATE.search(text):
        return "not_text"
    if not text.strip():
        return "empty"
    if len(text.encode()) > MAX_SECRET_BYTES:
        return "too_large"
    if text != text.strip():
        return "surrounding_space"
    return _bad_character(text) or _not_a_key(text)


def _bad_character(text: str) -> str | None:
    # Cc control, Cf invisible, Zl and Zp line breaks; a tab or line break counts as control here.
    categories = {unicodedata.category(character) for character in set(text)}
    if categories & {"Cc", "Cf", "Zl", "Zp"}:
        return "control_characters"
    if "Zs" in categories:
        return "inner_space"
    if _QUOTES & set(text):
        return "quotes"
    return None


def _not_a_key(text: str) -> str | None:
    bare = re.sub(r"[\W_]", "", text).lower()
    if (
        _MASKED.search(text)
        or _TEMPLATE.fullmatch(text)
        or _YOUR_KEY.search(text)
        or bare in _PLACEHOLDERS
        or len(set(text)) == 1
    ):
        return "placeholder"
    if looks_like_ours(text) or _is_access_token(text):
        return "own_token"
    if not text.isascii():
        return "not_text"
    return None


def _is_access_token(text: str) -> bool:
    """Tell whether the first segment is the header of an access token of ours."""
    head, dot, _ = text.partition(".")
    if not dot or not text.isascii():
        return False
    try:
        header = base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))
    except (binascii.Error, ValueError):
        return False
    return b"keyturn-at+jwt" in header
