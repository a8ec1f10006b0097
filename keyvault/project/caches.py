"""The cache that all processes share, in JSON: Django's own would run what somebody else wrote there.

It holds counts of attempts and codes that were used, never a secret.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.filebased import FileBasedCache


class JSONSerializer:
    """For Redis. Whole numbers stay as they are, so that Redis can count with them."""

    def dumps(self, value: Any) -> bytes | int:
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class FileCache(FileBasedCache):
    """One file for each entry: when it expires, a line break, its value. Adding is for one process only."""

    # Of the class above; its stubs leave them out.
    _dir: str
    _createdir: Callable[[], None]
    _cull: Callable[[], None]
    _delete: Callable[[str], bool]
    _key_to_file: Callable[..., str]

    def add(
        self, key: Any, value: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        if self.has_key(key, version):
            return False
        self._createdir()
        self._cull()
        handle, written = tempfile.mkstemp(dir=self._dir)
        try:
            with open(handle, "wb") as file:
                self._write_content(file, timeout, value)
            os.link(written, self._key_to_file(key, version))
        except FileExistsError:
            return False  # somebody was faster
        finally:
            Path(written).unlink()
        return True

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        try:
            with open(self._key_to_file(key, version), "rb") as file:
                return default if self._is_expired(file) else json.loads(file.read())
        except FileNotFoundError:
            return default

    def touch(self, key: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        missing = object()
        value = self.get(key, missing, version)
        if value is missing:
            return False
        self.set(key, value, timeout, version)
        return True

    def _write_content(self, file: IO[bytes], timeout: float | None, value: Any) -> None:
        file.write(
            json.dumps(self.get_backend_timeout(timeout)).encode() + b"\n" + json.dumps(value).encode()
        )

    def _is_expired(self, file: IO[bytes]) -> bool:
        """Whether it is; then the file is gone. One that is no entry of ours counts as expired."""
        try:
            ends = json.loads(file.readline())
        except ValueError:
            ends = 0
        if ends is None or ends >= time.time():
            return False
        self._delete(file.name)
        return True
