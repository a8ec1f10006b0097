"""What happened, newest first, with the search in the address; one event; and events as a file."""

from __future__ import annotations

import itertools
from datetime import tzinfo
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, QueryDict, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from keyvault import clock
from keyvault.console import trail
from keyvault.console.access import actor_of, signed_in
from keyvault.console.export import MOST, WRITERS
from keyvault.console.zones import zone_of
from keyvault.services import auditing

_HIGHEST = 2**63 - 1


@signed_in
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    zone = zone_of(request)
    form = trail.TrailForm(request.GET, zone=zone)
    valid = form.is_valid()
    found = trail.find(actor_of(request), form.cleaned_data) if valid else trail.Found([], None)
    asked = _asked(form) if valid else {}
    narrowed = {name: value for name, value in asked.items() if name != "before"}
    context = {
        "form": form,
        "found": found,
        "events": found.events,
        "asked": asked,
        "narrowed": narrowed,
        "link": urlencode(narrowed),
        "names": trail.NAMES,
        "chain": trail.chain(),
        "most": MOST,
        **{name: _local(form, name, zone) for name in ("since", "until")},
    }
    return render(request, "keyvault/audit.html", context, status=200 if valid else 422)


def _local(form: trail.TrailForm, name: str, zone: tzinfo) -> str:
    """A time as its field shows it; what is no time as it was typed."""
    at = form.cleaned_data.get(name)
    if at is None:
        return str(form[name].value() or "")
    return f"{at.astimezone(zone):%Y-%m-%dT%H:%M}"


def _asked(form: trail.TrailForm) -> dict[str, str]:
    """What was asked, as it stands in an address that means the same in every time zone."""
    data = form.cleaned_data
    return {
        name: value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")
        for name, value in data.items()
        if value
    }


@signed_in
@require_safe
def event(request: HttpRequest, sequence: int) -> HttpResponse:
    """One event with all that was recorded. What belongs to others is 404."""
    row = trail.visible_event(actor_of(request), sequence) if sequence <= _HIGHEST else None
    if row is None:
        raise Http404
    context = {
        "event": row,
        "details": sorted(row.details.items()),
        "follows": trail.follows(row),
    }
    return render(request, "keyvault/audit_event.html", context)


@signed_in
@require_POST
def export(request: HttpRequest) -> HttpResponse:
    """What the list shows, without its pages. It is noted before the first line leaves."""
    form = trail.TrailForm(_plain(request.POST), zone=zone_of(request))
    kind = request.POST.get("form", "")
    if not form.is_valid() or kind not in WRITERS:
        message = "Open the audit again and choose CSV or JSON there. Nothing was exported."
        return render(request, "plain_error.html", {"message": message, "status": 422}, status=422)
    actor, now = actor_of(request), clock.now()
    filters = [name for name, value in form.cleaned_data.items() if value]
    auditing.note_export(actor, form=kind, filters=filters, now=now)
    media, write = WRITERS[kind]
    events = itertools.islice(trail.walk(actor, form.cleaned_data, most=MOST), MOST)
    name = f'attachment; filename="audit-{now:%Y-%m-%d-%H%M}.{kind}"'
    streamed: HttpResponseBase = StreamingHttpResponse(
        write(events), content_type=media, headers={"Content-Disposition": name, "Cache-Control": "no-store"}
    )
    return streamed  # type: ignore[return-value]


def _plain(posted: QueryDict) -> dict[str, str]:
    return {name: value for name, value in posted.items() if isinstance(value, str)}
