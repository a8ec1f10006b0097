"""A string that does not print itself."""

from __future__ import annotations

import hmac
import re
from typing import Final, Never, NoReturn, SupportsIndex, final

MASK: Final = "Secret(***)"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@final
class Secret:
    """Plaintext in memory.

    ``repr``, ``str`` and every kind of formatting give ``Secret(***)``. Pickling, copying,
    hashing and JSON raise ``TypeError``. ``expose()`` is the only way out, so that a search
    for that word lists every place where plaintext is handled.

    Raises ``TypeError`` for anything but ``str`` and ``ValueError`` for text that UTF-8
    cannot carry (lone surrogates).
    """

    __slots__ = ("__text",)

    __text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError("A Secret is made from str only.")
        # Searched for, not tried with encode(): a UnicodeEncodeError carries the whole text.
        if _LONE_SURROGATE.search(text):
            raise ValueError("A Secret must be text that UTF-8 can carry.")
        object.__setattr__(self, "_Secret__text", str(text))

    def expose(self) -> str:
        """Return the plaintext. Never put the result into a log, an error, a URL or a task."""
        return self.__text

    # The template engine calls methods by itself; this mark makes it refuse, so that a page
    # can only show plaintext that a view exposed on purpose.
    expose.alters_data = True  # type: ignore[attr-defined]

    def __eq__(self, other: object) -> bool:
        """Compare with another Secret in constant time; a ``str`` is never equal."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    # Hash tables compare early and would make the value a dictionary key that prints.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, format_spec: str) -> str:
        return MASK

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("A Secret cannot be changed.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("A Secret cannot be changed.")

    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        raise TypeError("A Secret cannot be pickled or copied.")

    def __reduce__(self) -> Never:
        raise TypeError("A Secret cannot be pickled or copied.")

    def __getstate__(self) -> Never:
        raise TypeError("A Secret cannot be pickled or copied.")

    def __copy__(self) -> Never:
        raise TypeError("A Secret cannot be pickled or copied.")

    def __deepcopy__(self, memo: dict[int, object]) -> Never:
        raise TypeError("A Secret cannot be pickled or copied.")
