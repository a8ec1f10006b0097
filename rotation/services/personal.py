"""What people hear of their own accounts, by mail to themselves: changes, new browsers, attempts.

The audit writes what happens; this listens, in the transaction of the event.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.conf import settings

from keyvault import audit
from keyvault.models import AuditEvent, User
from rotation.notice_rows import Channel
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.writing import iso, put

SLUG: Final = "people"
# Events whose subject is the person.
OWN: Final = (
    "user:password:set",
    "user:link:used",
    "user:email:set",
    "user:second-factor:added",
    "user:second-factor:removed",
    "user:second-factor:reset",
    "user:signed-in",
    "user:sign-in:limited",
)
# Its subject is the token.
TOKEN: Final = "user:token:created"


def join_audit() -> None:
    for name in (*OWN, TOKEN):
        audit.listen(name, tell_own)


def tell_own(event: AuditEvent) -> None:
    """Tell the person of this event, unless it is a sign-in in a browser that is known."""
    details = event.details
    if event.name == "user:signed-in" and details["known"]:
        return
    named = {"username": details["user"]} if event.name == TOKEN else {"pk": event.subject or None}
    facts = Facts(
        at=iso(event.at),
        code=event.name,
        who=event.actor,
        what=str(details.get("kind") or details.get("how") or details.get("what") or ""),
        token=str(details.get("hint") or ""),
        place=str(details.get("address") or ""),
    )
    dedup = f"account:{event.sequence}"
    if event.name == "user:sign-in:limited":
        dedup = f"limited:{event.subject}:{event.at:%Y-%m-%dT%H}"  # a flood is one mail in an hour
    user = User.objects.filter(**named).first()
    if user is not None:
        mail(user, NoticeKind.ACCOUNT, facts, dedup=dedup, sequence=event.sequence, now=event.at)


def mail(user: User, kind: NoticeKind, facts: Facts, *, dedup: str, sequence: int, now: datetime) -> bool:
    """One notice to this person. False: there is no mail server, no address, or the channel is off."""
    if not settings.EMAIL_HOST or not user.email or not user.is_active:
        return False
    # One at most: whoever writes a notice holds the lock of the audit chain.
    channel, _ = Channel.objects.get_or_create(
        personal=True, defaults={"slug": _free_slug(), "kind": "mail", "created_at": now}
    )
    if not channel.enabled:
        return False
    written = put(
        [channel], kind, facts, dedup=dedup, sequence=sequence, team_id=None, now=now, to=user.email
    )
    return bool(written)


def _free_slug() -> str:
    taken = set(Channel.objects.filter(slug__startswith=SLUG).values_list("slug", flat=True))
    names = [SLUG, *(f"{SLUG}-{number}" for number in range(1, len(taken) + 1))]
    return next(name for name in names if name not in taken)
