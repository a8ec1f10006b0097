"""Pages about custody. Those that also show rotations are in ``rotation.console.urls``."""

from django.urls import path

from keyvault.console.views import (
    audit,
    connecting,
    consumers,
    joining,
    people,
    profile,
    reveal,
    services,
    setup,
    team,
)

urlpatterns = [
    path("setup/<str:token>/", setup.set_up, name="console-setup"),
    path("join/<str:token>/", joining.join, name="console-join"),
    path("profile/", profile.profile, name="console-profile"),
    path("profile/sessions/end/", profile.end_sessions, name="console-sessions-end"),
    path("profile/tokens/", profile.create_token, name="console-user-token-new"),
    path("profile/tokens/<uuid:token_id>/revoke/", profile.revoke_token, name="console-user-token-revoke"),
    path("people/", people.people, name="console-people"),
    path("people/<int:user_id>/", people.person, name="console-person"),
    path("people/<int:user_id>/role/", people.set_role, name="console-person-role"),
    path("people/<int:user_id>/password/", people.new_password, name="console-person-password"),
    path("people/<int:user_id>/second-factor/", people.remove_factors, name="console-person-factors"),
    path("people/<int:user_id>/shut-out/", people.set_active, {"verb": "shut-out"}, "console-person-out"),
    path("people/<int:user_id>/let-in/", people.set_active, {"verb": "let-in"}, "console-person-in"),
    path("teams/", team.teams, name="console-teams"),
    path("team/<slug:slug>/", team.team, name="console-team"),
    path("team/<slug:slug>/members/", team.add_member, name="console-member-add"),
    path("team/<slug:slug>/members/<uuid:member_id>/role/", team.set_role, name="console-member-role"),
    path(
        "team/<slug:slug>/members/<uuid:member_id>/remove/", team.remove_member, name="console-member-remove"
    ),
    path("team/<slug:slug>/links/<uuid:link_id>/withdraw/", team.withdraw_link, name="console-link-withdraw"),
    path("teams/new/", services.new_team, name="console-team-new"),
    path("services/new/", services.new_service, name="console-service-new"),
    path("keys/<slug:service>/<slug:environment>/connect/", connecting.connect, name="console-connect"),
    path("keys/<slug:service>/<slug:environment>/reveal/", reveal.reveal, name="console-reveal"),
    path(
        "keys/<slug:service>/<slug:environment>/never-shown/", reveal.never_shown, name="console-never-shown"
    ),
    path("consumers/", consumers.consumers, name="console-consumers"),
    path("consumers/new/", consumers.new_consumer, name="console-consumer-new"),
    path("consumers/<slug:slug>/", consumers.consumer, name="console-consumer"),
    path("consumers/<slug:slug>/tokens/", consumers.create_token, name="console-token-new"),
    path(
        "consumers/<slug:slug>/tokens/<uuid:token_id>/rotate/",
        consumers.rotate_token,
        name="console-token-rotate",
    ),
    path(
        "consumers/<slug:slug>/tokens/<uuid:token_id>/revoke/",
        consumers.revoke_token,
        name="console-token-revoke",
    ),
    path("consumers/<slug:slug>/grants/", consumers.add_grant, name="console-grant-new"),
    path(
        "consumers/<slug:slug>/grants/<uuid:grant_id>/remove/",
        consumers.remove_grant,
        name="console-grant-remove",
    ),
    path("audit/", audit.audit, name="console-audit"),
    path("audit/export/", audit.export, name="console-audit-export"),
    path("audit/<int:sequence>/", audit.event, name="console-audit-event"),
]
