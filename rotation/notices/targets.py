"""The address and the signing secrets of a channel: sealed in one envelope, opened only to send."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from keyvault.crypto.envelope import IntegrityError, Sealed
from keyvault.crypto.secret import Secret
from keyvault.keystore import open_system, seal_system
from rotation.notice_rows import Channel
from rotation.notices.signing import new_signing_secret

PURPOSE = "notice-channel"


@dataclass(frozen=True)
class Target:
    """Where a channel leads. A chat's address is a secret by itself; a webhook has one or two for signing."""

    url: Secret
    signing: tuple[Secret, ...] = ()  # the present one first


def seal_target(channel: Channel, target: Target) -> None:
    """Put the target into the row's columns (the row is not saved)."""
    document = {"url": target.url.expose(), "signing": [secret.expose() for secret in target.signing]}
    sealed = seal_system(Secret(json.dumps(document)), purpose=PURPOSE, row_id=str(channel.id))
    channel.ciphertext, channel.wrapped_dek, channel.kek_kid = (
        sealed.ciphertext,
        sealed.wrapped_dek,
        sealed.kid,
    )
    channel.place = urlsplit(target.url.expose()).netloc


def open_target(channel: Channel) -> Target:
    """The target of a channel that is not mail. Raises ``IntegrityError`` or ``KeyServiceUnavailable``."""
    if channel.ciphertext is None or channel.wrapped_dek is None:
        raise IntegrityError
    sealed = Sealed(bytes(channel.ciphertext), bytes(channel.wrapped_dek), channel.kek_kid)
    document = json.loads(open_system(sealed, purpose=PURPOSE, row_id=str(channel.id)).expose())
    return Target(Secret(document["url"]), tuple(Secret(text) for text in document["signing"]))


def signing_now(channel: Channel, target: Target, now: datetime) -> tuple[Secret, ...]:
    """The secrets that sign at this moment: the former one only while it is still good."""
    former_is_good = channel.previous_until is not None and now < channel.previous_until
    return target.signing if former_is_good else target.signing[:1]


def replace_signing(channel: Channel, *, grace: timedelta, now: datetime) -> Secret:
    """Give the channel a new signing secret; the present one signs too for ``grace`` (row not saved)."""
    target, fresh = open_target(channel), new_signing_secret()
    seal_target(channel, replace(target, signing=(fresh, *target.signing[:1])))
    channel.previous_until = now + grace
    return fresh
