"""Policies: what there is, what each one does, and which keys follow it."""

from __future__ import annotations

import json

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from keyvault.console.access import actor_of, signed_in
from keyvault.models import Key
from rotation.console.policydrawing import drawing
from rotation.models import RotationPolicy


@signed_in
@require_safe
def policies(request: HttpRequest) -> HttpResponse:
    mine = Q(schedules__key__in=Key.objects.for_actor(actor_of(request)))
    rows = RotationPolicy.objects.annotate(used=Count("schedules", filter=mine, distinct=True))
    context = {"policies": [{"row": row, "value": row.value, "drawing": drawing(row.value)} for row in rows]}
    return render(request, "rotation/policies.html", context)


@signed_in
@require_safe
def policy(request: HttpRequest, slug: str) -> HttpResponse:
    row = get_object_or_404(RotationPolicy, slug=slug)
    keys = Key.objects.for_actor(actor_of(request)).filter(schedule__policy=row)
    context = {
        "row": row,
        "value": row.value,
        "drawing": drawing(row.value),
        "document": json.dumps(row.document, indent=2),
        "keys": keys.select_related("service", "environment", "schedule")[:200],
    }
    return render(request, "rotation/policy.html", context)
