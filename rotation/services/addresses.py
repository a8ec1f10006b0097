"""Addresses that people give us to call: judged by the rules of the one way out before they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings

from keyvault.exceptions import KeyturnError
from rotation import egress

NOT_VALID = "The request is not valid."
_NOT_FOUND = (
    "The name in this address was not found. Look at its spelling; if this server cannot ask for names at "
    "the moment, try again later."
)


@dataclass(frozen=True)
class Problem:
    """Why an address is not taken: a code of the HTTP contract, and a sentence that does not repeat it."""

    code: str
    sentence: str


def problem_of(url: str) -> Problem | None:
    """What is wrong with an address as it is written; the network is not asked."""
    try:
        egress.parse_url(url, allow_hosts=_allowed())
    except egress.EgressRefused as refused:
        return _problem(refused)
    return None


def look_up(url: str, field: str) -> None:
    """Ask where the name leads. Raises ``url_forbidden_host`` and ``url_not_found``, naming ``field``.

    It may take two seconds, so entrances call it, after the right to save was checked and before any
    transaction. What is wrong with the address as it is written is left to the service that stores it.
    """
    if not settings.KEYTURN_EGRESS_LOOKUP or problem_of(url) is not None:
        return
    try:
        egress.look_up(url, allow_hosts=_allowed())
    except egress.EgressRefused as refused:
        found = _problem(refused)
    except egress.EgressConnectError:
        found = Problem("url_not_found", _NOT_FOUND)
    else:
        return
    raise KeyturnError(found.code, found.sentence, fields={field: [found.sentence]})


def refuse(problems: Mapping[str, Sequence[str]], address: Problem | None) -> None:
    """Raise if there are problems: under the code of the address where that is all that is wrong."""
    if address is not None and len(problems) == 1:
        raise KeyturnError(address.code, address.sentence, fields=problems)
    if problems:
        raise KeyturnError("validation_error", NOT_VALID, fields=problems)


def _allowed() -> frozenset[str]:
    return frozenset(settings.KEYTURN_EGRESS_ALLOW)


def _problem(refused: egress.EgressRefused) -> Problem:
    return Problem(refused.code, f"{refused.message[:1].upper()}{refused.message[1:]}.")
