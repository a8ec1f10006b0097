"""Channels as people set them up: who may, what is sound, and what is shown of them only once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Team
from keyvault.services import sealed_rows
from rotation.notice_rows import CHANNEL_KINDS, LEVELS, Channel, Incident, Notice
from rotation.notices.delivering import drop_pending
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.signing import new_signing_secret
from rotation.notices.targets import PURPOSE, Target, open_target, replace_signing, seal_target
from rotation.notices.writing import tell
from rotation.services import addresses

MOST_ADDRESSES = 20
LONGEST_GRACE = timedelta(days=30)
LONGEST_AFTER = timedelta(days=30)
GRACE = timedelta(hours=24)
_CLOCK = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
# Kinds that are known by an address on the web; the other one is mail.
WEB = frozenset({"chat", "webhook"})
RESERVED = frozenset({"new", "my-mail"})  # pages of the console
FIELDS = frozenset({"level", "after", "addresses", "digest_at", "zone", "enabled"})


@dataclass(frozen=True)
class Created:
    """A new channel, and for a webhook the secret that signs: it is not shown again."""

    channel: Channel
    secret: Secret | None


def demand(actor: Actor, team_id: uuid.UUID | None) -> None:
    """A team's channels belong to its leads, the organisation's to administrators."""
    if team_id is None:
        actor.demand_admin()
    else:
        actor.demand("manage", team_id)


@transaction.atomic
def create_channel(
    actor: Actor,
    *,
    slug: str,
    team: Team | None,
    kind: str,
    url: Secret | None,
    fields: Mapping[str, Any],
    now: datetime,
) -> Created:
    """A channel of a team, or of the organisation (None). ``fields`` are those of ``FIELDS``.

    Raises ``validation_error`` naming each problem.
    """
    demand(actor, team.id if team is not None else None)
    if slug in RESERVED or Channel.objects.filter(slug=slug).exists():
        raise invalid("slug", "This name is taken.")
    channel = Channel(slug=slug, team=team, kind=kind, created_at=now)
    _apply(channel, fields)
    _check(channel, url, new=True)
    secret = new_signing_secret() if kind == "webhook" else None
    if url is not None:
        seal_target(channel, Target(url, (secret,) if secret is not None else ()))
    channel.full_clean(exclude=["addresses"])
    channel.save(force_insert=True)
    audit.record("channel:created", actor=actor, now=now, team_id=channel.team_id, channel=slug, kind=kind)
    _look_again(channel, now)
    return Created(channel, secret)


@transaction.atomic
def change_channel(
    actor: Actor, channel: Channel, *, url: Secret | None, fields: Mapping[str, Any], now: datetime
) -> Channel:
    """Change some fields; ``url`` None keeps the stored address. What waits is tried again at once."""
    demand(actor, channel.team_id)
    row = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    _apply(row, fields)
    _check(row, url, new=False)
    if url is not None:
        seal_target(row, Target(url, open_target(row).signing))
    row.wait_until = None
    row.full_clean(exclude=["addresses"])
    row.save()
    if not row.enabled:
        drop_pending(row, now)
    elif not row.digest_at:
        Notice.objects.filter(channel=row, state="pending", digest=True).update(digest=False, next_at=now)
    changed = sorted([*fields, *(["url"] if url is not None else [])])
    audit.record(
        "channel:changed", actor=actor, now=now, team_id=row.team_id, channel=row.slug, fields=changed
    )
    _look_again(row, now)
    return row


def _look_again(channel: Channel, now: datetime) -> None:
    """Open incidents may have to be told here too. After the audit event, whose lock goes before theirs."""
    if channel.level == LEVELS[0]:
        return
    waiting = Incident.objects.filter(closed_at__isnull=True).exclude(level="")
    if channel.team_id is not None:
        waiting = waiting.filter(rotation__key__service__team_id=channel.team_id)
    waiting.update(next_at=now)


@transaction.atomic
def remove_channel(actor: Actor, channel: Channel, *, now: datetime) -> None:
    """Take the channel away with all that it was told; what still waits is never sent."""
    demand(actor, channel.team_id)
    # In the order of everybody who writes notices: the chain, the channel, its notices.
    audit.record("channel:removed", actor=actor, now=now, team_id=channel.team_id, channel=channel.slug)
    Channel.objects.select_for_update().get(pk=channel.pk).delete()


@transaction.atomic
def rotate_secret(actor: Actor, channel: Channel, *, grace: timedelta, now: datetime) -> Created:
    """A new signing secret; until ``grace`` is over the present one signs as well."""
    demand(actor, channel.team_id)
    row = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if row.kind != "webhook":
        raise KeyturnError("invalid_transition", "Only a webhook has a secret that signs.")
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise invalid("grace", "Use a time up to P30D.")
    secret = replace_signing(row, grace=grace, now=now)
    row.save()
    audit.record("channel:secret:rotated", actor=actor, now=now, team_id=row.team_id, channel=row.slug)
    return Created(row, secret)


@transaction.atomic
def send_test(actor: Actor, channel: Channel, *, reason: str = "", now: datetime) -> list[Notice]:
    """Put a test in line, and forget a pause that failures brought. Returns what will be sent."""
    demand(actor, channel.team_id)
    row = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if not row.enabled:
        raise KeyturnError("invalid_transition", "The channel is switched off.")
    row.wait_until = None
    row.save(update_fields=["wait_until"])
    facts = Facts(at=now.isoformat(timespec="seconds"), who=actor.name)
    dedup = f"test:{uuid.uuid4()}"
    audit.record("channel:tested", actor=actor, now=now, team_id=row.team_id, reason=reason, channel=row.slug)
    tell([row], NoticeKind.TEST, facts, dedup=dedup, team_id=row.team_id, now=now)
    sent = list(Notice.objects.filter(channel=row, dedup=dedup))
    if not sent:
        raise KeyturnError("invalid_transition", "Nobody whom this channel reaches has a mail address.")
    return sent


def after_of(channel: Channel) -> timedelta:
    return timedelta(seconds=channel.after_seconds)


def join_sealed_rows() -> None:
    """The sealed addresses move with everything else when the system KEK is replaced."""
    sealed = Channel.objects.filter(ciphertext__isnull=False)
    sealed_rows.join(sealed_rows.SystemRows("channel", PURPOSE, sealed))


# Checking ------------------------------------------------------------------------------------------


def _apply(channel: Channel, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in FIELDS:
            raise ValueError(f"{name} cannot be set")
        if name == "after":
            channel.after_seconds = _after(value)
        else:
            setattr(channel, name, value)


def _after(value: timedelta) -> int:
    if not timedelta(0) <= value <= LONGEST_AFTER:
        raise invalid("after", "Use a time up to P30D.")
    return int(value.total_seconds())


def _check(channel: Channel, url: Secret | None, *, new: bool) -> None:
    """Raise with every problem of this (unsaved) channel: ``validation_error`` or the code of its address."""
    problems: dict[str, list[str]] = {}
    if channel.kind not in CHANNEL_KINDS:
        problems["kind"] = [f"Use one of: {', '.join(CHANNEL_KINDS)}."]
    if channel.level not in LEVELS:
        problems["level"] = [f"Use one of: {', '.join(LEVELS)}."]
    address = None
    if channel.kind in WEB:
        address = _url_problem(url, needed=new)
        if address is not None:
            problems["url"] = [address.sentence]
        if channel.addresses:
            problems["addresses"] = ["Only mail has addresses."]
    elif url is not None:
        problems["url"] = ["Mail has addresses instead."]
    problems |= _digest_problems(channel) | _address_problems(channel.addresses)
    addresses.refuse(problems, address)


def _url_problem(url: Secret | None, *, needed: bool) -> addresses.Problem | None:
    if url is None:
        return addresses.Problem("validation_error", "Say where to send to.") if needed else None
    return addresses.problem_of(url.expose())


def look_up(actor: Actor, team_id: uuid.UUID | None, url: Secret | None) -> None:
    """Ask where the name in a new address leads. Not in a transaction.

    Raises ``url_forbidden_host`` and ``url_not_found``.
    """
    demand(actor, team_id)
    if url is not None:
        addresses.look_up(url.expose(), "url")


def _digest_problems(channel: Channel) -> dict[str, list[str]]:
    if channel.zone not in available_timezones():
        return {"zone": ["Use a time zone such as Europe/Berlin."]}
    if channel.digest_at and channel.kind == "webhook":
        return {"digest_at": ["A webhook gets each event by itself."]}
    if channel.digest_at and not _CLOCK.fullmatch(channel.digest_at):
        return {"digest_at": ["Use a time of day such as 08:30."]}
    return {}


def _address_problems(addresses: Sequence[str]) -> dict[str, list[str]]:
    if len(addresses) > MOST_ADDRESSES:
        return {"addresses": [f"At most {MOST_ADDRESSES} addresses."]}
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            return {"addresses": ["Use mail addresses such as team@example.org."]}
        if len(str(address)) > 254:
            return {"addresses": ["A mail address has at most 254 characters."]}
    return {}
