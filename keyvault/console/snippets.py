"""Copy-paste snippets with the real address of a key. They name a variable for the token, never a token."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from django.conf import settings


@dataclass(frozen=True)
class Snippet:
    """``slug`` is an id in the page, ``name`` what people call the tool."""

    slug: str
    name: str
    text: str


_CURL = """\
curl -sS -H "X-API-Key: $$KEYTURN_TOKEN" \\
  "$url?instance=$$(hostname)"
"""

_PYTHON = """\
import os, socket, httpx

answer = httpx.get(
    "$url",
    params={"instance": socket.gethostname()},
    headers={"X-API-Key": os.environ["KEYTURN_TOKEN"]},
)
answer.raise_for_status()
held = answer.json()
api_key, ask_again_after = held["key"], held["refresh_after"]  # seconds
"""

_GITHUB = """\
- name: Get the key of $service
  env:
    KEYTURN_TOKEN: $${{ secrets.KEYTURN_TOKEN }}
  run: |
    key=$$(curl -sSf -H "X-API-Key: $$KEYTURN_TOKEN" "$url?format=raw")
    echo "::add-mask::$$key"
    echo "$variable=$$key" >> "$$GITHUB_ENV"
"""

_KUBERNETES = """\
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata:
  name: keyturn
spec:
  provider:
    webhook:
      url: "$origin/v1/keys/{{ .remoteRef.key }}/"
      headers:
        X-API-Key: "{{ .auth.token }}"
      result:
        jsonPath: "$$.key"
      secrets:
        - name: auth
          secretRef:
            name: keyturn-token
            key: token
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: $service
spec:
  refreshInterval: 30s
  secretStoreRef:
    name: keyturn
    kind: SecretStore
  target:
    name: $service
  data:
    - secretKey: key
      remoteRef:
        key: $service/$environment
"""

_TEMPLATES = (
    ("curl", "curl", _CURL),
    ("python", "Python", _PYTHON),
    ("github", "GitHub Actions", _GITHUB),
    ("kubernetes", "Kubernetes (External Secrets)", _KUBERNETES),
)


def key_url(service: str, environment: str) -> str:
    """Where consumers ask for this key."""
    return f"{settings.KEYTURN_URL}/v1/keys/{service}/{environment}/"


def snippets(service: str, environment: str) -> list[Snippet]:
    names = {
        "url": key_url(service, environment),
        "origin": settings.KEYTURN_URL,
        "service": service,
        "environment": environment,
        "variable": f"{service}-key".upper().replace("-", "_"),
    }
    return [Snippet(slug, name, Template(text).substitute(names)) for slug, name, text in _TEMPLATES]
