"""KEKs in the transit engine of OpenBao or HashiCorp Vault."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import ssl
import time
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.remote import PATIENCE, Place, ProviderSettings, read_secret_file

_MOST_BYTES: Final = 64 * 1024


class Transit:
    """Encrypts and decrypts with ``associated_data``, as the bearer of a token or by AppRole."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._url = _checked_url(settings.transit_url)
        by_role = settings.transit_role_id and settings.transit_secret_id_file
        if not by_role and not settings.transit_token_file:
            raise KeyringError(
                "KEYTURN_TRANSIT_TOKEN_FILE, or KEYTURN_TRANSIT_ROLE_ID and "
                "KEYTURN_TRANSIT_SECRET_ID_FILE, must be set."
            )
        self._tls = _tls(settings.transit_ca_file)
        self._role_token = ""

    def wrap(self, key: str, plaintext: bytes, place: Place) -> str:
        answer = self._transit("encrypt", key, place, {"plaintext": _text(plaintext)})
        wrapped = answer.get("ciphertext")
        if not isinstance(wrapped, str):
            raise KeyServiceUnavailable("transit: no ciphertext in the answer.")
        return wrapped

    def unwrap(self, key: str, wrapped: str, place: Place) -> bytes:
        answer = self._transit("decrypt", key, place, {"ciphertext": wrapped})
        try:
            return base64.b64decode(answer.get("plaintext", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise KeyServiceUnavailable("transit: no plaintext in the answer.") from None

    def _transit(self, verb: str, key: str, place: Place, body: dict[str, str]) -> dict[str, Any]:
        path = f"{self._settings.transit_mount}/{verb}/{quote(key, safe='')}"
        body = {**body, "associated_data": _text(place.aad())}
        status, answer = self._ask(path, body, self._token())
        if status == 403 and self._role_token:
            # A token of a role ends; the next one is had at once.
            self._role_token = ""
            status, answer = self._ask(path, body, self._token())
        data = answer.get("data")
        if status != 200 or not isinstance(data, dict):
            raise KeyServiceUnavailable(f"transit: {verb} with {key}: {status}{_reasons(answer)}.")
        return data

    def _token(self) -> str:
        settings = self._settings
        if settings.transit_token_file:
            return read_secret_file(settings.transit_token_file, "KEYTURN_TRANSIT_TOKEN_FILE")
        if not self._role_token:
            secret_id = read_secret_file(settings.transit_secret_id_file, "KEYTURN_TRANSIT_SECRET_ID_FILE")
            body = {"role_id": settings.transit_role_id, "secret_id": secret_id}
            status, answer = self._ask(f"auth/{settings.transit_auth_mount}/login", body, "")
            auth = answer.get("auth")
            token = auth.get("client_token") if isinstance(auth, dict) else None
            if status != 200 or not isinstance(token, str):
                raise KeyServiceUnavailable(f"transit: login of the role: {status}{_reasons(answer)}.")
            self._role_token = token
        return self._role_token

    def _ask(self, path: str, body: dict[str, str], token: str) -> tuple[int, dict[str, Any]]:
        headers = {"x-vault-token": token} if token else {}
        if self._settings.transit_namespace:
            headers["x-vault-namespace"] = self._settings.transit_namespace
        try:
            # A client for each call: they are minutes apart, and no connection outlives a fork.
            with (
                httpx.Client(verify=self._tls, timeout=PATIENCE, trust_env=False) as client,
                client.stream("POST", f"{self._url}/v1/{path}", json=body, headers=headers) as response,
            ):
                return response.status_code, _document(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KeyServiceUnavailable(f"transit: {type(error).__name__}.") from None


def _document(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; a slow or large one is given up."""
    deadline = time.monotonic() + PATIENCE
    content = b""
    for part in response.iter_bytes():
        content += part
        if len(content) > _MOST_BYTES or time.monotonic() > deadline:
            raise KeyServiceUnavailable("transit: the answer is too slow or too large.")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _reasons(answer: dict[str, Any]) -> str:
    errors = answer.get("errors")
    return f" ({', '.join(map(str, errors))[:200].strip()})" if isinstance(errors, list) and errors else ""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname and not parts.username:
        return url.rstrip("/")
    if parts.scheme == "http" and _is_loopback(parts.hostname or "") and not parts.username:
        return url.rstrip("/")
    raise KeyringError("KEYTURN_TRANSIT_URL must be an https address; http is for this machine only.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise KeyringError(
            f"KEYTURN_TRANSIT_CA_FILE: {ca_file} cannot be used ({type(error).__name__})."
        ) from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
