"""Canary secrets go through a real installation on every path there is; afterwards they are hunted.

Everything Keyturn wrote is searched: the database with its journal, the queue, the logs of all processes,
the cache - and every answer that must not hold a secret. Each canary is looked for as it is and in the
forms it may have taken on the way.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyvault.crypto.secret import Secret
from rotation.simulators import RunningSimulator, SimulatorClient, management_config, start
from tests.integration import processes

pytestmark = [pytest.mark.serial, pytest.mark.once]


def disguises(canary: str) -> set[bytes]:
    """The forms in which a secret may lie around."""
    raw = canary.encode()
    forms = {
        raw,
        raw[::-1],
        raw.hex().encode(),
        urllib.parse.quote(canary, safe="").encode(),
        canary.encode("utf-16-le"),
        canary.upper().encode(),
    }
    for shift in range(3):  # base64 depends on where in a longer text the secret stood
        encoded = base64.b64encode(b"x" * shift + raw)
        forms.add(encoded[4 if shift else 0 : -4])
        forms.add(encoded[4 if shift else 0 : -4].replace(b"+", b"-").replace(b"/", b"_"))
    return forms


@dataclass
class Installation:
    """A running Keyturn, a provider, and what was put into them."""

    url: str
    data: Path
    log: Path
    user_token: str
    simulator: RunningSimulator
    canaries: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, bytes]] = field(default_factory=list)

    def plant(self, name: str, text: str) -> str:
        self.canaries[name] = text
        return text

    def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", secret_answer: bool = False
    ) -> Any:
        """One request; its answer is kept for the hunt unless it is meant to hold a secret."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("X-API-Key", token or self.user_token)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=processes.DEADLINE) as response:
                text, headers = response.read(), str(response.headers)
        except urllib.error.HTTPError as error:
            text, headers = error.read(), str(error.headers)
        if not secret_answer:
            self.answers.append((f"{method} {path}", headers.encode() + text))
        try:
            return json.loads(text)
        except ValueError:
            return {}


