"""Looking for audit events: what is asked stands in the address, and each question is answered by an index.

1. Who acted, what, on which key and when are columns with an index that also gives the order.
2. A time range becomes a range of sequence numbers; they grow with time, but for events that overlapped.
3. Words are looked for in the newest ``WINDOW`` events below the cursor only; the page offers to look further
   back. So no question reads the whole table, however rare what it asks for.
4. Somebody of several teams is answered team by team, each from its own end.
"""

from __future__ import annotations

import heapq
import hmac
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from django import forms
from django.db.models import Q, QuerySet

from keyvault import audit
from keyvault.actors import Actor
from keyvault.console.activity import events_for
from keyvault.keystore import keys
from keyvault.models import AuditEvent, AuditHead
from keyvault.models.base import validate_slug
from keyvault.services import sealing

PAGE = 50
WINDOW = 20_000
OVERLAP = 1_000  # events whose order by time may differ from their order in the chain
NAMES = sorted(audit.EVENTS)


class TimeField(forms.CharField):
    """A time with a zone, or as a clock on the reader's wall shows it."""

    def __init__(self, label: str) -> None:
        super().__init__(
            label=label,
            max_length=40,
            required=False,
            widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        )
        self.zone: tzinfo = UTC

    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            return (at if at.tzinfo is not None else at.replace(tzinfo=self.zone)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise forms.ValidationError("Use a time such as 2026-03-02T09:00.") from None


class TrailForm(forms.Form):
    """What is looked for. Every member stands in the address."""

    q = forms.CharField(label="Find", max_length=200, required=False)
    actor = forms.CharField(label="Who", max_length=150, required=False)
    event = forms.CharField(label="Event", max_length=64, required=False)
    service = forms.CharField(label="Service", max_length=63, required=False, validators=[validate_slug])
    environment = forms.CharField(
        label="Environment", max_length=63, required=False, validators=[validate_slug]
    )
    since = TimeField("From")
    until = TimeField("To")
    before = forms.RegexField(r"\A[0-9]{1,18}\Z", required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, zone: tzinfo, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("since", "until"):
            self.fields[name].zone = zone  # type: ignore[attr-defined]

    def clean_event(self) -> str:
        event: str = self.cleaned_data["event"]
        if event and not names_of(event):
            raise forms.ValidationError("There is no such event. A group is written like rotation:*")
        return event


def names_of(event: str) -> list[str]:
    """The names that ``rotation:weight``, or ``rotation:*`` for a group, means."""
    if event.endswith(":*"):
        return [name for name in NAMES if name.startswith(event[:-1])]
    return [event] if event in audit.EVENTS else []


@dataclass(frozen=True)
class Found:
    """One page, newest first. ``before``: the cursor of what is older (None: nothing is left).

    ``looked_to``: the lowest sequence that was looked at where words are looked for, else None.
    """

    events: list[AuditEvent]
    before: int | None
    looked_to: int | None = None


def find(actor: Actor, asked: Mapping[str, Any], *, most: int = PAGE) -> Found:
    """The newest ``most`` events that this person may see, and that fit what ``TrailForm`` has cleaned."""
    before = int(asked["before"]) if asked.get("before") else None
    chosen = _columns(asked) & _between(asked.get("since"), asked.get("until"))
    words = asked.get("q", "").split()[:8]
    low = None
    if words:
        top = before if before is not None else _head() + 1
        low = max(top - WINDOW, 1)
        chosen &= Q(sequence__gte=low)
        for word in words:
            chosen &= _word(word)
    if before is not None:
        chosen &= Q(sequence__lt=before)
    rows = _newest(actor, chosen, most + 1)
    if len(rows) > most:
        return Found(rows[:most], rows[most - 1].sequence, low)
    further = low if low is not None and low > 1 else None
    return Found(rows, further, low)


def _head() -> int:
    return AuditHead.objects.values_list("sequence", flat=True).first() or 0


def _columns(asked: Mapping[str, Any]) -> Q:
    chosen = Q()
    for name in ("actor", "service", "environment"):
        if asked.get(name):
            chosen &= Q(**{name: asked[name]})
    if asked.get("event"):
        names = names_of(asked["event"])
        chosen &= Q(name=names[0]) if len(names) == 1 else Q(name__in=names)
    else:
        chosen &= ~Q(name=sealing.EVENT)  # they come by the second, and are shown to those who ask for them
    return chosen


def _between(since: datetime | None, until: datetime | None) -> Q:
    """The range of sequences in which these times lie, and the times themselves."""
    chosen, events = Q(), AuditEvent.objects.order_by("at").values_list("sequence", flat=True)
    if since is not None:
        first = events.filter(at__gte=since).first()
        chosen &= Q(at__gte=since, sequence__gte=(first if first is not None else _head() + 1) - OVERLAP)
    if until is not None:
        last = events.filter(at__lt=until).last()
        chosen &= Q(at__lt=until, sequence__lte=(last or 0) + OVERLAP)
    return chosen


def _word(word: str) -> Q:
    """In the event's name, actor, key or reason; ``service/environment`` is a key."""
    if "/" in word and ":" not in word:
        service, _, environment = word.partition("/")
        return Q(service__icontains=service, environment__startswith=environment)
    return (
        Q(name__icontains=word)
        | Q(actor__icontains=word)
        | Q(service__icontains=word)
        | Q(environment=word)
        | Q(reason__icontains=word)
        | Q(subject=word)
    )


def _newest(actor: Actor, chosen: Q, most: int) -> list[AuditEvent]:
    if actor.sees_everything:
        return list(_ordered(AuditEvent.objects.all(), chosen)[:most])
    teams = [_ordered(AuditEvent.objects.filter(team_id=team), chosen)[:most] for team in actor.team_ids]
    merged = heapq.merge(*teams, key=lambda event: -event.sequence)
    return list(itertools.islice(merged, most))


def _ordered(events: QuerySet[AuditEvent], chosen: Q) -> QuerySet[AuditEvent]:
    return events.filter(chosen).order_by("-sequence")


def walk(actor: Actor, asked: Mapping[str, Any], *, most: int, step: int = 1_000) -> Iterator[AuditEvent]:
    """One event after the other, newest first, ``most`` at most; read in pages of ``step``."""
    left, before = most, asked.get("before") or None
    while left > 0:
        found = find(actor, {**asked, "before": before}, most=min(step, left))
        yield from found.events
        left -= len(found.events)
        before = str(found.before) if found.before is not None else None
        if before is None:
            return


# The chain ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Where the chain ends. ``whole``: the event that its head remembers is there, and is that one."""

    sequence: int
    at: datetime | None
    whole: bool


def chain() -> Chain:
    """A look at the end of the chain only."""
    head = AuditHead.objects.first()
    if head is None:
        return Chain(0, None, whole=not AuditEvent.objects.exists())
    last = AuditEvent.objects.filter(sequence=head.sequence).first()
    whole = last is not None and hmac.compare_digest(bytes(head.mac), bytes(last.mac))
    return Chain(head.sequence, last.at if last is not None else None, whole)


def follows(event: AuditEvent) -> bool:
    """Whether the event is what was recorded, right after the one before it."""
    if event.sequence == 1:
        previous = b""
    else:
        before = AuditEvent.objects.filter(sequence=event.sequence - 1).values_list("mac", flat=True).first()
        if before is None:
            return False
        previous = bytes(before)
    return hmac.compare_digest(audit.chain_mac(previous, event, keys().service.audit), bytes(event.mac))


def visible_event(actor: Actor, sequence: int) -> AuditEvent | None:
    """The event with this number, where this person may see it."""
    return events_for(actor).filter(sequence=sequence).first()
