"""Approvals: what waits for somebody's yes, the decision, breaking the glass, and its review."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, cast

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError
from keyvault.models import User
from rotation.approvals import approvals_of
from rotation.console import queue
from rotation.console.forms import BreakGlassForm, DecisionForm, ReviewForm
from rotation.console.policywords import in_words
from rotation.console.views.verbs import stale
from rotation.models import Approval, Rotation
from rotation.planned import planned_calls, rotation_digest
from rotation.policy import from_json
from rotation.services import approving, reviews
from rotation.services.saying import verbs_of

_DONE = {
    "approve": "Approved. It goes on as soon as enough people agree.",
    "decline": "Declined, with your reason in its timeline.",
}
RECENT = 20


def _user(request: HttpRequest) -> User:
    return cast(User, request.user)


@signed_in
@require_safe
def approvals(request: HttpRequest) -> HttpResponse:
    actor, user, now = actor_of(request), _user(request), clock.now()
    asks = queue.asks(actor, user)
    rows = Approval.objects.for_actor(actor).select_related(
        "user", "reviewer", "rotation__key__service", "rotation__key__environment"
    )
    pending = rows.to_review().order_by("review_due_at")[: queue.SHOWN]
    reviewed = rows.filter(reviewed_at__isnull=False).order_by("-reviewed_at")[:RECENT]
    context = {
        "mine": [ask for ask in asks if not ask.refusal],
        "others": [ask for ask in asks if ask.refusal],
        "reviews": [queue.to_review(row, actor, user, now) for row in pending],
        "reviewed": reviewed,
    }
    return render(request, "rotation/approvals.html", context)


def _find(request: HttpRequest, rotation_id: uuid.UUID) -> Rotation:
    rows = Rotation.objects.for_actor(actor_of(request)).select_related(*queue.RELATED)
    row = rows.filter(id=rotation_id).first()
    if row is None:
        raise Http404
    return row


@signed_in
@require_http_methods(["GET", "POST"])
def approval(request: HttpRequest, rotation_id: uuid.UUID) -> HttpResponse:
    """What is asked, under which plan; the decision asks for the password again."""
    row = _find(request, rotation_id)
    if "approve" not in verbs_of(row):
        return stale(request, row, "Nothing waits for an approval here now.")
    if request.method == "GET":
        return _page(request, row, DecisionForm(initial={"plan": rotation_digest(row)}))
    actor_of(request).demand("operate", row.key.service.team_id)
    return confirmed(_decide, resume=True)(request, row)


def _page(request: HttpRequest, row: Rotation, form: DecisionForm, *, status: int = 200) -> HttpResponse:
    now, policy = clock.now(), from_json(row.policy)
    ask = queue.ask_of(row, actor_of(request), _user(request))
    digest = rotation_digest(row)
    context = {
        "ask": ask,
        "rotation": row,
        "form": form,
        "digest": digest,
        "moved": ask.plan is not None and ask.plan["digest"] != digest,
        "calls": planned_calls(row.key, row.outgoing, policy),
        "lines": in_words(policy),
        "given": [one for one in approvals_of(row, now) if one.transition == ask.transition],
        "may_break": actor_of(request).may("manage", row.key.service.team_id),
    }
    return render(request, "rotation/approval.html", context, status=status)


def _decide(request: HttpRequest, row: Rotation) -> HttpResponse:
    form = DecisionForm(request.POST)
    if not form.is_valid():
        return _page(request, row, form, status=422)
    data = form.cleaned_data
    verb = approving.approve if data["decision"] == "approve" else approving.decline
    refused = _carry_out(request, row, verb, form)
    if refused is not None:
        return refused
    messages.success(request, _DONE[data["decision"]])
    return redirect("console-approvals")


def _carry_out(
    request: HttpRequest, row: Rotation, verb: Callable[..., Rotation], form: DecisionForm | BreakGlassForm
) -> HttpResponse | None:
    """Call the verb under the plan that the person saw; the answer where it is refused."""
    data = form.cleaned_data
    try:
        verb(actor_of(request), row.id, plan=data["plan"], reason=data["reason"], now=clock.now())
    except KeyturnError as error:
        if error.code in ("invalid_transition", "precondition_failed"):
            return stale(request, _find(request, row.id), error.message)
        show_refusal(form, error)
        if isinstance(form, BreakGlassForm):
            return _glass_page(request, row, form, status=422)
        return _page(request, row, form, status=422)
    return None


@signed_in
@require_http_methods(["GET", "POST"])
def break_glass(request: HttpRequest, rotation_id: uuid.UUID) -> HttpResponse:
    """One person decides alone; who may not learns so before being asked for a password."""
    row = _find(request, rotation_id)
    actor_of(request).demand("manage", row.key.service.team_id)
    if "approve" not in verbs_of(row):
        return stale(request, row, "Nothing waits for an approval here now.")
    return confirmed(_break, resume=True)(request, row)


def _break(request: HttpRequest, row: Rotation) -> HttpResponse:
    confirm = str(row.key)
    if request.method == "GET":
        form = BreakGlassForm(confirm=confirm, initial={"plan": rotation_digest(row)})
        return _glass_page(request, row, form)
    form = BreakGlassForm(request.POST, confirm=confirm)
    if not form.is_valid():
        return _glass_page(request, row, form, status=422)
    refused = _carry_out(request, row, approving.break_glass, form)
    if refused is not None:
        return refused
    messages.warning(request, "You decided this alone. Another person has to review it within 24 hours.")
    return redirect("console-rotation", rotation_id=row.id)


def _glass_page(
    request: HttpRequest, row: Rotation, form: BreakGlassForm, *, status: int = 200
) -> HttpResponse:
    ask = queue.ask_of(row, actor_of(request), _user(request))
    return render(
        request, "rotation/break_glass.html", {"rotation": row, "ask": ask, "form": form}, status=status
    )


@signed_in
@require_http_methods(["GET", "POST"])
def review(request: HttpRequest, approval_id: uuid.UUID) -> HttpResponse:
    """Another person writes down what they think of a break-glass."""
    actor = actor_of(request)
    rows = Approval.objects.for_actor(actor).select_related(
        "user", "reviewer", "rotation__key__service", "rotation__key__environment",
        "rotation__outgoing", "rotation__incoming", "rotation__requester",
    )  # fmt: skip
    row = rows.filter(id=approval_id, review_due_at__isnull=False).first()
    if row is None:
        raise Http404
    if request.method == "GET":
        return _review_page(request, row, ReviewForm())
    actor.demand("operate", row.rotation.key.service.team_id)
    return confirmed(_review, resume=True)(request, row)


def _review_page(request: HttpRequest, row: Approval, form: ReviewForm, *, status: int = 200) -> HttpResponse:
    context: dict[str, Any] = {
        "one": queue.to_review(row, actor_of(request), _user(request), clock.now()),
        "approval": row,
        "rotation": row.rotation,
        "form": form,
    }
    return render(request, "rotation/review.html", context, status=status)


def _review(request: HttpRequest, row: Approval) -> HttpResponse:
    form = ReviewForm(request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            reviews.review(
                actor_of(request), row, sound=data["verdict"] == "sound", note=data["note"], now=clock.now()
            )
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, "Reviewed. It stands in the timeline and in the audit.")
            return redirect("console-approvals")
    return _review_page(request, row, form, status=422)
