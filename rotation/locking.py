"""A rotation and what belongs to it, locked in the order that everybody uses."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from django.db.models import QuerySet

from keyvault.models import KeyVersion
from keyvault.prepared import prepared
from keyvault.services import keys as key_services
from rotation.models import Rotation


@prepared
def _locked(rotation_id: uuid.UUID) -> QuerySet[Rotation]:
    return Rotation.objects.select_for_update(of=("self",)).order_by().filter(pk=rotation_id)


@prepared
def _locked_versions(ids: Collection[uuid.UUID]) -> QuerySet[KeyVersion]:
    return KeyVersion.objects.select_for_update(of=("self",)).order_by().filter(pk__in=ids)


def lock(rotation_id: uuid.UUID) -> Rotation:
    """The rotation, its versions and its key, all locked, in the order that everybody uses."""
    rotation = _locked.first(rotation_id)
    if rotation is None:
        raise Rotation.DoesNotExist
    rotation.key = key_services.lock_key(rotation.key_id)
    ids = [pk for pk in (rotation.incoming_id, rotation.outgoing_id) if pk is not None]
    versions = {version.id: version for version in _locked_versions(ids)}
    rotation.incoming = versions.get(rotation.incoming_id) if rotation.incoming_id else None
    rotation.outgoing = versions.get(rotation.outgoing_id) if rotation.outgoing_id else None
    for version in versions.values():
        version.key = rotation.key
    return rotation
