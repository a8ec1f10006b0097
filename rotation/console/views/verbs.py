"""The verbs of a rotation: a form that asks why, as a dialog or as a page, and what it leads to."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyvault import clock
from keyvault.actors import Actor
from keyvault.console.access import STALE, actor_of, is_fragment, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.exceptions import KeyturnError, denied
from rotation.console.choices import Choice, choices, find_choice, seen_mark
from rotation.console.forms import VerbForm
from rotation.console.views.rotations import find_rotation
from rotation.facts import Verb
from rotation.models import Rotation
from rotation.observe import observe
from rotation.policy import from_json
from rotation.services import approving, verbs

_SERVICES: dict[Verb, Callable[..., Rotation]] = {
    Verb.APPROVE: approving.approve,
    Verb.PAUSE: verbs.pause,
    Verb.RESUME: verbs.resume,
    Verb.ADVANCE: verbs.advance,
    Verb.EXTEND: verbs.extend,
    Verb.ABORT: verbs.abort,
    Verb.CONFIRM_REVOKED: verbs.confirm_revoked,
    Verb.FORCE_REVOKE: verbs.force_revoke,
}
_DONE = {
    Verb.APPROVE: "Approved. It goes on as soon as enough people agree.",
    Verb.PAUSE: "Paused. It waits for Resume; a rejected key still rolls back.",
    Verb.RESUME: "It goes on.",
    Verb.ADVANCE: "Moved on.",
    Verb.EXTEND: "It has more time now.",
    Verb.ABORT: "Aborted. See below what happens with the new key.",
    Verb.CONFIRM_REVOKED: "Noted. A probe is on its way to find the key dead.",
    Verb.FORCE_REVOKE: "The old key is being revoked.",
}
# A check of the engine may come between reading and locking; what the person saw is compared each time.
TRIES = 5


@signed_in
@require_http_methods(["GET", "POST"])
def verb_page(request: HttpRequest, rotation_id: uuid.UUID, verb: str) -> HttpResponse:
    """404 for a word that is no verb, 403 without the right, 409 where the state does not take it."""
    if verb == Verb.EMERGENCY:
        row = find_rotation(actor_of(request), rotation_id)
        return redirect("console-emergency", row.key.service.slug, row.key.environment.slug)
    if verb not in {known.value for known in _SERVICES}:
        raise Http404
    row, choice = _look(request, rotation_id, verb)
    if choice is None:
        return stale(request, row, f"{verb.replace('-', ' ').capitalize()} is not possible now.")
    if choice.fresh_password:
        return confirmed(_act)(request, row, choice)
    return _act(request, row, choice)


def _look(request: HttpRequest, rotation_id: uuid.UUID, verb: str) -> tuple[Rotation, Choice | None]:
    """The rotation as it is now, and the choice if this person has it now."""
    actor = actor_of(request)
    row = find_rotation(actor, rotation_id)
    actor.demand("operate", row.key.service.team_id)
    if verb == Verb.FORCE_REVOKE:
        actor.demand("manage", row.key.service.team_id)
    if verb == Verb.APPROVE and actor.name == row.requested_by:
        raise denied("Another person must approve this: you asked for it.")
    policy = from_json(row.policy)
    return row, find_choice(choices(row, policy, observe(row, clock.now()), actor), verb)


def stale(request: HttpRequest, row: Rotation, message: str) -> HttpResponse:
    """The page was older than the rotation: say where it is now, and change nothing."""
    return render(request, "409.html", {"message": message, "rotation": row}, status=409)


def _act(request: HttpRequest, row: Rotation, choice: Choice) -> HttpResponse:
    if request.method == "GET":
        return _form_page(request, row, choice, VerbForm(choice=choice, initial={"mark": seen_mark(row)}))
    form = VerbForm(request.POST, choice=choice)
    if not form.is_valid():
        if "mark" in form.errors:
            return stale(request, row, "This form was not made by the page.")
        return _form_page(request, row, choice, form, status=422)
    try:
        done = _carry_out(actor_of(request), row, choice, form.cleaned_data)
    except KeyturnError as error:
        if error.code in STALE and "offenders" not in error.extra:
            return stale(request, find_rotation(actor_of(request), row.id), error.message)
        if error.code in STALE:
            form.add_error("count", error.message)
        else:
            show_refusal(form, error)
        return _form_page(request, row, choice, form, status=422)
    messages.success(request, _DONE[choice.verb])
    return redirect("console-rotation", rotation_id=done.id)


def _form_page(
    request: HttpRequest, row: Rotation, choice: Choice, form: VerbForm, *, status: int = 200
) -> HttpResponse:
    template = "rotation/_verb.html" if is_fragment(request) else "rotation/verb.html"
    return render(request, template, {"rotation": row, "choice": choice, "form": form}, status=status)


def _carry_out(actor: Actor, row: Rotation, choice: Choice, data: dict[str, Any]) -> Rotation:
    """Call the service on exactly the state that the person saw.

    The timeline may grow at any moment by something that does not matter here, such as an operation that
    was settled; so the revision is read anew a few times, and what the person saw decides.
    """
    extra: dict[str, Any] = {"offender_count": data["count"]} if choice.count is not None else {}
    if choice.more:
        extra["by"] = data["by"]
    if data.get("transition"):
        extra["transition"] = data["transition"]
    for attempt in range(TRIES):
        fresh = find_rotation(actor, row.id)
        if seen_mark(fresh) != data["mark"]:
            raise KeyturnError("precondition_failed", "The rotation has moved on since you opened this form.")
        try:
            return _SERVICES[choice.verb](
                actor, row.id, reason=data["reason"], now=clock.now(), revision=fresh.revision, **extra
            )
        except KeyturnError as error:
            if error.code != "precondition_failed" or error.extra or attempt == TRIES - 1:
                raise
    raise KeyturnError("precondition_failed", "The rotation is changing too fast. Look at it again.")
