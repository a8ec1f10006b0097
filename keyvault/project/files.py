"""Where Keyturn's own files live, and how they are made private. Used before settings exist."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent.parent


def default_data_dir() -> Path:
    """``var`` in a checkout; the user's data directory for an installed package."""
    if (BASE_DIR / "manage.py").is_file():
        return BASE_DIR / "var"
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "keyturn"


def ensure_private_dir(path: Path) -> Path:
    """The directory, made with mode 0700 where it is missing. One that exists keeps its mode."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def ensure_secret_key(path: Path) -> str:
    """The text of the file; a fresh 384-bit value (mode 0600) where there is none.

    Several processes may start at once: the file appears whole or not at all, and all read the same.
    """
    if not path.exists():
        temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(48))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Another process was first; its value counts.
            return path.read_text(encoding="ascii").strip()
        finally:
            temporary.unlink()
    return path.read_text(encoding="ascii").strip()
