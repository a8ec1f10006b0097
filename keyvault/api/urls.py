"""Routes of custody below ``/v1/``. The paths that consumers use are answered by ``keyvault.delivery``."""

from __future__ import annotations

from django.urls import URLPattern, path

from keyvault.api import converters as _converters  # noqa: F401  (registers <name:…> and <username:…>)
from keyvault.api.views import audit, consumers, docs, environments, grants, services, teams, versions

urlpatterns: list[URLPattern] = [
    path("teams/", teams.TeamsView.as_view()),
    path("teams/<name:team>/", teams.TeamView.as_view()),
    path("teams/<name:team>/members/", teams.MembersView.as_view()),
    path("teams/<name:team>/members/<username:user>/", teams.MemberView.as_view()),
    path("environments/", environments.EnvironmentsView.as_view()),
    path("environments/<name:environment>/", environments.EnvironmentView.as_view()),
    path("services/", services.ServicesView.as_view()),
    path("services/<name:service>/", services.ServiceView.as_view()),
    path("consumers/", consumers.ConsumersView.as_view()),
    path("consumers/<name:consumer>/", consumers.ConsumerView.as_view()),
    path("consumers/<name:consumer>/tokens/", consumers.ConsumerTokensView.as_view()),
    path("consumers/<name:consumer>/tokens/<uuid:token>/", consumers.ConsumerTokenView.as_view()),
    path(
        "consumers/<name:consumer>/tokens/<uuid:token>/rotate/", consumers.ConsumerTokenRotateView.as_view()
    ),
    path("grants/", grants.GrantsView.as_view()),
    path("grants/<uuid:grant>/", grants.GrantView.as_view()),
    path("keys/<name:service>/<name:environment>/versions/", versions.VersionsView.as_view()),
    path("keys/<name:service>/<name:environment>/reveal/", versions.RevealView.as_view()),
    path("audit/", audit.AuditView.as_view()),
    path("schema/", docs.SchemaView.as_view(), name="api-schema"),
    path("docs/", docs.docs, name="api-docs"),
]
