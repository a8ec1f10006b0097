"""What happened, newest first, with the search in the address."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyvault.console.access import actor_of, signed_in
from keyvault.console.activity import events_for, search

PAGE = 50


@signed_in
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("q", "").strip()[:200]
    before = request.GET.get("before", "")
    events = search(events_for(actor_of(request)), text)
    if before.isdecimal() and len(before) < 18:
        events = events.filter(sequence__lt=int(before))
    rows = list(events[: PAGE + 1])
    more = rows[PAGE - 1].sequence if len(rows) > PAGE else None
    return render(
        request, "keyvault/audit.html", {"events": rows[:PAGE], "q": text, "more": more, "before": before}
    )
