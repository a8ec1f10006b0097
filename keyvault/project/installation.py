"""What has to be there before the first request: keyring, tables, presets, static files, a way to sign in.

Every step may be repeated and may be interrupted anywhere. Static files need nothing of the others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import connection

from keyvault import clock
from keyvault.crypto.errors import KeyringError
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.secret import Secret
from keyvault.keystore import SYSTEM_ENVIRONMENT, keys, new_kek
from keyvault.models import KekCanary, User
from keyvault.project.files import ensure_private_dir
from keyvault.services import backups, catalogue, keks
from keyvault.setup import create_setup_token
from rotation.services.policies import install_all


def prepare() -> None:
    """Create or update keyring and database of the installation in ``KEYTURN_DATA``.

    Raises ``IntegrityError`` if the keyring is not the one that this database was written with,
    ``KeyringError`` if there is none, or one that lacks what its environments need.
    """
    ensure_private_dir(settings.KEYTURN_DATA)
    if not settings.KEYTURN_KEYRING_JSON and not Path(settings.KEYTURN_KEYRING).exists():
        _refuse_loss()
        environments = [slug for slug, _, _ in catalogue.ENVIRONMENTS]
        Keyring.create_file(Path(settings.KEYTURN_KEYRING), [*environments, SYSTEM_ENVIRONMENT], new_kek)
    call_command("migrate", verbosity=0, interactive=False)
    _refuse_stranger()
    now = clock.now()
    install_all(now=now)
    keks.check_canaries(now=now)


_RECOVER = "Recover the keyring from escrow (keyturn keyring recover FILE --identity FILE): docs/recovery.md."


def _refuse_loss() -> None:
    """A fresh keyring beside a database that is in use would open nothing of it."""
    if KekCanary._meta.db_table not in connection.introspection.table_names():
        return
    kids = sorted(KekCanary.objects.values_list("kid", flat=True))
    if kids:
        raise KeyringError(
            f"There is no keyring at {settings.KEYTURN_KEYRING}, and this database needs the KEKs "
            f"{', '.join(kids)}. {_RECOVER}"
        )


def _refuse_stranger() -> None:
    """An environment may be missing from the keyring of this host; one that is there has to be whole."""
    held = keys().keks.describe()
    missing = [
        f"{environment}/{kid}"
        for environment, kids in backups.kids_in_use().items()
        for kid in kids
        if environment in held and kid not in held[environment].kids
    ]
    if missing:
        raise KeyringError(
            f"The keyring lacks KEKs that this database needs: {', '.join(sorted(missing))}. It may belong "
            f"to another installation. {_RECOVER}"
        )


def setup_link() -> Secret | None:
    """The address where the first administrator is made; None as soon as somebody can sign in."""
    if User.objects.filter(is_active=True).exclude(password__startswith="!").exists():
        return None
    token = create_setup_token(clock.now())
    return Secret(f"{settings.KEYTURN_URL}/setup/{token.expose()}/")


def collect_static() -> bool:
    """Copy static files into the data directory if they changed since last time; tells whether."""
    mark = Path(settings.STATIC_ROOT) / ".collected"
    wanted = _static_digest()
    if mark.is_file() and mark.read_text(encoding="ascii") == wanted:
        return False
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    mark.write_text(wanted, encoding="ascii")
    return True


def _static_digest() -> str:
    digest = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for finder in get_finders():
        for name, storage in finder.list([]):
            status = Path(storage.path(name)).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
