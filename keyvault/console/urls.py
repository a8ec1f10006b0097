"""Pages about custody. Those that also show rotations are in ``rotation.console.urls``."""

from django.urls import path

from keyvault.console.views import audit, consumers, reveal, services, setup

urlpatterns = [
    path("setup/<str:token>/", setup.set_up, name="console-setup"),
    path("teams/new/", services.new_team, name="console-team-new"),
    path("services/new/", services.new_service, name="console-service-new"),
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
]
