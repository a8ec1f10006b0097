"""Finding things: the list of keys, and one search over everything that has a name."""

from __future__ import annotations

import re

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyvault import clock
from keyvault.console.access import actor_of, signed_in
from keyvault.models import Consumer, Environment, Key, KeyVersion, Provider, Service, Team
from rotation.console.filters import chosen, narrowed, paged
from rotation.console.standing import DUE_SOON, lines, with_standing
from rotation.models import Rotation

SHOWN = 10
SHOWS = (
    ("overdue", "Overdue"),
    ("due", "Due within 7 days"),
    ("rotating", "Rotating"),
    ("compromised", "Compromised"),
    ("empty", "Without a version"),
)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@signed_in
@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    """Every key in one list; those that are due come by their dates, the others by their names."""
    actor, now = actor_of(request), clock.now()
    wanted = chosen(request, "q", "team", "provider", "environment", "show")
    rows = with_standing(Key.objects.for_actor(actor))
    rows = rows.filter(narrowed(wanted["q"], service="service__slug", environment="environment__slug"))
    for name, path in (
        ("team", "service__team__slug"),
        ("provider", "service__provider__slug"),
        ("environment", "environment__slug"),
    ):
        if wanted[name]:
            rows = rows.filter(**{path: wanted[name]})
    open_one = Rotation.objects.open().filter(key=OuterRef("pk"))
    if wanted["show"] == "overdue":
        rows = rows.exclude(Exists(open_one)).filter(schedule__next_rotation_at__lte=now)
        rows = rows.order_by("schedule__next_rotation_at", "id")
    elif wanted["show"] == "due":
        rows = rows.exclude(Exists(open_one)).filter(
            schedule__next_rotation_at__gt=now, schedule__next_rotation_at__lte=now + DUE_SOON
        )
        rows = rows.order_by("schedule__next_rotation_at", "id")
    elif wanted["show"] == "rotating":
        rows = rows.filter(Exists(open_one))
    elif wanted["show"] == "compromised":
        known = KeyVersion.objects.filter(compromised_at__isnull=False).values("pk")
        rows = rows.filter(current__in=known)
    elif wanted["show"] == "empty":
        rows = rows.filter(current__isnull=True)
    shown, links = paged(request, rows, wanted)
    context = {
        "lines": lines(shown, now),
        "links": links,
        "chosen": wanted,
        "shows": SHOWS,
        "filtered": any(wanted.values()),
        "teams": Team.objects.for_actor(actor),
        "providers": Provider.objects.all(),
        "environments": Environment.objects.all(),
        "may_add": actor.is_admin or any(actor.may("manage", team) for team in actor.team_ids),
    }
    return render(request, "rotation/keys.html", context)


@signed_in
@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """Services, keys, consumers and rotations by text; the first few of each, and the way to all of them."""
    actor = actor_of(request)
    text = chosen(request, "q")["q"]
    if not text:
        return render(request, "rotation/search.html", {"q": "", "found": []})
    keys_found = Key.objects.for_actor(actor).select_related("service__team", "environment")
    rotations = Rotation.objects.for_actor(actor).select_related(
        "key__service", "key__environment", "outgoing", "incoming"
    )
    in_key = narrowed(text, service="key__service__slug", environment="key__environment__slug")
    name = text.partition("/")[0]
    context = {
        "q": text,
        "services": list(_services(Service.objects.for_actor(actor), name)[:SHOWN]),
        "keys": list(
            keys_found.filter(narrowed(text, service="service__slug", environment="environment__slug"))[
                :SHOWN
            ]
        ),
        "consumers": list(
            Consumer.objects.for_actor(actor)
            .select_related("team")
            .filter(slug__contains=name.lower())[:SHOWN]
        ),
        "rotations": list(
            rotations.filter(id=text)[:1] if _ID.fullmatch(text) else rotations.filter(in_key)[:SHOWN]
        ),
    }
    context["found"] = [kind for kind in ("services", "keys", "consumers", "rotations") if context[kind]]
    return render(request, "rotation/search.html", context)


def _services(rows: QuerySet[Service], text: str) -> QuerySet[Service]:
    return rows.select_related("team", "provider").filter(
        Q(slug__contains=text.lower()) | Q(description__icontains=text)
    )
