"""The controls of a simulator in another process, over its control plane."""

import json
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

from keyvault.crypto.secret import Secret
from rotation.simulators.truth import CreatedKey, KeyView

_SECONDS: Final = 10.0


class ControlError(Exception):
    """The control plane said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class SimulatorClient:
    """The controls of a Simulator, from another process. Raises ControlError; OSError without a server."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._address = urlsplit(base_url).netloc

    def keys(self) -> list[KeyView]:
        """Every key ever made, oldest first."""
        return [KeyView(**key) for key in self._call("GET", "keys")["keys"]]

    def create_key(self, label: str) -> CreatedKey:
        """What a person does on the account page."""
        made = self._call("POST", "dashboard/keys", {"name": label})
        return CreatedKey(Secret(made["key"]), made["id"])

    def copy_key(self, key_id: str) -> CreatedKey:
        """Copy an existing key again, where the account page shows it."""
        made = self._call("GET", f"dashboard/keys/{key_id}")
        return CreatedKey(Secret(made["key"]), made["id"])

    def revoke(self, key_id: str) -> None:
        """What a person does on the account page."""
        self._call("POST", f"dashboard/keys/{key_id}/revoke", {})

    def disable(self, key_id: str) -> None:
        """What a person does on the account page."""
        self._call("POST", f"dashboard/keys/{key_id}/disable", {})

    def enable(self, key_id: str) -> None:
        """What a person does on the account page."""
        self._call("POST", f"dashboard/keys/{key_id}/enable", {})

    def counters(self) -> dict[str, Any]:
        """See Truth.counters."""
        return self._call("GET", "counters")

    def faults(self) -> dict[str, Any]:
        """The faults as they are set."""
        return self._call("GET", "faults")

    def set_fault(self, **changes: object) -> None:
        """Change some faults, see Faults; `reject_key_id` refuses one more key from now on."""
        self._call("POST", "faults", changes)

    def clear_faults(self) -> None:
        """Be well again."""
        self._call("DELETE", "faults")

    def honours(self, secret: Secret) -> bool:
        """The ground truth: would a request with this key be let in right now?"""
        return bool(self._call("POST", "honours", {"key": secret.expose()})["honoured"])

    def admin_secret(self) -> Secret:
        """What the management API asks for."""
        return Secret(self._call("GET", "admin")["admin_secret"])

    def _call(self, method: str, what: str, data: object = None) -> dict[str, Any]:
        connection = HTTPConnection(self._address, timeout=_SECONDS)
        try:
            body = None if data is None else json.dumps(data).encode()
            connection.request(method, f"/_control/{what}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise ControlError(response.status, str(answer.get("error", "")))
        return answer
