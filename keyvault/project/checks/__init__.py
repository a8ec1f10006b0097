"""What ``manage.py check --deploy`` says of an installation, with ``--database default`` of its database too.

An error (``keyvault.E…``) is a promise of Keyturn that this installation does not keep; a warning
(``keyvault.W…``) is a weaker place that may be meant. docs/checks.md lists all of them.
"""

from __future__ import annotations

from typing import Final

from django.core.checks import Tags, register

from keyvault.project.checks import database, interface, keyring, network, process, web

STATIC: Final = (
    web.debug_is_off,
    web.browsers_are_protected,
    web.hosts_are_named,
    web.leads_have_a_second_factor,
    web.reports_hide_secrets,
    keyring.keys_can_be_read,
    keyring.every_key_is_its_own,
    keyring.keyring_is_private,
    network.connections_are_protected,
    network.development_providers,
    interface.json_only,
    interface.nobody_by_default,
    interface.every_route_says_who,
    process.nothing_is_pickled,
    process.versions,
    process.tasks_survive,
    process.no_core_files,
    process.checkpoints_leave,
)
IN_DATABASE: Final = (
    database.kek_canaries_open,
    database.commits_are_durable,
    database.audit_is_append_only,
)


def install() -> None:
    """Register the checks; Django keeps each of them once."""
    for check in STATIC:
        register(check, Tags.security, deploy=True)
    for check in IN_DATABASE:
        register(check, Tags.database, deploy=True)
