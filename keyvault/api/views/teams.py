"""Teams and their members."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    SlugField,
    StrictCharField,
    StrictChoiceField,
    StrictSerializer,
    TextField,
    TimeField,
)
from keyvault.domain import Role
from keyvault.models import Membership, Team
from keyvault.services import people

ROLES = [role.value for role in Role]


class TeamCreateSerializer(StrictSerializer):
    slug = SlugField()
    name = TextField(required=False, max_length=120, help_text="Default: the slug.")


class TeamSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    created_at = TimeField()


class MemberSetSerializer(StrictSerializer):
    user = StrictCharField(min_length=1, max_length=150, help_text="A username.")
    role = StrictChoiceField(choices=ROLES)


class MemberSerializer(serializers.Serializer[Any]):
    user = serializers.CharField(source="user.username")
    role = serializers.ChoiceField(choices=ROLES)
    created_at = TimeField()


class TeamsView(ManagementView):
    query = PageQuery

    @documented("List teams", answers={200: TeamSerializer}, query=PageQuery, page=True, tag="teams")
    def get(self, request: Request) -> Response:
        rows = Team.objects.for_actor(self.actor)
        return Response(
            paginate(
                rows,
                self.parameters,
                name="teams",
                order=("slug",),
                show=lambda page: list(TeamSerializer(page, many=True).data),
            )
        )

    @documented("Create a team", request=TeamCreateSerializer, answers={201: TeamSerializer}, tag="teams")
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(TeamCreateSerializer)
        team = people.create_team(self.actor, slug=given["slug"], name=given.get("name", ""), now=self.now)
        return Response(TeamSerializer(team).data, status=201)


class TeamView(ManagementView):
    @documented("Get a team", answers={200: TeamSerializer}, tag="teams")
    def get(self, request: Request, team: str) -> Response:
        return Response(TeamSerializer(visible(Team.objects.for_actor(self.actor), slug=team)).data)


class MembersView(ManagementView):
    query = PageQuery

    @documented(
        "List the members of a team", answers={200: MemberSerializer}, query=PageQuery, page=True, tag="teams"
    )
    def get(self, request: Request, team: str) -> Response:
        row = visible(Team.objects.for_actor(self.actor), slug=team)
        return Response(
            paginate(
                Membership.objects.filter(team=row).select_related("user"),
                self.parameters,
                name=f"members:{row.id}",
                order=("user__username",),
                show=lambda page: list(MemberSerializer(page, many=True).data),
            )
        )

    @documented(
        "Add a member, or change their role",
        request=MemberSetSerializer,
        answers={201: MemberSerializer},
        tag="teams",
    )
    @idempotent
    def post(self, request: Request, team: str) -> Response:
        row = visible(Team.objects.for_actor(self.actor), slug=team)
        self.actor.demand("manage", row.id)
        given = self.body(MemberSetSerializer)
        member = people.set_member(
            self.actor, row, username=given["user"], role=Role(given["role"]), now=self.now
        )
        return Response(MemberSerializer(member).data, status=201)


class MemberView(ManagementView):
    @documented("Remove a member", answers={204: None}, tag="teams")
    def delete(self, request: Request, team: str, user: str) -> Response:
        row = visible(Team.objects.for_actor(self.actor), slug=team)
        people.remove_member(self.actor, row, username=user, now=self.now)
        return Response(status=204)
