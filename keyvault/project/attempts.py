"""How often somebody may try to sign in: counted so that nobody can shut somebody else out.

Wrong passwords and codes are counted for each person in the network that they come from, and all together
for each person. A browser in which this person has signed in before is known by a signed cookie: it has a
count of its own, which nobody elsewhere can use up.
"""

from __future__ import annotations

import ipaddress
import secrets
import unicodedata
from typing import Any, Final

from allauth.core.internal import ratelimit
from allauth.core.internal.ratelimit import RateLimitUsage
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac

from keyvault import clock
from keyvault.project.middleware import afterwards
from keyvault.services import sign_ins

# What stands in allauth's words: how many, in how long, of one subject.
PER_DEVICE: Final = "5/5m/key"
PER_NETWORK: Final = "5/5m/key"
PER_ADDRESS: Final = "10/m/ip"  # whomever it tries
# Of all networks together. A person who is attacked from everywhere waits on a new device, and on no other.
PER_PERSON: Final = "30/5m/key"

_SALT: Final = "keyturn.device"
_KNOWN_FOR: Final = 400 * 24 * 3600  # seconds; browsers keep no cookie longer
_MOST_PEOPLE: Final = 8  # who sign in with one browser
_BITS = {4: 24, 6: 64}


def normalised(login: str) -> str:
    """One spelling of a name, so that each of its spellings counts for the same person."""
    return unicodedata.normalize("NFKC", login).strip().casefold()


def consume(request: HttpRequest, login: str, what: str) -> RateLimitUsage | None:
    """Count one attempt; None where it is one too many. ``what``: the kind of secret that is tried."""
    used = _consume(request, login, what)
    if used is None:
        note_failure(request, login, what, limited=True)
    return used


def note_failure(request: HttpRequest, login: str, what: str, *, limited: bool = False) -> None:
    """Into the audit, once the answer is out: it must not take longer for a name that somebody has."""
    address, now = address_of(request), clock.now()
    afterwards(
        request,
        lambda: sign_ins.failed(login, what=what, address=address, limited=limited, now=now),
    )


def address_of(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR") or "")


def _consume(request: HttpRequest, login: str, what: str) -> RateLimitUsage | None:
    name = normalised(login)
    device = device_of(request, name)
    if device:
        limits = [(PER_DEVICE, f"{what}:device:{device}:{name}")]
    else:
        limits = [
            (f"{PER_ADDRESS},{PER_NETWORK}", f"{what}:network:{_network(request)}:{name}"),
            (PER_PERSON, f"{what}:person:{name}"),
        ]
    used = RateLimitUsage(usage=[])
    for rates, key in limits:
        found = ratelimit.consume(
            request, app="keyturn", action="attempt", config={"attempt": rates}, key=key, limit_get=True
        )
        if found is None:
            # An attempt that was not made uses up nothing, least of all what belongs to everybody.
            used.rollback()
            return None
        used.usage.extend(found.usage)
    return used


def _network(request: HttpRequest) -> str:
    try:
        address = ipaddress.ip_address(str(request.META.get("REMOTE_ADDR")).partition("%")[0])
    except ValueError:
        return "unknown"  # a socket file
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network(f"{address}/{_BITS[address.version]}", strict=False))


# Known browsers ------------------------------------------------------------------------------------


def device_of(request: HttpRequest, login: str) -> str:
    """The name of this browser, where this person has signed in with it before; else empty."""
    device, people = _read(request)
    return device if _mark(normalised(login)) in people else ""


def remember(request: HttpRequest, response: HttpResponse, login: str) -> None:
    """Know this browser from now on: the person has signed in with it, with everything that this takes."""
    device, people = _read(request)
    mark = _mark(normalised(login))
    kept = [mark, *(other for other in people if other != mark)][:_MOST_PEOPLE]
    response.set_cookie(
        settings.KEYTURN_DEVICE_COOKIE,
        signing.dumps([device or secrets.token_urlsafe(12), kept], salt=_SALT),
        max_age=_KNOWN_FOR,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _read(request: HttpRequest) -> tuple[str, list[str]]:
    try:
        held: Any = signing.loads(
            request.COOKIES.get(settings.KEYTURN_DEVICE_COOKIE, ""), salt=_SALT, max_age=_KNOWN_FOR
        )
    except signing.BadSignature:
        return "", []
    device, people = held
    return device, people


def _mark(name: str) -> str:
    """What stands for a person in the cookie: it names nobody to whoever reads it."""
    return salted_hmac(_SALT, name, algorithm="sha256").hexdigest()[:32]
