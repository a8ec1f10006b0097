"""The one-time set-up link that makes the first administrator.

Only a digest is kept, in a file of the data directory, so that neither a database dump nor a
listing of that directory lets anybody in. The link works once and for one day.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings

from keyvault.crypto.secret import Secret

LIFETIME = timedelta(hours=24)


def _file() -> Path:
    return Path(settings.KEYTURN_DATA) / "setup.json"


def _digest(text: str) -> str:
    return hashlib.sha256(b"keyturn/setup/1:" + text.encode()).hexdigest()


def create_setup_token(now: datetime) -> Secret:
    """A fresh token for ``/setup/<token>/``; an older one stops working."""
    token = secrets.token_urlsafe(32)
    document = {"digest": _digest(token), "expires_at": (now + LIFETIME).isoformat()}
    target = _file()
    # mkstemp makes the file with mode 0600; the rename shows it whole or not at all.
    handle, temporary = tempfile.mkstemp(prefix=".setup-", dir=target.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(document, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)
    return Secret(token)


def check_setup_token(text: str, now: datetime) -> bool:
    """Whether this token would be accepted now. Nothing changes."""
    try:
        document = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    fits = hmac.compare_digest(str(document["digest"]), _digest(text))
    return fits and now < datetime.fromisoformat(document["expires_at"])


def consume_setup_token(text: str, now: datetime) -> bool:
    """Use the token up. True for exactly one caller, False for everybody else.

    The caller makes the administrator after this said yes; a crash in between costs a new link, which
    the next start prints as long as there is no user.
    """
    if not check_setup_token(text, now):
        return False
    try:
        _file().unlink()
    except FileNotFoundError:
        return False
    return True
