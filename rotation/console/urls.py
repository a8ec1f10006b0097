"""Pages that show rotations."""

from django.urls import path

from rotation.console.views import (
    channels,
    emergencies,
    emergency,
    keys,
    matrix,
    overview,
    policies,
    rotations,
    starting,
    supply,
    verbs,
)

urlpatterns = [
    path("", overview.overview, name="console-overview"),
    path("matrix/", matrix.matrix, name="console-matrix"),
    path("keys/new/", keys.new_key, name="console-key-new"),
    path("keys/<slug:service>/<slug:environment>/", keys.key_page, name="console-key"),
    path("keys/<slug:service>/<slug:environment>/policy/", keys.assign_policy, name="console-key-policy"),
    path("keys/<slug:service>/<slug:environment>/rotate/", starting.start, name="console-rotate"),
    path("keys/<slug:service>/<slug:environment>/emergency/", emergency.emergency, name="console-emergency"),
    path("emergency/", emergencies.emergencies, name="console-emergencies"),
    path("emergency/<uuid:run_id>/", emergencies.emergency_run, name="console-emergency-run"),
    path("emergency/<uuid:run_id>/<slug:verb>/", emergencies.run_verb, name="console-emergency-verb"),
    path("leaks/new/", emergencies.report_leak, name="console-leak"),
    path("rotations/", rotations.rotations, name="console-rotations"),
    path("rotations/<uuid:rotation_id>/", rotations.rotation, name="console-rotation"),
    path("rotations/<uuid:rotation_id>/supply/", supply.supply, name="console-supply"),
    path("rotations/<uuid:rotation_id>/evidence/", rotations.evidence, name="console-evidence"),
    path("rotations/<uuid:rotation_id>/<slug:verb>/", verbs.verb_page, name="console-verb"),
    path("channels/", channels.channels, name="console-channels"),
    path("channels/new/", channels.new_channel, name="console-channel-new"),
    path("channels/my-mail/", channels.my_mail, name="console-my-mail"),
    path("channels/<slug:slug>/", channels.channel, name="console-channel"),
    path("channels/<slug:slug>/test/", channels.send_test, name="console-channel-test"),
    path("channels/<slug:slug>/rotate-secret/", channels.rotate_secret, name="console-channel-secret"),
    path("channels/<slug:slug>/remove/", channels.remove, name="console-channel-remove"),
    path("policies/", policies.policies, name="console-policies"),
    path("policies/<slug:slug>/", policies.policy, name="console-policy"),
]
