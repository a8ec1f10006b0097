"""BackgroundCut: a key mints short-lived tokens for listed paths; files go up, are processed, come down."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Final
from uuid import uuid4

from keyvault.crypto.secret import Secret
from rotation.simulators.base import Denied, Simulator, scheme_value
from rotation.simulators.truth import Key
from rotation.simulators.wire import Answer, Request, Response, json_response

MINT: Final = "/v3/auth/access-token/"
UPLOAD: Final = "/v3/file-ops/upload/"
PROCESS: Final = "/v3/tools/ai/remove-bg/process/"
FILES: Final = "/v3/files/"


class BackgroundCut(Simulator):
    """A token dies with its key and files belong to one: where the document is silent, the harder case."""

    slug: ClassVar[str] = "backgroundcut"
    key_prefix: ClassVar[str] = "bgc_"

    def __init__(self, *, admin_secret: Secret | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(admin_secret=admin_secret, clock=clock)
        self._signing = secrets.token_bytes(32)
        self._files: dict[str, str] = {}  # path -> id of the key that made it
        self._lock = threading.Lock()

    def presented(self, request: Request) -> str | None:
        """Authorization: Token."""
        return scheme_value(request, "token")

    def authenticate(self, request: Request) -> Key | Denied | None:
        """A key as Token, or a minted token as AccessToken; each only under its own scheme."""
        token = scheme_value(request, "accesstoken")
        return super().authenticate(request) if token is None else self._by_token(request, token)

    def _by_token(self, request: Request, token: str) -> Key | Denied:
        claims = self._opened(token)
        if claims is None:
            return Denied("invalid", "Invalid access token.")
        key = self.truth.find_by_id(str(claims["key"]))
        if key is None or not self.truth.honoured(key):
            return Denied("invalid", "Invalid access token.", key)
        if self.truth.clock() >= float(str(claims["exp"])):
            return Denied("expired", "The access token has expired.", key)
        paths = claims["paths"]
        if request.path == MINT or not isinstance(paths, list) or not covers(paths, request.path):
            return Denied("path", "The access token does not cover this path.", key)
        return key

    def unauthorized(self, denied: Denied, request_id: str) -> Response:
        """401 also for a path outside a token's list."""
        messages = {"missing": "Authentication credentials were not provided.", "invalid": "Invalid API key."}
        return self.error(401, denied.code, denied.message or messages[denied.code], request_id)

    def error(self, status: int, code: str, message: str, request_id: str) -> Response:
        """The document shows no error body; one text without a code is the hardest to read."""
        return json_response(status, {"detail": message})

    def handle(self, request: Request, key: Key | None, request_id: str) -> Answer:
        """Mint, upload, process, fetch."""
        if key is None:
            return self.unauthorized(Denied("missing"), request_id)
        if request.method == "POST" and request.path == MINT:
            return self._mint(request, key, request_id)
        if request.method == "POST" and request.path == UPLOAD:
            return self._upload(request, key, request_id)
        if request.method == "POST" and request.path == PROCESS:
            return self._process(request, key, request_id)
        if request.method == "GET" and request.path.startswith(FILES):
            known = self._owns(request.path.removeprefix(FILES), key)
            return (
                Response(200, b"image", "image/png")
                if known
                else self.error(404, "", "Not found.", request_id)
            )
        return self.error(404, "", "Not found.", request_id)

    def _mint(self, request: Request, key: Key, request_id: str) -> Response:
        data = request.json() if request.body else {}
        if data is None:
            return self.error(400, "", "A JSON object is needed.", request_id)
        paths, expires_in = data.get("paths", ["*"]), data.get("expires_in", 60)
        if (
            not isinstance(paths, list)
            or not paths
            or not all(isinstance(path, str) and path for path in paths)
        ):
            return self.error(400, "", "paths must be a list of texts.", request_id)
        if isinstance(expires_in, bool) or not isinstance(expires_in, int) or not 1 <= expires_in <= 600:
            return self.error(400, "", "expires_in must be a whole number from 1 to 600.", request_id)
        claims = {"key": key.id, "paths": paths, "exp": self.truth.clock() + expires_in, "jti": uuid4().hex}
        return json_response(200, {"access_token": self._sealed(claims)})

    def _upload(self, request: Request, key: Key, request_id: str) -> Response:
        names = re.findall(rb'name="files"; filename="([^"\r\n]+)"', request.body)
        folder = re.search(rb'name="upload_path"\r\n\r\n([^\r\n]+)\r\n', request.body)
        if not names:
            return self.error(400, "", "No files.", request_id)
        prefix = folder[1].decode("utf-8", "replace") if folder else "uploads"
        paths = [f"{prefix}/{uuid4().hex[:8]}-{name.decode('utf-8', 'replace')}" for name in names]
        self._keep(paths, key)
        return json_response(200, {"file_paths": paths})

    def _process(self, request: Request, key: Key, request_id: str) -> Response:
        data = request.json() or {}
        source, variants = data.get("input_file_path"), data.get("output_variants")
        if not isinstance(source, str) or not isinstance(variants, list) or not variants:
            return self.error(400, "", "input_file_path and output_variants are needed.", request_id)
        if not self._owns(source, key):
            return self.error(404, "", "Not found.", request_id)
        paths = [variant.get("output_file_path") for variant in variants if isinstance(variant, dict)]
        outputs = [path for path in paths if isinstance(path, str) and path]
        if len(outputs) != len(variants):
            return self.error(400, "", "Every output variant needs an output_file_path.", request_id)
        self._keep(outputs, key)
        return json_response(200, {"output_file_paths": outputs})

    def _keep(self, paths: list[str], key: Key) -> None:
        with self._lock:
            self._files.update(dict.fromkeys(paths, key.id))

    def _owns(self, path: str, key: Key) -> bool:
        with self._lock:
            return self._files.get(path) == key.id

    def _sealed(self, claims: dict[str, object]) -> str:
        head = _encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = f"{head}.{_encoded(json.dumps(claims).encode())}"
        return f"{body}.{_encoded(self._mac(body))}"

    def _opened(self, token: str) -> dict[str, object] | None:
        body, _, mac = token.rpartition(".")
        if not hmac.compare_digest(
            _encoded(self._mac(body)).encode(), mac.encode("utf-8", "surrogateescape")
        ):
            return None
        try:
            claims = json.loads(base64.urlsafe_b64decode(body.partition(".")[2] + "=="))
        except (ValueError, binascii.Error):
            return None
        return claims if isinstance(claims, dict) else None

    def _mac(self, body: str) -> bytes:
        return hmac.digest(self._signing, body.encode("utf-8", "surrogateescape"), hashlib.sha256)


def covers(paths: list[object], path: str) -> bool:
    """Does one of the globs cover the path? Never one with empty, "." or ".." segments or escapes."""
    if "%" in path or any(segment in (".", "..") for segment in path.split("/")) or "//" in path:
        return False
    patterns = (re.escape(glob).replace(r"\*", ".*") for glob in paths if isinstance(glob, str))
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
