"""The people of the organisation, for administrators."""

from __future__ import annotations

from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, sentence_of, show_refusal, signed_in
from keyvault.console.fresh import confirmed
from keyvault.console.peopleforms import LostFactorForm, OrganisationRoleForm
from keyvault.console.views.joining import show_link
from keyvault.exceptions import KeyturnError
from keyvault.models import User
from keyvault.services import people as services
from keyvault.services import second_factors, setup_links

MOST = 500


def _rows() -> Any:
    factor = Authenticator.objects.filter(user=OuterRef("pk"), type__in=second_factors.FACTORS)
    return User.objects.annotate(has_factor=Exists(factor))


@signed_in
@require_safe
def people(request: HttpRequest) -> HttpResponse:
    actor_of(request).demand_admin()
    text = request.GET.get("q", "").strip()[:150]
    rows = _rows().order_by("username")
    if text:
        rows = rows.filter(username__icontains=text)
    return render(request, "keyvault/people.html", {"people": rows[:MOST], "q": text})


def _find(request: HttpRequest, user_id: int) -> Any:
    actor_of(request).demand_admin()
    person = _rows().filter(pk=user_id).first()
    if person is None:
        raise Http404
    return person


def _page(request: HttpRequest, person: User, *, status: int = 200, **extra: Any) -> HttpResponse:
    context = {
        "person": person,
        "memberships": person.memberships.select_related("team").order_by("team__slug"),
        "form": OrganisationRoleForm(initial={"role": person.organisation_role}),
        "lost_form": LostFactorForm(),
        "oneself": actor_of(request).user_id == person.pk,
    }
    return render(request, "keyvault/person.html", {**context, **extra}, status=status)


@signed_in
@require_safe
def person(request: HttpRequest, user_id: int) -> HttpResponse:
    return _page(request, _find(request, user_id))


def _refuse(request: HttpRequest, person: User, error: KeyturnError) -> HttpResponse:
    if not error.fields:
        raise error
    messages.error(request, sentence_of(error))
    return redirect("console-person", user_id=person.pk)


@signed_in
@require_POST
def set_role(request: HttpRequest, user_id: int) -> HttpResponse:
    _find(request, user_id)
    return confirmed(_set_role, resume=True)(request, user_id)


def _set_role(request: HttpRequest, user_id: int) -> HttpResponse:
    person = _find(request, user_id)
    form = OrganisationRoleForm(request.POST)
    if not form.is_valid():
        return _page(request, person, form=form, status=422)
    try:
        role = form.cleaned_data["role"]
        services.set_organisation_role(actor_of(request), person, role, now=clock.now())
    except KeyturnError as error:
        return _refuse(request, person, error)
    messages.success(request, f"{person.get_username()}: {role.value or 'no role in the organisation'}.")
    return redirect("console-person", user_id=user_id)


@signed_in
@require_POST
def set_active(request: HttpRequest, user_id: int, verb: str) -> HttpResponse:
    person = _find(request, user_id)
    try:
        services.set_active(actor_of(request), person, active=verb == "let-in", now=clock.now())
    except KeyturnError as error:
        return _refuse(request, person, error)
    now_is = "let in again" if verb == "let-in" else "shut out; sessions and tokens no longer work"
    messages.success(request, f"{person.get_username()} is {now_is}.")
    return redirect("console-person", user_id=user_id)


@never_cache
@signed_in
@require_POST
def new_password(request: HttpRequest, user_id: int) -> HttpResponse:
    _find(request, user_id)
    return confirmed(_new_password, resume=True)(request, user_id)


@sensitive_variables("secret")
def _new_password(request: HttpRequest, user_id: int) -> HttpResponse:
    person = _find(request, user_id)
    try:
        link, secret = setup_links.new_password(actor_of(request), person, now=clock.now())
    except KeyturnError as error:
        return _refuse(request, person, error)
    return show_link(request, link, secret)


@signed_in
@require_POST
def remove_factors(request: HttpRequest, user_id: int) -> HttpResponse:
    _find(request, user_id)
    return confirmed(_remove_factors, resume=True)(request, user_id)


def _remove_factors(request: HttpRequest, user_id: int) -> HttpResponse:
    person = _find(request, user_id)
    form = LostFactorForm(request.POST)
    if form.is_valid():
        try:
            second_factors.remove_all(
                actor_of(request), person, reason=form.cleaned_data["reason"], now=clock.now()
            )
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, f"{person.get_username()} has no second factor any more.")
            return redirect("console-person", user_id=user_id)
    return _page(request, person, lost_form=form, status=422)
