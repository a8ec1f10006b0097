"""A known text sealed under one KEK, opened at every start: proof that the kid still opens.

A keyring that was restored from the wrong place has the right names and the wrong keys. The
canary finds that before the first consumer does.
"""

from __future__ import annotations

from keyvault.crypto.envelope import Context, Sealed, open_sealed, seal_under
from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.keyring import KekProvider
from keyvault.crypto.secret import Secret


def _context(environment: str, kid: str, instance: str) -> Context:
    return Context(
        instance=instance, purpose="canary", service="", environment=environment, key=kid, version=""
    )


def make_canary(keks: KekProvider, environment: str, kid: str, instance: str) -> Sealed:
    """Seal the canary of one kid; ``instance`` is the installation's id.

    Raises ``KeyServiceUnavailable`` when the kid is not held.
    """
    context = _context(environment, kid, instance)
    return seal_under(_text(environment, kid), context, environment=environment, kid=kid, keks=keks)


def check_canary(keks: KekProvider, environment: str, kid: str, instance: str, sealed: Sealed) -> None:
    """Return if the kid opens its canary.

    Raises ``IntegrityError`` when it does not (another key under this kid, another
    installation) and ``KeyServiceUnavailable`` when the kid is not held.
    """
    if sealed.kid != kid:
        raise IntegrityError
    context = _context(environment, kid, instance)
    if open_sealed(sealed, context, environment=environment, keks=keks) != _text(environment, kid):
        raise IntegrityError


def _text(environment: str, kid: str) -> Secret:
    return Secret(f"canary of {environment}/{kid}")
