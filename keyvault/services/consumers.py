"""Consumers, their tokens and their grants."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from keyvault import audit
from keyvault.actors import Actor
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, hint, mint
from keyvault.domain import VERBS
from keyvault.exceptions import KeyturnError, invalid, not_found
from keyvault.integrity import sign
from keyvault.keystore import keys
from keyvault.models import Consumer, ConsumerToken, Environment, Grant, Service, Team

PROTECTED_TOKEN_LIFE = timedelta(days=90)
MOST_INSTANCES = 10_000


@transaction.atomic
def create_consumer(actor: Actor, *, slug: str, team: Team, now: datetime) -> Consumer:
    actor.demand("manage", team.id)
    if Consumer.objects.filter(slug=slug).exists():
        raise invalid("slug", "A consumer with this slug exists already.")
    consumer = Consumer(slug=slug, team=team, created_at=now)
    consumer.full_clean()
    consumer.save()
    audit.record(
        "consumer:created", actor=actor, now=now, team_id=team.id, subject=str(consumer.id), consumer=slug
    )
    return consumer


def _networks(cidrs: Sequence[str]) -> list[str]:
    try:
        return [str(ipaddress.ip_network(cidr)) for cidr in cidrs]
    except ValueError as error:
        raise invalid("cidrs", "Use networks such as 10.1.0.0/16 or 2001:db8::/32.") from error


def _new_token(
    consumer: Consumer,
    environment: Environment,
    *,
    expires_at: datetime | None,
    cidrs: Sequence[str],
    rate_per_minute: int,
    instance_limit: int | None,
    replaces: ConsumerToken | None,
    now: datetime,
) -> tuple[ConsumerToken, Secret]:
    secret = mint(TokenKind.CONSUMER, environment.slug)
    row = ConsumerToken(
        consumer=consumer,
        environment=environment,
        digest=digest(keys().service.pepper, secret.expose()),
        hint=hint(secret),
        cidrs=list(cidrs),
        rate_per_minute=rate_per_minute,
        instance_limit=instance_limit,
        created_at=now,
        expires_at=expires_at,
        replaces=replaces,
    )
    sign(row)
    row.save(force_insert=True)
    return row, secret


@transaction.atomic
def create_token(
    actor: Actor,
    consumer: Consumer,
    environment: Environment,
    *,
    expires_at: datetime | None,
    cidrs: Sequence[str] = (),
    rate_per_minute: int = 600,
    instance_limit: int | None = None,
    now: datetime,
) -> tuple[ConsumerToken, Secret]:
    """A token for this consumer in this environment, shown once.

    Without ``expires_at`` a token for a protected environment lives 90 days, any other one for ever. With
    ``instance_limit`` that many instances share it (``keyvault.services.seats``); None: as many as there are.
    """
    actor.demand("manage", consumer.team_id)
    if expires_at is None and environment.protected:
        expires_at = now + PROTECTED_TOKEN_LIFE
    if expires_at is not None and expires_at <= now:
        raise invalid("expires_at", "The expiry lies in the past.")
    if instance_limit is not None and not 1 <= instance_limit <= MOST_INSTANCES:
        raise invalid(
            "instance_limit", f"Use 1 to {MOST_INSTANCES} instances, or leave it out for any number."
        )
    row, secret = _new_token(
        consumer,
        environment,
        expires_at=expires_at,
        cidrs=_networks(cidrs),
        rate_per_minute=rate_per_minute,
        instance_limit=instance_limit,
        replaces=None,
        now=now,
    )
    audit.record(
        "consumer:token:created",
        actor=actor,
        now=now,
        team_id=consumer.team_id,
        subject=str(row.id),
        consumer=consumer.slug,
        hint=row.hint,
        expires_at=expires_at.isoformat() if expires_at else None,
    )
    return row, secret


def _lock_token(token_id: uuid.UUID) -> ConsumerToken:
    return (
        ConsumerToken.objects.select_for_update(of=("self",))
        .select_related("consumer__team", "environment")
        .get(pk=token_id)
    )


@transaction.atomic
def rotate_token(
    actor: Actor, token: ConsumerToken, *, grace: timedelta, now: datetime
) -> tuple[ConsumerToken, Secret]:
    """A successor of a token; the old one works for ``grace`` more, never past its own expiry.

    At most two tokens of one line work at a time: neither one that has been replaced, nor one whose
    predecessor still works, is replaced before the other has ended.
    """
    old = _lock_token(token.id)
    actor.demand("manage", old.consumer.team_id)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise KeyturnError(
            "invalid_transition", "A revoked or expired token has no successor. Create a new one."
        )
    _refuse_a_third(old, now)
    expires_at = None
    if old.expires_at is not None:
        expires_at = now + (old.expires_at - old.created_at)
    new, secret = _new_token(
        old.consumer,
        old.environment,
        expires_at=expires_at,
        cidrs=old.cidrs,
        rate_per_minute=old.rate_per_minute,
        instance_limit=old.instance_limit,
        replaces=old,
        now=now,
    )
    end = now + grace
    old.expires_at = end if old.expires_at is None else min(old.expires_at, end)
    sign(old)
    old.save()
    audit.record(
        "consumer:token:rotated",
        actor=actor,
        now=now,
        team_id=old.consumer.team_id,
        subject=str(new.id),
        consumer=old.consumer.slug,
        hint=new.hint,
        replaced_hint=old.hint,
        expires_at=expires_at.isoformat() if expires_at else None,
    )
    return new, secret


def _refuse_a_third(token: ConsumerToken, now: datetime) -> None:
    beside = ConsumerToken.objects.filter(
        Q(replaces=token) | Q(pk=token.replaces_id), revoked_at__isnull=True
    )
    other = beside.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now)).first()
    if other is not None:
        raise KeyturnError(
            "invalid_transition",
            f"The token {other.hint} works beside this one. Wait for the end of the grace, or revoke it.",
        )


@transaction.atomic
def revoke_token(actor: Actor, token: ConsumerToken, *, now: datetime) -> None:
    """The token is refused from the next request on. Revoking twice is harmless.

    A consumer may revoke the token it presents; people need the role lead.
    """
    row = _lock_token(token.id)
    if not (actor.kind == "consumer" and actor.name == row.consumer.slug):
        actor.demand("manage", row.consumer.team_id)
    if row.revoked_at is not None:
        return
    row.revoked_at = now
    sign(row)
    row.save()
    audit.record(
        "consumer:token:revoked",
        actor=actor,
        now=now,
        team_id=row.consumer.team_id,
        subject=str(row.id),
        consumer=row.consumer.slug,
        hint=row.hint,
    )


@transaction.atomic
def set_grant(
    actor: Actor,
    consumer: Consumer,
    service: Service,
    environment: Environment,
    *,
    verbs: Sequence[str],
    now: datetime,
) -> Grant:
    """Allow the consumer these verbs on one key; replaces what it was allowed there before.

    The service's team decides: its lead grants, whoever owns the consumer.
    """
    actor.demand("manage", service.team_id)
    if not verbs or set(verbs) - set(VERBS):
        raise invalid("verbs", f"Use some of: {', '.join(VERBS)}.")
    grant = (
        Grant.objects.select_for_update(of=("self",))
        .filter(consumer=consumer, service=service, environment=environment)
        .first()
    )
    event = "grant:changed" if grant else "grant:created"
    grant = grant or Grant(consumer=consumer, service=service, environment=environment, created_at=now)
    grant.verbs = [verb for verb in VERBS if verb in verbs]
    sign(grant)
    grant.save()
    _record_grant(event, actor, grant, now, verbs=grant.verbs)
    return grant


@transaction.atomic
def remove_grant(actor: Actor, grant: Grant, *, now: datetime) -> None:
    actor.demand("manage", grant.service.team_id)
    row = Grant.objects.select_for_update(of=("self",)).filter(pk=grant.pk).first()
    if row is None:
        raise not_found()
    _record_grant("grant:removed", actor, row, now)
    row.delete()


def _record_grant(event: str, actor: Actor, grant: Grant, now: datetime, **details: Any) -> None:
    audit.record(
        event,
        actor=actor,
        now=now,
        team_id=grant.service.team_id,
        subject=f"{grant.service.slug}/{grant.environment.slug}",
        consumer=grant.consumer.slug,
        **details,
    )
