"""The management API, as a script of a user's would call it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

from keyvault.crypto.secret import Secret
from keyvault.project.demo.trouble import DemoError
from keyvault.project.demo.wire import Answer, Wire

_LIMITED_SECONDS: Final = 180.0  # how long a call that comes too often is made again


class Api:
    """Calls with a user token. Thread-safe: each thread has a connection of its own."""

    def __init__(self, base_url: str, token: Secret) -> None:
        self.base_url = base_url
        self._token = token
        self._local = threading.local()

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The object at ``path``. Raises ``DemoError``."""
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None).json()

    def post(self, path: str, data: Mapping[str, object]) -> dict[str, Any]:
        """Create, or tell something to do something. Raises ``DemoError``."""
        return self._call("POST", path, data).json()

    def patch(self, path: str, data: Mapping[str, object]) -> dict[str, Any]:
        """Change some members. Raises ``DemoError``."""
        return self._call("PATCH", path, data).json()

    def everything(self, path: str, **query: str) -> list[dict[str, Any]]:
        """All items of a list, page by page. Raises ``DemoError``."""
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(path, **query, limit="100", **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page["next_cursor"]
        return items

    def _call(self, method: str, path: str, data: Mapping[str, object] | None) -> Answer:
        wire: Wire | None = getattr(self._local, "wire", None)
        if wire is None:
            wire = self._local.wire = Wire(self.base_url)
        headers = {"Authorization": f"Bearer {self._token.expose()}"}
        if data is not None:
            headers["Idempotency-Key"] = uuid4().hex
        answer = self._answer(wire, method, path, headers, data)
        deadline = time.monotonic() + _LIMITED_SECONDS
        while answer.status == 429 and time.monotonic() < deadline:
            time.sleep(min(60.0, float(answer.headers.get("retry-after", "1"))))
            answer = self._answer(wire, method, path, headers, data)
        if answer.status >= 400:
            raise DemoError(f"{method} {path} answered {answer.status}: {_explained(answer)}")
        return answer

    @staticmethod
    def _answer(
        wire: Wire, method: str, path: str, headers: Mapping[str, str], data: Mapping[str, object] | None
    ) -> Answer:
        try:
            if data is None:
                return wire.send(method, path, headers)
            return wire.send_json(method, path, data, headers)
        except OSError as error:
            raise DemoError(f"{method} {path}: Keyturn does not answer ({error})") from error


def _explained(answer: Answer) -> str:
    error = answer.json().get("error")
    if not isinstance(error, dict):
        return "no explanation"
    fields = "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.get("fields", {}).items())
    text = f"{error.get('code')}: {error.get('message')}"
    return f"{text} ({fields})" if fields else text
