"""What has to be there before the first request: keyring, tables, presets, static files, a way to sign in.

Every step may be repeated and may be interrupted anywhere. Static files need nothing of the others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command

from keyvault import clock
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.secret import Secret
from keyvault.keystore import SYSTEM_ENVIRONMENT, new_kek
from keyvault.models import User
from keyvault.project.files import ensure_private_dir
from keyvault.services import catalogue, rewrap
from keyvault.setup import create_setup_token
from rotation.services.policies import install_all


def prepare() -> None:
    """Create or update keyring and database of the installation in ``KEYTURN_DATA``.

    Raises ``IntegrityError`` if the keyring is not the one that this database was written with.
    """
    ensure_private_dir(settings.KEYTURN_DATA)
    if not settings.KEYTURN_KEYRING_JSON and not Path(settings.KEYTURN_KEYRING).exists():
        environments = [slug for slug, _, _ in catalogue.ENVIRONMENTS]
        Keyring.create_file(Path(settings.KEYTURN_KEYRING), [*environments, SYSTEM_ENVIRONMENT], new_kek)
    call_command("migrate", verbosity=0, interactive=False)
    now = clock.now()
    install_all(now=now)
    rewrap.check_canaries(now=now)


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