@pytest.fixture
def installation(bare_environment: dict[str, str], free_port: int, tmp_path: Path) -> Iterator[Installation]:
    simulator = start("removit")
    url, log = f"http://127.0.0.1:{free_port}", tmp_path / "all.log"
    environment = {
        **bare_environment,
        "KEYTURN_TICK": "1",
        "KEYTURN_LOG_LEVEL": "DEBUG",
        "KEYTURN_EGRESS_ALLOW": simulator.host_port,
        "KEYTURN_API_RATE": "1000000/min",  # a machine that takes long is asked very often whether it is done
    }
    keyturn = [sys.executable, "-m", "keyvault.project.cli"]
    server = processes.start([*keyturn, "serve", "--port", str(free_port)], environment, log)
    try:
        processes.wait_for(lambda: processes.answers(f"{url}/readyz"), "a ready server")
        token = subprocess.run(
            [*keyturn, "token", "ann", "--admin"], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        data = Path(environment["KEYTURN_DATA"])
        built = Installation(url, data, log, token, simulator)
        built.plant("user token", token)
        yield built
    finally:
        processes.end(server)
        simulator.stop()


def _furnish(i: Installation) -> None:
    i.call("POST", "/v1/teams/", {"slug": "media", "name": "Media"})
    i.plant("management secret", i.simulator.admin_secret.expose())
    provider = {
        "slug": "sim",
        "name": "Simulated",
        "base_url": i.simulator.base_url,
        "auth": {"header": "X-API-Key", "scheme": ""},
        "driver": "http",
        "driver_config": {**management_config(), "admin_secret": i.canaries["management secret"]},
        "probe": {
            "method": "GET",
            "path": "/api/v1/status?job_id=none",
            "headers": {},
            "body": None,
            "accepted": [400, 404],
            "rejected": [401],
        },
        "errors": "flat",
        "key_affine": False,
        "max_keys": None,
    }
    made = i.call("POST", "/v1/providers/", provider)
    assert made.get("slug") == "sim", made
    i.call("POST", "/v1/services/", {"slug": "photos", "team": "media", "provider": "sim"})
    key = SimulatorClient(i.simulator.base_url).create_key("first")
    i.plant("imported secret", key.value.expose())
    made = i.call(
        "POST",
        "/v1/services/photos/keys/",
        {"environment": "prod", "secret": key.value.expose(), "provider_key_id": key.id, "policy": "fast"},
    )
    assert made.get("current") == 1, made


def _consume(i: Installation) -> str:
    i.call("POST", "/v1/consumers/", {"slug": "billing", "team": "media"})
    made = i.call("POST", "/v1/consumers/billing/tokens/", {"environment": "prod"}, secret_answer=True)
    token = i.plant("consumer token", made["token"])
    i.call(
        "POST",
        "/v1/grants/",
        {
            "consumer": "billing",
            "service": "photos",
            "environment": "prod",
            "verbs": ["read", "report", "versions"],
        },
    )
    got = i.call("GET", "/v1/keys/photos/prod/", token=token, secret_answer=True)
    assert got["key"] == i.canaries["imported secret"]
    minted = i.call("POST", "/v1/auth/access-token/", {"expires_in": 60}, token=token, secret_answer=True)
    i.plant("access token", minted["access_token"])
    i.call("GET", "/v1/auth/whoami/", token=token)
    i.call("GET", "/v1/keys/", token=token)
    return token


def _rotate(i: Installation, token: str) -> None:
    started = i.call("POST", "/v1/keys/photos/prod/rotations/", {"reason": "canaries", "policy": "fast"})
    path = f"/v1/rotations/{started['id']}/"
    processes.wait_for(lambda: i.call("GET", path)["stage"] in ("shift", "monitor"), "a verified new key")
    got = processes.wait_for(
        lambda: _second(i.call("GET", "/v1/keys/photos/prod/", token=token, secret_answer=True)),
        "the new key at a consumer",
    )
    i.plant("issued secret", got)
    i.call("POST", f"{path}abort/", {"reason": "enough"})
    told = i.call("GET", f"{path}evidence/")
    assert told["rotation"]["outcome"] == "rolled_back", told


def _second(answer: dict[str, Any]) -> str:
    return str(answer["key"]) if answer.get("version") == 2 else ""


def _make_mistakes(i: Installation, token: str) -> None:
    """Secrets in all the wrong places: none may come back, nor stay in a log."""
    wrong = i.plant("wrong secret", "sk_live_" + secrets.token_hex(20))
    spaced = i.plant("secret with a space", "sk live " + secrets.token_hex(20))
    i.call("POST", "/v1/services/photos/keys/", {"environment": "staging", "secret": spaced})
    i.call("POST", "/v1/services/photos/keys/", {"environment": "staging", "secret": [wrong]})
    i.call("POST", "/v1/services/photos/keys/", {"environment": wrong, "secret": 7})
    i.call("POST", "/v1/services/photos/keys/", {"environment": "staging", wrong: 1})
    i.call(
        "POST", "/v1/services/photos/keys/", {"environment": "dev", "secret": i.canaries["imported secret"]}
    )
    i.call("POST", "/v1/services/photos/keys/", f'{{"secret": "{wrong}"'.encode())
    i.call("POST", "/v1/teams/", {"slug": "x", "name": {"secret": wrong}})
    i.call("GET", f"/v1/keys/photos/prod/?api_key={token}", token="none")
    i.call("GET", "/v1/keys/photos/prod/", token=wrong)
    i.call("GET", "/v1/teams/", token=i.canaries["consumer token"][:-1] + "!")
    i.call("POST", "/v1/emergency/", {"leak": wrong, "mode": "replace", "reason": "r", "dry_run": True})
    for secret in (wrong, i.canaries["imported secret"], token):
        i.call("POST", "/v1/leaks/", {"secret": secret, "reason": "found in the open"})


def _look_around(i: Installation) -> None:
    for path in (
        "/v1/audit/",
        "/v1/rotations/",
        "/v1/providers/",
        "/v1/providers/sim/",
        "/v1/services/photos/keys/",
        "/v1/consumers/billing/tokens/",
        "/v1/keys/photos/prod/versions/",
        "/metrics",
        "/readyz",
        "/v1/schema/",
        "/accounts/login/",
        "/v1/nothing/",
    ):
        i.call("GET", path)


def _hunt(i: Installation) -> list[str]:
    found = []
    places = [(str(p.relative_to(i.data)), p.read_bytes()) for p in i.data.rglob("*") if p.is_file()]
    places += [("log", i.log.read_bytes()), *i.answers]
    for name, canary in i.canaries.items():
        for form in disguises(canary):
            found += [f"{name} in {where}" for where, content in places if form in content]
    return sorted(set(found))


def test_no_canary_is_anywhere_but_in_custody(installation: Installation) -> None:
    i = installation
    _furnish(i)
    token = _consume(i)
    _rotate(i, token)
    _make_mistakes(i, token)
    _look_around(i)
    link = re.search(rb"/setup/([A-Za-z0-9_-]{20,})/", i.log.read_bytes())
    assert link is not None
    # The link is printed once for the person at the terminal, and opened; the log of requests omits it.
    i.call("GET", f"/setup/{link.group(1).decode()}/", secret_answer=True)
    assert i.log.read_bytes().count(link.group(1)) == 1, "the set-up link is logged"
    assert len(i.canaries) == 8
    assert _hunt(i) == []


def test_the_hunt_finds_what_is_there(tmp_path: Path) -> None:
    canary = Secret("sk_live_" + secrets.token_hex(20)).expose()
    for form in disguises(canary):
        i = Installation("", tmp_path, tmp_path / "log", "", None, {"it": canary})  # type: ignore[arg-type]
        (tmp_path / "file").write_bytes(b"around " + form + b" around")
        (tmp_path / "log").write_bytes(b"")
        assert _hunt(i) == ["it in file"]
    (tmp_path / "file").write_bytes(b"abc " + base64.b64encode(b"12" + canary.encode() + b"34"))
    assert _hunt(i) == ["it in file"]
