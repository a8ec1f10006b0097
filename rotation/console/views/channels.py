"""Channels: where notices go. A webhook's secret is in exactly one answer: the one that made it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyvault import clock
from keyvault.console.access import actor_of, show_refusal, signed_in
from keyvault.console.forms import managed_teams
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError
from keyvault.models import User
from keyvault.services import people
from rotation.console.channelforms import ChannelForm, GraceForm, MailForm, NewChannelForm
from rotation.notice_rows import Channel, Notice
from rotation.services import channels as services

SHOWN = 50


@signed_in
@require_safe
def channels(request: HttpRequest) -> HttpResponse:
    return _list(request)


def _list(request: HttpRequest, *, form: MailForm | None = None) -> HttpResponse:
    actor, user = actor_of(request), cast(User, request.user)
    context = {
        "channels": Channel.objects.for_actor(actor).select_related("team"),
        "may_add": managed_teams(actor).exists(),
        "form": form or MailForm(initial={"email": user.email}),
    }
    return render(request, "rotation/channels.html", context, status=422 if form is not None else 200)


@signed_in
@require_POST
def my_mail(request: HttpRequest) -> HttpResponse:
    """The address at which this person gets mail."""
    form = MailForm(request.POST)
    if not form.is_valid():
        return _list(request, form=form)
    people.set_email(cast(User, request.user), form.cleaned_data["email"], now=clock.now())
    messages.success(request, "Your mail address is kept.")
    return redirect("console-channels")


@never_cache
@sensitive_post_parameters("url")
@signed_in
@require_http_methods(["GET", "POST"])
def new_channel(request: HttpRequest) -> HttpResponse:
    actor = actor_of(request)
    if not (actor.is_admin or managed_teams(actor).exists()):
        raise PermissionDenied("This needs the role lead in a team.")
    form = NewChannelForm(request.POST or None, actor=actor)
    if form.is_valid():
        data = form.cleaned_data
        try:
            url, fields = _read(form)
            team = data["team"]
            services.look_up(actor, team.id if team is not None else None, url)
            made = services.create_channel(
                actor,
                slug=data["slug"],
                team=team,
                kind=data["kind"],
                url=url,
                fields=fields,
                now=clock.now(),
            )
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            if made.secret is not None:
                return _show_secret(request, made.channel, made.secret)
            messages.success(request, "The channel is there. Send a test to see that it works.")
            return redirect("console-channel", slug=made.channel.slug)
    return render(request, "rotation/channel_new.html", {"form": form}, status=422 if form.is_bound else 200)


def _read(form: ChannelForm) -> tuple[Secret | None, dict[str, Any]]:
    data = form.cleaned_data
    fields = {name: data[name] for name in ("level", "addresses", "digest_at", "zone", "enabled")}
    fields["after"] = timedelta(seconds=data["after"])
    return (Secret(data["url"]) if data["url"] else None), fields


@sensitive_variables("secret")
def _show_secret(request: HttpRequest, channel: Channel, secret: Secret) -> HttpResponse:
    context = {"channel": channel, "secret": secret.expose()}
    response = render(request, "rotation/channel_secret.html", context, status=201)
    response["Cache-Control"] = "no-store"
    return response


def _find(request: HttpRequest, slug: str) -> Channel:
    rows = Channel.objects.for_actor(actor_of(request)).select_related("team")
    channel = rows.filter(slug=slug).first()
    if channel is None:
        raise Http404
    return channel


@sensitive_post_parameters("url")
@signed_in
@require_http_methods(["GET", "POST"])
def channel(request: HttpRequest, slug: str) -> HttpResponse:
    """What became of its notices; those who may, change it here."""
    row = _find(request, slug)
    if request.method == "GET":
        return _page(request, row, ChannelForm(initial=ChannelForm.values(row)))
    services.demand(actor_of(request), row.team_id)
    form = ChannelForm(request.POST)
    if form.is_valid():
        try:
            url, fields = _read(form)
            services.look_up(actor_of(request), row.team_id, url)
            services.change_channel(actor_of(request), row, url=url, fields=fields, now=clock.now())
        except KeyturnError as error:
            show_refusal(form, error)
        else:
            messages.success(request, "The channel is changed.")
            return redirect("console-channel", slug=slug)
    return _page(request, row, form, status=422)


def _page(request: HttpRequest, row: Channel, form: ChannelForm, *, status: int = 200) -> HttpResponse:
    actor = actor_of(request)
    notices = Notice.objects.filter(channel=row)
    context = {
        "channel": row,
        "form": form,
        "grace_form": GraceForm(),
        "notices": notices.order_by("-created_at", "-id")[:SHOWN],
        "waiting": notices.filter(state="pending").count(),
        "may_manage": actor.is_admin if row.team_id is None else actor.may("manage", row.team_id),
    }
    return render(request, "rotation/channel.html", context, status=status)


@signed_in
@require_POST
def send_test(request: HttpRequest, slug: str) -> HttpResponse:
    row = _find(request, slug)
    try:
        services.send_test(actor_of(request), row, now=clock.now())
    except KeyturnError as error:
        if error.code != "invalid_transition":
            raise
        messages.error(request, error.message)
    else:
        messages.success(request, "A test is on its way. Load this page again to see what became of it.")
    return redirect("console-channel", slug=slug)


@never_cache
@signed_in
@require_POST
def rotate_secret(request: HttpRequest, slug: str) -> HttpResponse:
    row, form = _find(request, slug), GraceForm(request.POST)
    if not form.is_valid():
        return _page(request, row, ChannelForm(initial=ChannelForm.values(row)), status=422)
    grace = timedelta(seconds=form.cleaned_data["grace"])
    made = services.rotate_secret(actor_of(request), row, grace=grace, now=clock.now())
    if made.secret is None:
        raise Http404
    return _show_secret(request, made.channel, made.secret)


@signed_in
@require_http_methods(["GET", "POST"])
def remove(request: HttpRequest, slug: str) -> HttpResponse:
    row = _find(request, slug)
    services.demand(actor_of(request), row.team_id)
    wrong = request.method == "POST" and request.POST.get("confirm", "").strip() != row.slug
    if request.method == "GET" or wrong:
        context = {"channel": row, "wrong": wrong}
        return render(request, "rotation/channel_remove.html", context, status=422 if wrong else 200)
    services.remove_channel(actor_of(request), row, now=clock.now())
    messages.success(request, f"{slug} is removed.")
    return redirect("console-channels")
