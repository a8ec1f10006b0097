"""The keyring: that it can be read, by us only, and that no key does two jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.keystore import SYSTEM_ENVIRONMENT, keys
from keyvault.project.files import BASE_DIR

_OTHERS = 0o077


def keys_can_be_read(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """The keyring opens, every KEK in it works, and what belongs to no environment has one."""
    problem = ""
    try:
        keks = keys().keks
        keks.health()
        if SYSTEM_ENVIRONMENT not in keks.describe():
            problem = f"it holds no KEK of the environment {SYSTEM_ENVIRONMENT}."
    except (KeyringError, KeyServiceUnavailable) as error:
        problem = str(error)
    if not problem:
        return []
    return [
        Error(
            f"The keyring cannot be used: {problem}",
            hint="Put the keyring of this installation back at KEYTURN_KEYRING, with mode 0600. A new"
            " installation gets one at its first start.",
            id="keyvault.E002",
        )
    ]


def every_key_is_its_own(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    held = list(_keys_in(_document()))
    twice = {key for key in held if held.count(key) > 1}
    found = []
    if twice:
        found.append(f"The keyring holds one key in {max(held.count(key) for key in twice)} places.")
    if settings.SECRET_KEY in held:
        found.append("SECRET_KEY is a key of the keyring.")
    return [
        Error(
            text,
            hint="Who gets the one would have the other. Make a fresh key for each place, then rewrap.",
            id="keyvault.E003",
        )
        for text in found
    ]


def _document() -> object:
    text = settings.KEYTURN_KEYRING_JSON
    with suppress(OSError, ValueError):
        return json.loads(text or Path(settings.KEYTURN_KEYRING).read_text())
    return None  # what is wrong with it is told by keys_can_be_read


def _keys_in(value: object, name: str = "") -> Iterator[str]:
    """Every text of a document that is long enough to be a key."""
    if isinstance(value, dict):
        if "provider" in value:
            return  # the KEK is there, and what stands here is its name and what it wrapped
        for inner_name, inner in value.items():
            yield from _keys_in(inner, inner_name)
    elif isinstance(value, str) and name not in ("primary", "kid") and len(value) >= 32:
        yield value


def keyring_is_private(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Where it lies, and who may read it."""
    if settings.KEYTURN_KEYRING_JSON:
        return [
            Warning(
                "The keyring comes from the environment, which child processes and crash reports show.",
                hint="Use a file (KEYTURN_KEYRING, mode 0600) or a key service in production.",
                id="keyvault.W004",
            )
        ]
    path = Path(settings.KEYTURN_KEYRING).resolve()
    found = []
    if path.exists() and path.stat().st_mode & _OTHERS:
        found.append(f"Others than its owner may use the keyring {path}.")
    found += [
        f"The keyring {path} lies in {what}."
        for what, folder in _open_places()
        if path.is_relative_to(folder)
    ]
    return [
        Error(
            text,
            hint="Move it to a folder of its own that is neither served nor under version control nor in the"
            " backup of the database, chmod 600 it, and name it in KEYTURN_KEYRING.",
            id="keyvault.E004",
        )
        for text in found
    ]


def _open_places() -> Iterator[tuple[str, Path]]:
    """Folders that are published, or copied about."""
    if (BASE_DIR / "manage.py").is_file():
        yield "the checkout", BASE_DIR
    for name in ("STATIC_ROOT", "MEDIA_ROOT"):
        if folder := getattr(settings, name):
            yield name, Path(folder).resolve()
    named: Any  # a folder, or a prefix and a folder
    for named in settings.STATICFILES_DIRS:
        yield "STATICFILES_DIRS", Path(named[1] if isinstance(named, tuple | list) else named).resolve()
