"""Teams and who belongs to them."""

from __future__ import annotations

import uuid
from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib import messages
from django.db.models import Count, Exists, OuterRef
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, sentence_of, show_refusal, signed_in
from keyvault.console.peopleforms import ROLES, MemberForm, RoleForm
from keyvault.console.views.joining import show_link
from keyvault.exceptions import KeyturnError
from keyvault.models import Membership, SetupLink, Team, User
from keyvault.services import people, setup_links
from keyvault.services.second_factors import FACTORS

MOST = 500


@signed_in
@require_safe
def teams(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    rows = Team.objects.for_actor(actor).annotate(
        member_count=Count("memberships", distinct=True), service_count=Count("services", distinct=True)
    )[:MOST]
    listed = [{"row": row, "role": actor.roles.get(row.id)} for row in rows]
    return render(request, "keyvault/teams.html", {"teams": listed, "is_admin": actor.is_admin})


def _find(request: HttpRequest, slug: str) -> Team:
    team = Team.objects.for_actor(actor_of(request)).filter(slug=slug).first()
    if team is None:
        raise Http404
    return team


def _managed(request: HttpRequest, slug: str) -> Team:
    team = _find(request, slug)
    actor_of(request).demand("manage", team.id)
    return team


def _page(request: HttpRequest, team: Team, *, status: int = 200, **extra: Any) -> HttpResponse:
    factor = Authenticator.objects.filter(user=OuterRef("user"), type__in=FACTORS)
    members = team.memberships.select_related("user").annotate(has_factor=Exists(factor))
    may_manage = actor_of(request).may("manage", team.id)
    context = {
        "team": team,
        "members": members.order_by("user__username")[:MOST],
        "links": team.setup_links.filter(expires_at__gt=clock.now()) if may_manage else [],
        "may_manage": may_manage,
        "form": MemberForm(),
        "roles": ROLES,
    }
    return render(request, "keyvault/team.html", {**context, **extra}, status=status)


@signed_in
@require_safe
def team(request: HttpRequest, slug: str) -> HttpResponse:
    return _page(request, _find(request, slug))


@never_cache
@signed_in
@require_POST
@sensitive_variables("secret")
def add_member(request: HttpRequest, slug: str) -> HttpResponse:
    """Somebody who is there joins at once; for somebody new there is a link, shown once."""
    team, actor, now = _managed(request, slug), actor_of(request), clock.now()
    form = MemberForm(request.POST)
    if not form.is_valid():
        return _page(request, team, form=form, status=422)
    username, role = form.cleaned_data["user"], form.cleaned_data["role"]
    try:
        if "link" in request.POST:
            link, secret = setup_links.invite(actor, team, username=username, role=role, now=now)
            return show_link(request, link, secret)
        if not User.objects.filter(username=username).exists():
            form.add_error("user", "There is nobody of this name yet. Make a set-up link for them.")
            return _page(request, team, form=form, status=422)
        people.set_member(actor, team, username=username, role=role, now=now)
    except KeyturnError as error:
        show_refusal(form, error)
        return _page(request, team, form=form, status=422)
    messages.success(request, f"{username} is {role.value} of {team.name} now.")
    return redirect("console-team", slug=slug)


def _member(team: Team, member_id: uuid.UUID) -> Membership:
    member = team.memberships.select_related("user").filter(id=member_id).first()
    if member is None:
        raise Http404
    return member


@signed_in
@require_POST
def set_role(request: HttpRequest, slug: str, member_id: uuid.UUID) -> HttpResponse:
    team = _managed(request, slug)
    member, form = _member(team, member_id), RoleForm(request.POST)
    if not form.is_valid():
        return _page(request, team, status=422)
    username, role = member.user.get_username(), form.cleaned_data["role"]
    try:
        people.set_member(actor_of(request), team, username=username, role=role, now=clock.now())
    except KeyturnError as error:
        if not error.fields:
            raise
        messages.error(request, sentence_of(error))
    else:
        messages.success(request, f"{username} is {role.value} now.")
    return redirect("console-team", slug=slug)


@signed_in
@require_http_methods(["GET", "POST"])
def remove_member(request: HttpRequest, slug: str, member_id: uuid.UUID) -> HttpResponse:
    team = _managed(request, slug)
    member = _member(team, member_id)
    username = member.user.get_username()
    if request.method == "GET":
        return render(request, "keyvault/team_member_remove.html", {"team": team, "member": member})
    try:
        people.remove_member(actor_of(request), team, username=username, now=clock.now())
    except KeyturnError as error:
        if not error.fields:
            raise
        messages.error(request, sentence_of(error))
        return redirect("console-team", slug=slug)
    messages.success(request, f"{username} is no longer a member of {team.name}.")
    left = actor_of(request).user_id == member.user_id and not actor_of(request).sees_everything
    return redirect("console-teams") if left else redirect("console-team", slug=slug)


@signed_in
@require_POST
def withdraw_link(request: HttpRequest, slug: str, link_id: uuid.UUID) -> HttpResponse:
    team = _managed(request, slug)
    link = SetupLink.objects.filter(team=team, id=link_id).first()
    if link is None:
        raise Http404
    username = link.username
    setup_links.withdraw(actor_of(request), link, now=clock.now())
    messages.success(request, f"The link for {username} no longer works.")
    return redirect("console-team", slug=slug)
